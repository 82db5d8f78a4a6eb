"""A running machine connected with our streams, until it ends and there is an exit code."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from gasang.backends.console import in_background, pass_input, pass_keys, show_output
from gasang.backends.streams import Descriptor, may_read, writer
from gasang.backends.terminal import raw_mode
from gasang.cli.command import on_terminal
from gasang.cli.report import complain
from gasang.errors import MachineDied
from gasang.machine import DebugExit, EngineFailed, Machine, Outcome, PowerOff, Reboot, Stopped, TimedOut

if TYPE_CHECKING:
    from gasang.guest.agent import Agent

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BROKEN_PIPE = 128 + 13
_GUEST_FAILED = 255


class Session:
    """The main thread only waits, so that signals are served at once; threads of the session do the rest."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        if not machine.config.vsock:
            _ = self._agent  # from the start, lest a report of the guest be missed
        self._code: int | None = None
        self._failure: BaseException | None = None

    @cached_property
    def _agent(self) -> Agent:
        """The guest's agent on serial ports."""
        return self._machine.agent

    def run_command(
        self,
        command: Sequence[str],
        *,
        typing: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        tty: bool = False,
    ) -> int:
        """Run a command by the guest's agent, our streams being its streams; return its exit code.

        Without `typing`, a terminal is no input for it; with `tty`, ours is its own. That, and a `user`, are
        for a guest with vsock.
        """
        if tty:
            return self._run_on_terminal(command, env or {}, cwd, user)
        has_input = may_read(_STDIN) and (typing or not os.isatty(_STDIN))
        by_vsock = self._machine.config.vsock
        stream = partial(self._machine.vsock_agent.stream, user=user) if by_vsock else self._agent.stream

        def work() -> None:
            self._code = stream(
                command,
                stdin=Descriptor(_STDIN) if has_input else None,
                stdout=writer(_STDOUT),
                stderr=writer(_STDERR),
                env=env,
                cwd=cwd,
            )

        return self._command_code(self._until_end(work))

    def _run_on_terminal(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, user: str | None
    ) -> int:
        agent = self._machine.vsock_agent
        with on_terminal(agent, command, env=env, cwd=cwd, user=user) as pass_on:

            def work() -> None:
                self._code = pass_on()

            outcome = self._until_end(work)
        return self._command_code(outcome)

    def _command_code(self, outcome: Outcome) -> int:
        return self._without_its_command(outcome) if self._code is None else self._code

    def on_terminal(self, *, has_shell: bool) -> int:
        """The console on our terminal, in raw mode; return the exit code of its shell, or of the machine."""
        self._agent.dismiss()
        console, show = self._machine.console, writer(_STDOUT)
        with raw_mode(_STDIN):
            in_background(partial(pass_keys, console, Descriptor(_STDIN), self._machine.stop, show))
            outcome = self._until_end(partial(show_output, console, show, threading.Event()))
        return self._of_console(outcome, has_shell=has_shell)

    def in_pipe(self, *, has_shell: bool) -> int:
        """The console as our stdin and stdout; return the exit code of its shell, or of the machine.

        `has_shell`: the default guest's shell is on the console. It gets input only once it takes some, and
        is told of its end.
        """
        self._agent.dismiss()
        console, ended = self._machine.console, threading.Event()

        def feed() -> None:
            if has_shell:
                self._agent.wait_ready()
            pass_input(console, Descriptor(_STDIN))
            if has_shell:
                ended.set()

        if may_read(_STDIN):
            in_background(feed)
        outcome = self._until_end(partial(show_output, console, writer(_STDOUT), ended))
        return self._of_console(outcome, has_shell=has_shell)

    def _until_end(self, work: Callable[[], None]) -> Outcome:
        """Do `work` in a thread, and then stop the machine, unless it has ended by itself."""

        def guarded() -> None:
            try:
                work()
            except MachineDied:
                pass  # its outcome says how
            except BrokenPipeError:
                self._code = _BROKEN_PIPE
            except BaseException as error:  # to be raised by the thread that waits
                self._failure = error
            self._machine.stop()

        thread = threading.Thread(target=guarded, name="gasang-session", daemon=True)
        thread.start()
        outcome = self._machine.wait()
        thread.join()
        if self._failure is not None:
            raise self._failure
        return outcome

    def _of_console(self, outcome: Outcome, *, has_shell: bool) -> int:
        """The exit code of a session with the console, where a shell may have had the last word."""
        agent = self._agent
        if self._code is not None:
            return self._code
        if isinstance(outcome, PowerOff) and agent.shell is not None:
            return agent.shell
        if isinstance(outcome, Reboot) and has_shell and not agent.ready:
            # A panic ends so too, before there is a console to say it on.
            complain("the guest asked for a reset before it was up")
            return _GUEST_FAILED
        if not isinstance(outcome, PowerOff | Reboot | DebugExit | Stopped):
            complain(f"the machine ended: {outcome.reason}")
        return outcome.exit_code

    def _without_its_command(self, outcome: Outcome) -> int:
        """The exit code of a machine that ended before the command in it."""
        if isinstance(outcome, PowerOff | DebugExit | Stopped):
            return outcome.exit_code
        complain(f"the machine ended: {outcome.reason}")
        if isinstance(outcome, TimedOut | EngineFailed):
            return outcome.exit_code
        tail = self._machine.console.tail()
        if tail:
            writer(_STDERR)(f"{tail}\n".encode())
        return _GUEST_FAILED
