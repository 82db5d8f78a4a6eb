"""Opens what a machine boots: kernel, initrd and modules, from files that may be missing, empty or huge."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path

from gasang.config import MachineConfig
from gasang.errors import KernelError
from gasang.firmware.memory_map import MemoryRange
from gasang.loaders import BootRequest, is_multiboot, unwrap


def open_boot_files(
    config: MachineConfig, kernel: Path, memory_map: Sequence[MemoryRange], rsdp_address: int
) -> BootRequest:
    """Read the kernel and map the rest. Raises `KernelError` for a file that cannot be read, or is empty."""
    source = f"kernel {kernel}"
    content = unwrap(bytes(_map(kernel, source, "--kernel")), source)
    modules, initrd = [_open_module(each) for each in config.modules], None
    if isinstance(config.initrd, str) and is_multiboot(content, source):
        modules = [_open_module(each) for each in split_modules(config.initrd)]
    elif config.initrd is not None:
        initrd = _open_initrd(config.initrd)
    return BootRequest(
        path=kernel,
        kernel=content,
        memory_map=memory_map,
        rsdp_address=rsdp_address,
        append=config.append,
        initrd=initrd,
        modules=modules,
    )


def split_modules(text: str) -> list[str]:
    """QEMU's list of modules: "FILE ARGS,FILE ARGS", where a doubled comma stands for one."""
    parts = re.findall(r"(?:[^,]|,,)+", text)
    return [part.replace(",,", ",") for part in parts]


def _open_initrd(initrd: Path | str | bytes) -> memoryview:
    if isinstance(initrd, bytes):
        return memoryview(initrd)
    return _map(Path(initrd), f"initrd {initrd}", "--initrd")


def _open_module(module: str) -> tuple[memoryview, str]:
    """The first word is the file; the whole is the module's command line, as in QEMU and GRUB."""
    path = module.strip().partition(" ")[0]
    return _map(Path(path), f"module {path}", "--module"), module.strip()


def _map(path: Path, source: str, option: str) -> memoryview:
    """The file's content, mapped: nothing is read before it is used, and nothing twice."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise KernelError(f"{source} does not exist: check {option}") from None
    except IsADirectoryError:
        raise KernelError(f"{source} is a directory: {option} takes a file") from None
    except ValueError:
        raise KernelError(f"{source} is empty: check {option}") from None
    except OSError as error:
        raise KernelError(f"{source} cannot be read: {error.strerror}") from error
