"""Everything that gasang raises on purpose, as one tree.

    GasangError
    ├── ConfigError          an option has a value that cannot be used (also a ValueError)
    ├── KernelError          a kernel, initrd or module file is missing, truncated, or for another machine
    ├── GuestImageError      the default guest cannot be put together
    │   ├── DownloadError    a package of it could not be fetched or verified
    │   ├── RootFilesystemError  an image or archive that it is to have as its root cannot be used
    │   └── CacheError       the cache directory cannot be used
    ├── MachineDied          the machine ended while a call was waiting for it
    ├── GuestTimeout         the guest did not answer, or a command did not end, in time (also a TimeoutError)
    ├── GuestCommandFailed   `run(check=True)`: the command's exit code was not 0
    ├── GuestAgentError      the guest's agent refused a request, or no agent runs in this guest
    ├── GuestFileError       a file of the guest's cannot be read, written or copied
    ├── SnapshotError        a snapshot cannot be made, is damaged, or is of a machine that cannot be had here
    └── VmxError             VMX operation from Python cannot do what was asked
        ├── VmInstructionError   a VMX instruction failed, with the number that the manual gives the error
        ├── VmEntryFailed    a VM entry failed a check of the manual's
        └── VmxTimeout       the guest did not exit in time (also a TimeoutError)

Each message says what was wrong, with which value, and what to do about it, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence


class GasangError(Exception):
    """The root of the tree: catch it to catch everything that gasang raises on purpose."""


class ConfigError(GasangError, ValueError):
    """An option has a value that cannot be used."""


class KernelError(GasangError):
    """A kernel, initrd or module cannot be booted: missing, truncated, for another machine, not a kernel."""


class GuestImageError(GasangError):
    """The default guest cannot be put together."""


class DownloadError(GuestImageError):
    """A package of the default guest could not be fetched, or is not what its index promises."""


class RootFilesystemError(GuestImageError):
    """A container image or archive is damaged, of no known kind, or for another machine."""


class CacheError(GuestImageError):
    """The cache directory cannot be made, read or written."""


class MachineDied(GasangError):  # noqa: N818 - the name says what happened
    """The machine ended while a call was waiting for it.

    `reason` is one short phrase ("triple fault", "power-off", "stopped"); `console_tail` is the end of what
    the guest printed on its console, as text.
    """

    def __init__(self, reason: str, console_tail: str = "") -> None:
        super().__init__(reason, console_tail)
        self.reason = reason
        self.console_tail = console_tail

    def __str__(self) -> str:
        message = f"the machine ended: {self.reason}"
        if not self.console_tail:
            return message
        return f"{message}; the end of its console:\n{self.console_tail}"


class GuestTimeout(GasangError, TimeoutError):  # noqa: N818 - the name says what happened
    """The guest did not answer, or a command did not end, in time.

    `stdout` and `stderr` hold what the command wrote until then; for a console, `stdout` is what was read.
    """

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class GuestCommandFailed(GasangError):  # noqa: N818 - the name says what happened
    """A command that ran with `check=True` ended with an exit code other than 0."""

    def __init__(
        self, command: str | Sequence[str], returncode: int, *, stdout: bytes = b"", stderr: bytes = b""
    ) -> None:
        super().__init__(command, returncode)
        self.command = command
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr

    def __str__(self) -> str:
        return f"command {self.command!r} returned {self.returncode} in the guest"


class GuestAgentError(GasangError):
    """The guest's agent refused a request, or this guest runs no agent."""


class GuestFileError(GasangError):
    """A file of the guest's cannot be read, written or copied: its `path`, the guest's `errno` and text."""

    def __init__(self, path: str, number: int, text: str) -> None:
        super().__init__(path, number, text)
        self.path = path
        self.errno = number
        self.text = text

    def __str__(self) -> str:
        return f"{self.path} in the guest: {self.text}"


class SnapshotError(GasangError):
    """A snapshot that cannot be made, is damaged, or is of a machine that cannot be had here."""


class VmxError(GasangError):
    """VMX operation from Python (`gasang.vmx`) cannot do what was asked."""


class VmInstructionError(VmxError):
    """A VMX instruction failed: VMfailValid with the VM-instruction error `number` (SDM vol. 3, 31.4).

    `instruction` is its mnemonic, `name` what the error says.
    """

    def __init__(self, instruction: str, number: int, name: str) -> None:
        super().__init__(instruction, number, name)
        self.instruction = instruction
        self.number = number
        self.name = name

    def __str__(self) -> str:
        return f"{self.instruction.upper()} failed: VM-instruction error {self.number}, {self.name}"


class VmEntryFailed(VmxError):  # noqa: N818 - the name says what happened
    """A VM entry failed the check `check`: `rule` is what it demands, `section` where the manual says so.

    `group` is "controls" or "host" where VMLAUNCH or VMRESUME failed (SDM vol. 3, 27.2), "guest" where the
    entry failed late, told as a VM exit (27.3, 27.8).
    """

    def __init__(self, check: str, group: str, section: str, rule: str) -> None:
        super().__init__(check, group, section, rule)
        self.check = check
        self.group = group
        self.section = section
        self.rule = rule

    def __str__(self) -> str:
        whose = {"controls": "a control field", "host": "the host's state", "guest": "the guest's state"}
        return (
            f"VM entry failed, {whose[self.group]} ({self.check}): it is demanded that {self.rule} "
            f"(SDM vol. 3, {self.section})"
        )


class VmxTimeout(VmxError, TimeoutError):  # noqa: N818 - the name says what happened
    """The guest caused no VM exit within the time or the instructions allowed; `Processor.run` goes on with
    it."""
