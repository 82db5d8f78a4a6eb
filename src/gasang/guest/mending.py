"""What a guest that was restored or forked has that is another's, mended: clock, random numbers, names."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gasang.errors import GuestAgentError

if TYPE_CHECKING:
    from gasang.config import Folder
    from gasang.guest.agent import Agent
    from gasang.guest.vsock_agent import VsockAgent

_TOOLS = "/run/gasang/bin:/usr/bin"
"""Where the guest has programs of ours, whatever its root filesystem is."""

_PATIENCE = 60.0
"""Seconds that an agent gets."""


def mend(vsock: VsockAgent | None, serial: Agent | None, hostname: str | None, mac: bytes = b"") -> None:
    """Mend a guest by the agent that it has, if it has one.

    Behind vsock it is told the time, gets random numbers that its kernel takes at once, a host name, a
    machine-id, and `mac` as the address of its network device. On serial ports: the time, and random numbers
    that are stirred in. Raises `GasangError`.
    """
    if vsock is not None:
        name = hostname or f"gasang-{os.urandom(4).hex()}"
        vsock.repair(hostname=name, machine_id=os.urandom(16).hex(), mac=mac)
    elif serial is not None:
        script = f"date -s @{time.time():.0f}; cat >/dev/urandom"
        serial.run(script, input=os.urandom(64), timeout=_PATIENCE)


_MOUNT_OPTIONS = {"virtiofs": "", "9p": ",trans=virtio,version=9p2000.L,msize=512000,cache=mmap"}
"""A message is as long as the driver's ring has pages for; files can be mapped to be written."""


def mount(vsock: VsockAgent, folders: Sequence[Folder]) -> None:
    """Mount the machine's folders where they say. Raises `GasangError`."""
    for number, folder in enumerate(folders):
        if not folder.guest:
            continue
        options = ("ro" if folder.readonly else "rw") + _MOUNT_OPTIONS[folder.kind]
        script = f'mkdir -p "$1" && mount -t {folder.kind} -o {options} gasang{number} "$1"'
        words = ["sh", "-c", script, "sh", folder.guest]
        done = vsock.run(words, timeout=_PATIENCE, env={"PATH": _TOOLS}, cwd="/", user="0")
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip()
            raise GuestAgentError(f"{folder.guest} cannot be mounted: {why}")
