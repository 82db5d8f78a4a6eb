"""A guest that measures a device: one program of `guests/`, and the drivers that it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peers import Guest, guest_of
from user import compile_program

from gasang.guest import APPEND, CLOUD_KERNEL, default_initrd, fetch_kernel, fetch_modules
from gasang.guest.initramfs import File

_PROGRAMS = Path(__file__).with_name("guests")


@contextmanager
def guest_with(program: str, drivers: Sequence[str], kernel: str = CLOUD_KERNEL) -> Iterator[Guest]:
    """The default guest with a program in its path and modules of its kernel. Raises `BenchmarkError`."""
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        compile_program(program, Path(directory), _PROGRAMS / f"{program}.c")
        file = File(f"bin/{program}", (Path(directory) / program).read_bytes(), 0o755)
    initrd = default_initrd([*fetch_modules(("virtio-pci", *drivers), kernel), file])
    with guest_of(fetch_kernel(kernel), initrd, APPEND) as guest:
        yield guest
