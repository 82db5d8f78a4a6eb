"""The guest's agent for guests of others: its program, its service, and both as a Debian package (deb(5))."""

from __future__ import annotations

import gzip
import io
import tarfile
from importlib import metadata
from importlib.resources import files

from gasang.errors import GuestImageError

AGENT = "gasang-agent"
"""That program: in this package where it was built, in the guest's /usr/bin."""

_DESCRIPTION = "gasang's agent: commands, files and repair, for the host of this virtual machine"

SERVICE = f"""\
[Unit]
Description={_DESCRIPTION}
ConditionVirtualization=vm

[Service]
ExecStart=/usr/bin/{AGENT}
Restart=always
RestartSec=1
WorkingDirectory=/root
Environment=HOME=/root

[Install]
WantedBy=multi-user.target
"""
MODULES = "vmw_vsock_virtio_transport\n"
"""What systemd-modules-load is to load: the agent listens as soon as it is up."""

_CONTROL = f"""\
Package: gasang-agent
Version: {{version}}
Architecture: amd64
Maintainer: gasang
Section: admin
Priority: optional
Description: {_DESCRIPTION}
 It listens behind a virtio socket, and serves nobody but the host.
"""
_AFTER = f"""\
#!/bin/sh
set -e
if [ "$1" = configure ] && command -v systemctl >/dev/null; then
    systemctl enable {AGENT}.service || true
    [ ! -d /run/systemd/system ] || systemctl restart {AGENT}.service || true
fi
"""
_BEFORE_REMOVAL = f"""\
#!/bin/sh
set -e
if [ "$1" = remove ] && command -v systemctl >/dev/null; then
    systemctl disable --now {AGENT}.service || true
fi
"""


def agent_program() -> bytes:
    """The agent, a static program. Raises `GuestImageError` if gasang was built without it."""
    program = files("gasang.guest").joinpath(AGENT)
    if not program.is_file():
        raise GuestImageError(
            "gasang was built without the guest's agent: build it with make, or do without vsock"
        )
    return program.read_bytes()


def agent_package() -> bytes:
    """The agent as a package for dpkg. Raises as `agent_program` does."""
    control = _tar(
        [
            ("./control", _CONTROL.format(version=metadata.version("gasang")).encode(), 0o644),
            ("./postinst", _AFTER.encode(), 0o755),
            ("./prerm", _BEFORE_REMOVAL.encode(), 0o755),
        ]
    )
    data = _tar(
        [
            (f"./usr/bin/{AGENT}", agent_program(), 0o755),
            (f"./usr/lib/systemd/system/{AGENT}.service", SERVICE.encode(), 0o644),
            (f"./usr/lib/modules-load.d/{AGENT}.conf", MODULES.encode(), 0o644),
        ]
    )
    members = (("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.gz", data))
    return b"!<arch>\n" + b"".join(_member(name, content) for name, content in members)


def _member(name: str, content: bytes) -> bytes:
    """A member of an ar archive, dated 1970."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)


def _tar(members: list[tuple[str, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content, mode in members:
            for at, letter in enumerate(path):
                if letter == "/" and path[:at] not in archive.getnames():
                    directory = tarfile.TarInfo(path[:at])
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(directory)
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
