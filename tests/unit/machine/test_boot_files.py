"""Files that are missing, empty or not files; and QEMU's list of modules."""

import pytest

from gasang.config import MachineConfig
from gasang.errors import KernelError
from gasang.firmware.memory_map import memory_map
from gasang.machine.boot_files import open_boot_files, split_modules
from gasang.units import MIB


def open_files(kernel, **options):
    config = MachineConfig(kernel=kernel, **options)
    return open_boot_files(config, kernel, memory_map(64 * MIB), 0xE0000)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("a", ["a"]),
        ("a one two,b three", ["a one two", "b three"]),
        ("a x=1,,2,b", ["a x=1,2", "b"]),
        ("dir,,name/a", ["dir,name/a"]),
        ("", []),
    ],
)
def test_qemus_list_of_modules(text, modules):
    assert split_modules(text) == modules


def test_a_string_is_a_list_of_modules_for_a_multiboot_kernel(kernel, tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    request = open_files(kernel, initrd=f"{tmp_path}/a one,{tmp_path}/b")
    assert [(bytes(content), line) for content, line in request.modules] == [
        (b"a", f"{tmp_path}/a one"),
        (b"b", f"{tmp_path}/b"),
    ]
    assert request.initrd is None


def test_a_string_is_a_file_for_other_kernels(tmp_path):
    kernel, initrd = tmp_path / "kernel", tmp_path / "a,b"
    kernel.write_bytes(b"anything else")
    initrd.write_bytes(b"ramdisk")
    assert bytes(open_files(kernel, initrd=str(initrd)).initrd) == b"ramdisk"


def test_modules_have_a_file_and_arguments(kernel, tmp_path):
    (tmp_path / "m").write_bytes(b"module")
    ((content, line),) = open_files(kernel, modules=(f"{tmp_path}/m a b",)).modules
    assert (bytes(content), line) == (b"module", f"{tmp_path}/m a b")


def test_an_initrd_may_be_bytes(kernel):
    assert bytes(open_files(kernel, initrd=b"ramdisk").initrd) == b"ramdisk"


def test_unusable_kernels_say_why(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    for path, message in [
        (tmp_path / "missing", "kernel .*missing does not exist: check --kernel"),
        (tmp_path, "is a directory: --kernel takes a file"),
        (empty, "is empty"),
    ]:
        with pytest.raises(KernelError, match=message):
            open_files(path)


def test_unusable_initrds_and_modules_say_which(kernel, tmp_path):
    with pytest.raises(KernelError, match=r"initrd .*missing does not exist: check --initrd"):
        open_files(kernel, initrd=tmp_path / "missing")
    with pytest.raises(KernelError, match=r"module .*missing does not exist: check --module"):
        open_files(kernel, modules=(f"{tmp_path}/missing arg",))
