"""Guests that are hosts: hypervisors from Debian's packages in initial RAM disks, each with guests to run.

For tests and benchmarks; `gasang.guest` fetches and caches what they are made of.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gasang
from gasang.guest import (
    APPEND,
    CLOUD_KERNEL,
    GENERIC_KERNEL,
    default_initrd,
    fetch_files,
    fetch_kernel,
    fetch_modules,
    fetch_with_dependencies,
)
from gasang.guest.closure import with_directories
from gasang.guest.deb import read_package
from gasang.guest.initramfs import Directory, Entry, File

KVM_MODULES = ("kvm-intel",)
DISK_MODULES = ("virtio-pci", "virtio-blk")

QEMU_PACKAGE = "qemu-system-x86"
QEMU_FILES = (
    "usr/bin/qemu-system-x86_64",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/qboot.rom",
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios-microvm.bin",
)

PYTHON_PACKAGES = ("python3", "python3-pyelftools", "python3-lz4", "python3-zstandard", "python3-pytest")
"""Python, what gasang needs of others, and what runs its tests."""

NOT_TO_RUN = {
    "dpkg", "gcc-12-base", "libacl1", "libmd0", "libpcre2-8-0", "libselinux1", "mailcap", "media-types",
    "mime-support", "perl", "tar",
}  # fmt: skip
"""What these depend on to be installed."""

ASSEMBLER = ("usr/bin/as", "usr/bin/ld", "usr/bin/objcopy")
"""For the tests that assemble guests."""

XEN = "xen-4.17-amd64"
XEN_PACKAGE = f"xen-hypervisor-{XEN.removeprefix('xen-')}"
XEN_TOOLS_PACKAGE = "xen-utils-4.17"
XEN_PROGRAMS = "usr/lib/xen-4.17/bin"
XEN_FILES = (
    *(
        f"{XEN_PROGRAMS}/{program}"
        for program in ("xl", "xenstored", "xenconsoled", "xenconsole", "xen-init-dom0", "libxl-save-helper")
    ),
    # Threads that are cancelled open it.
    "lib/x86_64-linux-gnu/libgcc_s.so.1",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-read",
)
XEN_MODULES = ("xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc")
"""Of the generic kernel: the cloud kernel is no Dom0."""

GUEST_INIT = """\
#!/bin/busybox sh
# The first process of a guest's guest: says what it sees, runs the lines that it is sent, and powers off.
/bin/busybox mount -a
export PATH=/usr/bin:/bin
console=$(sed 's/.*console=\\([a-zA-Z0-9]*\\).*/\\1/' /proc/cmdline)
exec <>/dev/$console >&0 2>&1
echo "up: $(uname -sr), $(nproc) processors"
dmesg | grep -o 'Hypervisor detected: .*'
cat /sys/hypervisor/guest_type 2>/dev/null
dmesg | grep -iE 'BUG:|WARNING:|Oops|detected stall|lockup|Call Trace'
seq 100000 | sha256sum
[ -z "$END" ] || { echo "end: $END"; $END; }
while read -r line; do sh -c "$line"; done
"""
"""END on its kernel's command line is a command that ends it."""


@dataclass(frozen=True)
class Host:
    """What boots a guest that is a host."""

    kernel: Path
    initrd: bytes


def kvm(more: Iterable[Entry] = ()) -> Host:
    """The default guest with the modules of KVM, and `more`."""
    return Host(fetch_kernel(CLOUD_KERNEL), default_initrd([*fetch_modules(KVM_MODULES), *more]))


def qemu() -> Host:
    """The default guest with KVM, QEMU, and in /guest the kernel and initial RAM disk of its guest."""
    return kvm([*fetch_files(QEMU_PACKAGE, QEMU_FILES), *_guest_files()])


def qemu_command(
    append: str = APPEND, cpus: int = 1, cpu: str = "host", machine: str = "microvm,rtc=on"
) -> str:
    """What runs the guest in `qemu`'s host, its console on the standard streams."""
    return shlex.join((
        "qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", cpu, "-smp", str(cpus),
        "-m", "512M", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", "/guest/vmlinuz", "-initrd", "/guest/initrd", "-append", append,
    ))  # fmt: skip


