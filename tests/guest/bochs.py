"""Runs guest programs in Bochs, which has VMX: `python bochs.py KERNEL [CPUS]`, or `run` from a test."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("boot_sector.S")
MODEL = "corei7_skylake_x"
SECTOR, SECTORS_AT_ONCE = 512, 64
SECTORS_A_CYLINDER = 16 * 63
SHARE = Path("/usr/share/bochs")
_ROUNDS = 502
_OURS = ("ok ", "FAIL ", "skip: ", "GAVE UP", "unexpected ", "     at ")
_END = b"Shutdown port"
_CONFIGURATION = """
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, parallel=0, serial=0, extfpuirq=0, gameport=0
display_library: rfb, options="timeout=0"
memory: guest=64, host=64
cpu: model={model}, count={cpus}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0
romimage: file={share}/BIOS-bochs-latest
vgaromimage: file={share}/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={disk}, mode=flat, cylinders={cylinders}, heads=16, spt=63
boot: disk
port_e9_hack: enabled=1
log: {log}
panic: action=report
error: action=report
info: action=ignore
"""


def missing() -> str | None:
    """What is not installed, if there is something."""
    if tool := next((tool for tool in ("bochs", "gcc", "ld") if shutil.which(tool) is None), None):
        return tool
    return None if SHARE.is_dir() else str(SHARE)


def disk_of(kernel: Path, directory: Path) -> Path:
    """A disk that boots the program."""
    image, entry = _loaded(kernel)
    sector = bytearray(_boot_sector(directory))
    rounds = -(-len(image) // (SECTOR * SECTORS_AT_ONCE))
    struct.pack_into("<HI", sector, _ROUNDS, rounds, entry)
    content = bytes(sector) + image
    cylinders = rounds * SECTORS_AT_ONCE // SECTORS_A_CYLINDER + 1
    disk = directory / "disk"
    disk.write_bytes(content.ljust(cylinders * SECTORS_A_CYLINDER * SECTOR, b"\0"))
    return disk


def _loaded(kernel: Path) -> tuple[bytes, int]:
    """What is in memory from 1 MiB on, and where the program begins."""
    elf = kernel.read_bytes()
    entry, headers = struct.unpack_from("<II", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 42)
    image = bytearray()
    for header in range(headers, headers + size * count, size):
        kind, offset, address, _, length = struct.unpack_from("<5I", elf, header)
        if kind == 1 and length:
            start = address - 0x100000
            image.extend(bytes(max(0, start - len(image))))
            image[start : start + length] = elf[offset : offset + length]
    return bytes(image), entry


def _boot_sector(directory: Path) -> bytes:
    thing, sector = directory / "boot_sector.o", directory / "boot_sector"
    layout = ("-e", "0x7c00", "-Ttext", "0x7c00", "--oformat", "binary")
    subprocess.run(("gcc", "-m32", "-c", SOURCE, "-o", thing), check=True)
    subprocess.run(("ld", "-m", "elf_i386", *layout, "-o", sector, thing), check=True)
    return sector.read_bytes()


def run(kernel: Path, *, cpus: int = 1, seconds: float = 60) -> tuple[list[str], bool]:
    """The lines that a program prints, and whether it came to its end."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        disk = disk_of(kernel, directory)
        configuration = directory / "configuration"
        configuration.write_text(
            _CONFIGURATION.format(
                model=MODEL,
                cpus=cpus,
                share=SHARE,
                disk=disk,
                cylinders=disk.stat().st_size // SECTOR // SECTORS_A_CYLINDER,
                log=directory / "log",
            )
        )
        # Where it has a debugger, that waits for commands.
        commands = directory / "commands"
        commands.write_text("continue\nquit\n")
        command = ("bochs", "-q", "-f", configuration, "-rc", commands)
        try:
            finished = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds
            )
            output, errors = finished.stdout, finished.stderr
        except subprocess.TimeoutExpired as expired:
            output, errors = expired.stdout or b"", b""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.startswith(_OURS)]
    return lines, _END in output + errors


def main(arguments: list[str]) -> None:
    """Run one program."""
    lines, ended = run(Path(arguments[0]), cpus=int(arguments[1]) if arguments[1:] else 1)
    print(*lines, "" if ended else "It did not come to its end.", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
