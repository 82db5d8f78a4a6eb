"""A Debian userland before its first boot: packages, brought by this system's package client, as one tree.

What their scripts do is done in a guest, by root there; nothing of it on the host.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

from gasang.config import RootFilesystem
from gasang.errors import ConfigError
from gasang.guest.deb import open_data
from gasang.guest.packages import Progress, download_installation
from gasang.rootfs.erofs import ErofsWriter
from gasang.rootfs.layers import apply_layer
from gasang.rootfs.tree import Content, Inode, Tree

ARCHIVES = "var/cache/apt/archives"
_ESSENTIAL = "?narrow(?essential,?architecture(amd64))"
_ALWAYS = ("apt", "debian-archive-keyring", "ca-certificates", "?exact-name(usr-is-merged)")
"""The last one in the place of a program that merges what is merged here from the start."""
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?")
_MERGED = (b"bin", b"sbin", b"lib", b"lib64")
_SOURCES = Path("/etc/apt")

INSTALL = f"""\
set -e
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates
touch /var/lib/dpkg/status /var/lib/dpkg/available
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
dpkg --force-depends --force-unsafe-io --install /{ARCHIVES}/*.deb
rm -rf /usr/sbin/policy-rc.d /{ARCHIVES}/*.deb /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log
"""
"""What makes a userland of the tree, in a guest that has it as its root."""

EXPORT = """\
mkdir /run/gasang/whole && mount --bind / /run/gasang/whole || exit
exec tar -C /run/gasang/whole --numeric-owner --xattrs --xattrs-include='*' --sort=name -cf - .
"""
"""What writes the guest's root to its standard output: with what is below mounts, and without these."""


BOOTABLE = (
    "linux-image-cloud-amd64",
    "grub-pc",
    "initramfs-tools",
    "systemd-sysv",
    "dbus",
    "udev",
    "e2fsprogs",
    "fdisk",
    "iproute2",
)
"""What a disk needs to boot by itself, and to be made."""

WRITE_DISK = """\
set -e
printf 'label: dos\\nstart=2048, type=83, bootable\\n' | sfdisk -q /dev/vda
mkfs.ext4 -q -F -L root /dev/vda1
mkdir /run/gasang/whole /run/gasang/disk
mount --bind / /run/gasang/whole
mount /dev/vda1 /run/gasang/disk
cd /run/gasang/disk
tar -C /run/gasang/whole --numeric-owner --xattrs --xattrs-include='*' -cf - . |
    tar --numeric-owner --xattrs --xattrs-include='*' -xf -
for name in dev proc sys; do mount --bind /$name $name; done
uuid=$(blkid -s UUID -o value /dev/vda1)
echo "UUID=$uuid / ext4 errors=remount-ro,discard 0 1" >etc/fstab
echo debian >etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 debian\\n' >etc/hosts
: >etc/machine-id
chroot . passwd -q -d root
cat >etc/default/grub <<END
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
mkdir -p etc/systemd/network
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\n' >etc/systemd/network/eth0.network
chroot . systemctl -q enable systemd-networkd || true
chroot . grub-install --target=i386-pc /dev/vda
chroot . update-grub
for name in dev proc sys; do umount $name; done
cd /
umount /run/gasang/disk
sync
"""
"""What makes the guest's root a disk that boots from its own master boot record, on the first drive.

All of it is one ext4 partition. Root has no password there, and logs in on the serial console.
"""


def check_names(names: Sequence[str]) -> None:
    """Raises `ConfigError` for what is no package's name."""
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise ConfigError(f"package {name!r}: that is no package's name")


def unpacked_userland(
    names: Sequence[str], directory: Path, progress: Progress | None = None, *, more: Mapping[str, bytes] = {}
) -> RootFilesystem:
    """Debian's essential packages, apt, and `names` with what they need, unpacked as an image in `directory`.

    `more` are packages' files by their names, which need nothing. Raises `DownloadError`, `ConfigError`.
    """
    check_names(names)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        packages = download_installation((_ESSENTIAL, *_ALWAYS, *names), Path(temporary), progress)
        for name, content in more.items():
            packages.append(Path(temporary, name))
            packages[-1].write_bytes(content)
        if progress:
            progress(f"unpacking {len(packages)} packages")
        image = directory / "userland.erofs"
        with image.open("wb") as file:
            writer = ErofsWriter(file)
            writer.finish(_tree(packages, writer.store))
    return RootFilesystem(kind="erofs", path=image)


def _tree(packages: Sequence[Path], store: Callable[[IO[bytes], int], Content]) -> Tree:
    tree = Tree()
    for name in _MERGED:
        target = b"usr/" + name
        tree.add(target, Inode(stat.S_IFDIR | 0o755))
        tree.add(name, Inode(stat.S_IFLNK | 0o777, content=Content(len(target), held=target)))
    for package in packages:
        with open_data(package) as data:
            apply_layer(tree, data, store, keep_links=True)
    for package in packages:
        with package.open("rb") as file:
            content = store(file, package.stat().st_size)
        tree.add(os.fsencode(f"{ARCHIVES}/{package.name}"), _file(content))
    for place in _sources():
        text = place.read_bytes()
        tree.add(os.fsencode(place.relative_to("/")), _file(store(BytesIO(text), len(text))))
    return tree


def _file(content: Content) -> Inode:
    return Inode(stat.S_IFREG | 0o644, content=content)


def _sources() -> list[Path]:
    """Where this system's packages come from, but for places that want a password."""
    places = [_SOURCES / "sources.list", *sorted((_SOURCES / "sources.list.d").glob("*"))]
    return [each for each in places if each.is_file() and b"@" not in each.read_bytes()]