def gasang_itself(tests: Path) -> Host:
    """The default guest with KVM, Debian's Python and this package; in /guest the parts of its guest, and in
    /opt/tests some of the tests in `tests`."""
    packages = dict.fromkeys(
        file for name in PYTHON_PACKAGES for file in fetch_with_dependencies(name, NOT_TO_RUN)
    )
    return kvm(
        [
            *(entry for package in packages for entry in read_package(package)),
            *fetch_files("binutils", ASSEMBLER),
            *_tree(Path(gasang.__file__).parent, "opt/gasang"),
            *_tree(tests / "seam", "opt/tests/seam"),
            Directory(f"opt/gasang-{gasang.__version__}.dist-info"),
            File(f"opt/gasang-{gasang.__version__}.dist-info/METADATA", _METADATA.encode()),
            *_guest_files(),
        ]
    )


_METADATA = f"""\
Metadata-Version: 2.1
Name: gasang
Version: {gasang.__version__}
"""


def _tree(root: Path, where: str) -> list[Entry]:
    """The files below `root`, to be at `where`."""
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return with_directories(File(f"{where}/{path.relative_to(root)}", path.read_bytes()) for path in files)


@dataclass(frozen=True)
class XenHost:
    """What boots Xen: its own file, and the modules that are Dom0."""

    hypervisor: Path
    modules: tuple[str, ...]


def xen(directory: Path, domains: Iterable[str] = ("pvh", "pv")) -> XenHost:
    """Xen, and the generic kernel as Dom0 with Xen's tools, written to `directory`.

    In Dom0, /guest has a configuration for `xl create` of each type of `domains`; /guest/start starts what
    `xl` needs.
    """
    (hypervisor,) = (
        entry for entry in fetch_files(XEN_PACKAGE, (f"boot/{XEN}.gz",)) if isinstance(entry, File)
    )
    entries = [
        *fetch_modules(XEN_MODULES, GENERIC_KERNEL),
        *fetch_files(XEN_TOOLS_PACKAGE, XEN_FILES),
        *_guest_files(),
        File("guest/start", _XEN_START.encode(), 0o755),
        *(File(f"guest/{domain}.cfg", _XEN_DOMAIN.format(domain).encode()) for domain in domains),
        Directory("etc/xen"),
        File("etc/xen/xl.conf", b""),
    ]
    files = {"xen.gz": hypervisor.content, "initrd": default_initrd(entries)}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    # Xen's own console is the first serial port, and Dom0's is Xen's: no shell of the default guest's on it.
    dom0 = f"{fetch_kernel(GENERIC_KERNEL)} console=hvc0 GASANG_SHELL=no"
    return XenHost(directory / "xen.gz", (dom0, str(directory / "initrd")))


_XEN_START = f"""\
#!/bin/sh -e
for module in {" ".join(XEN_MODULES)}; do modprobe $module; done
mkdir -p /dev/pts /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/lock /var/log/xen/console
ln -s /run /var/run
mount -t devpts devpts /dev/pts
mount -t xenfs xenfs /proc/xen
for program in /{XEN_PROGRAMS}/*; do ln -s $program /usr/bin/; done
xenstored
while [ ! -S /run/xenstored/socket ]; do sleep 0.1; done
xen-init-dom0
xenconsoled --log=all --log-dir=/var/log/xen/console
"""

_XEN_DOMAIN = """\
name = "{0}"
type = "{0}"
memory = 192
kernel = "/guest/vmlinuz"
ramdisk = "/guest/initrd"
extra = "console=hvc0 quiet rdinit=/init.guest"
"""


def _guest_files() -> Iterator[Entry]:
    yield Directory("guest")
    yield File("guest/vmlinuz", fetch_kernel(CLOUD_KERNEL).read_bytes())
    more = [*fetch_modules(DISK_MODULES), File("init.guest", GUEST_INIT.encode(), 0o755)]
    yield File("guest/initrd", default_initrd(more))
