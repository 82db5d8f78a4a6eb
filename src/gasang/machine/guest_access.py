"""What a machine lets one do in its guest, by the guest's agent: commands and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gasang.config import MachineConfig
from gasang.errors import ConfigError, GuestCommandFailed

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from gasang.guest.agent import Agent
    from gasang.guest.guest_command import Command
    from gasang.guest.guest_process import GuestProcess
    from gasang.guest.vsock_agent import VsockAgent


class GuestAccess(ABC):
    """A machine, as far as its guest's agents are concerned. Every method may be called from any thread."""

    config: MachineConfig

    @property
    @abstractmethod
    def agent(self) -> Agent:
        """The client of the agent on serial ports."""

    @property
    @abstractmethod
    def vsock_agent(self) -> VsockAgent:
        """The client of the agent behind vsock."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        input: bytes | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CompletedProcess[bytes]:
        """Run a command in the guest to its end, as `subprocess.run` would here; a string is for `sh -c`.

        `timeout` is in seconds, and includes waiting for the guest to boot. With vsock, commands of several
        threads run at the same time, and `user` names another than root. Raises `GuestTimeout` with the
        partial output after killing the command, `GuestCommandFailed` if `check` and the exit code is not 0,
        `GuestAgentError` if the command cannot be sent, and `MachineDied`.
        """
        return self.run_noting(
            None, command, timeout=timeout, input=input, check=check, env=env, cwd=cwd, user=user
        )

    def run_noting(
        self,
        started: Callable[[Command], object] | None,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        input: bytes | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CompletedProcess[bytes]:
        """`run`, for whoever may want to end it from another thread: `started` is told of a command that can
        be, by closing it."""
        if self.config.vsock:
            agent = self.vsock_agent
            result = agent.run(
                command, timeout=timeout, input=input, env=env, cwd=cwd, user=user, started=started
            )
        elif user is not None:
            raise ConfigError("a command of another user needs vsock: boot the machine with vsock=True")
        else:
            result = self.agent.run(command, timeout=timeout, input=input, env=env, cwd=cwd)
        if check and result.returncode:
            raise GuestCommandFailed(command, result.returncode, stdout=result.stdout, stderr=result.stderr)
        return result

    def popen(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        terminal: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command in the guest, as `subprocess.Popen` would here, with pipes; needs vsock.

        `terminal` is (rows, columns) of one that it gets in place of pipes; `timeout` is for the guest to be
        up. Raises `ConfigError` without vsock, `GuestTimeout`, `GuestAgentError` and `MachineDied`.
        """
        return self.vsock_agent.popen(
            command, env=env, cwd=cwd, user=user, terminal=terminal, timeout=timeout
        )

    def read(self, path: str) -> bytes:
        """A file of the guest's. Needs vsock; raises `GuestFileError`."""
        return self.vsock_agent.read(path)

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        """Replace a file of the guest's at once. It keeps its mode, or has 0644, if none is given.

        Needs vsock; raises `GuestFileError`.
        """
        self.vsock_agent.write(path, data, mode)

    def copy_in(self, host: str | Path, guest: str) -> None:
        """Copy a file or a tree into the guest: into `guest` if that is a directory, else as `guest`.

        Needs vsock; raises `GuestFileError`, and `OSError` for what cannot be read here.
        """
        self.vsock_agent.copy_in(host, guest)

    def copy_out(self, guest: str, host: str | Path) -> None:
        """Copy a file or a tree out of the guest: into `host` if that is a directory, else as `host`.

        Needs vsock; raises `GuestFileError`, and `OSError` for what cannot be written here.
        """
        self.vsock_agent.copy_out(guest, host)
