"""SeaBIOS on our own hardware: it finds the disk, and runs a boot sector that uses its services."""

import bochs
import pytest
from guest_programs import manifest

from gasang import ConfigError, KernelError, Machine
from gasang.storage.create import create_qcow2

NAMES = ("real_mode", "pic_pit", "interprocessor", "task_switch", "cpuid_model")
PROGRAMS = [program for program in manifest() if program.name in NAMES]


@pytest.mark.parametrize("accel", ["bt", "interp"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_boot_sector_loads_a_guest_program(program, accel, built, tmp_path):
    disk = bochs.disk_of(built(program), tmp_path)
    with Machine.boot(
        bios="seabios", drives=[disk], cpus=program.cpus, cpu=program.cpu, accel=accel
    ) as machine:
        outcome = machine.wait(program.timeout)
        lines = machine.debug_console.log.decode(errors="replace").splitlines()
        assert b"Booting from Hard Disk" in machine.console.log
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert any(line.startswith("ok ") for line in lines)
    assert outcome.exit_code == program.exit


def test_without_a_disk_it_says_so():
    with Machine.boot(bios="seabios", accel="bt") as machine:
        machine.console.expect("No bootable device", timeout=60)
        assert repr(machine).startswith(f"<Machine BIOS {machine.config.bios}, ")
        assert f"<td style='text-align:left'>{machine.config.bios}</td>" in machine._repr_html_()


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"x" * 1000, "of 1000 bytes")])
def test_what_is_no_bios_is_told(tmp_path, content, message):
    path = tmp_path / "bios"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KernelError, match=message):
        Machine.boot(bios=path)


def test_a_bios_takes_no_kernel(tmp_path):
    with pytest.raises(ConfigError, match="a BIOS boots what is on a drive"):
        Machine.boot(bios=tmp_path, append="quiet")


def test_a_disk_without_a_boot_record_is_told_by_the_bios(tmp_path):
    create_qcow2(tmp_path / "empty.qcow2", 64 << 20)
    with Machine.boot(bios="seabios", drives=[tmp_path / "empty.qcow2"], accel="bt") as vm:
        vm.console.expect("not a bootable disk", timeout=60)
        vm.console.expect("No bootable device", timeout=60)
