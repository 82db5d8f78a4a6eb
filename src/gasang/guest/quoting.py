"""Any bytes as a word of shell code in printable ASCII, so that a serial line carries it unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gasang.errors import GuestAgentError

_PLAIN = re.compile(rb"[\w./:=@%+,-]+", re.ASCII)
_PRINTABLE = re.compile(rb"[ -~]*")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def quote(text: str) -> str:
    """The word that a shell with $'...' (busybox, bash, zsh) reads as the bytes of `text`.

    Text is UTF-8; bytes that are not may be given as Python gives file names (surrogate escapes).
    Raises `GuestAgentError` for a NUL, which no argument of a Unix program can hold.
    """
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise GuestAgentError(f"{text!r} contains a NUL character: no argument of a program can")
    if _PLAIN.fullmatch(data):
        return data.decode("ascii")
    if _PRINTABLE.fullmatch(data) and b"'" not in data:
        return f"'{data.decode('ascii')}'"
    return "$'" + "".join(map(_escape, data)) + "'"


def script(command: str | Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> str:
    """Shell code that becomes `command`, in a session of its own: a string is for `sh -c`.

    `env` is added to the guest's environment. A `cwd` that cannot be entered is 126, "cannot run".
    Raises `GuestAgentError` for an empty command and for names that the shell cannot export.
    """
    words = ["sh", "-c", command] if isinstance(command, str) else list(command)
    if not words:
        raise GuestAgentError("the command is empty: give a program's name, or a string for sh -c")
    steps = []
    if cwd is not None:
        steps.append(f"cd -- {quote(cwd)} || exit 126")
    for name, value in (env or {}).items():
        if not _NAME.fullmatch(name):
            raise GuestAgentError(f"environment variable {name!r} is not a name that a shell can export")
        steps.append(f"export {name}={quote(value)}")
    steps.append("exec setsid " + " ".join(map(quote, words)))
    return "; ".join(steps)


def _escape(byte: int) -> str:
    if byte in b"\\'":
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
