"""The ACPI tables: checksums, the chain from the RSDP, and what ACPICA's own tools say of them."""

import shutil
import struct
import subprocess

import pytest

from gasang.firmware.memory_map import FIRMWARE_END, FIRMWARE_START
from gasang.firmware.places import IO_APIC, SLEEP_TYPE_OFF
from gasang.firmware.tables import acpi_tables


class Memory:
    """The tables where the guest would find them."""

    def __init__(self, cpus):
        self.tables = acpi_tables(cpus)

    def at(self, address, length):
        start = address - self.tables.address
        return self.tables.content[start : start + length]

    def table(self, address):
        return self.at(address, struct.unpack("<I", self.at(address + 4, 4))[0])

    def by_signature(self):
        xsdt = self.table(struct.unpack_from("<Q", self.at(self.tables.rsdp_address, 36), 24)[0])
        tables = [self.table(address) for (address,) in struct.iter_unpack("<Q", xsdt[36:])]
        found = {table[:4]: table for table in [xsdt, *tables]}
        dsdt, facs = (
            struct.unpack_from("<Q", found[b"FACP"], 140)[0],
            struct.unpack_from("<I", found[b"FACP"], 36)[0],
        )
        return {**found, b"DSDT": self.table(dsdt), b"FACS": self.table(facs)}


@pytest.fixture(scope="module")
def tables():
    return Memory(cpus=4).by_signature()


def test_the_rsdp_is_where_systems_look_and_adds_up():
    memory = Memory(cpus=1)
    rsdp = memory.at(memory.tables.rsdp_address, 36)
    assert memory.tables.rsdp_address % 16 == 0
    assert FIRMWARE_START <= memory.tables.rsdp_address < FIRMWARE_END
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) % 256 == 0
    assert sum(rsdp) % 256 == 0


@pytest.mark.parametrize("signature", [b"XSDT", b"FACP", b"APIC", b"HPET", b"DSDT"])
def test_table_adds_up_to_zero(tables, signature):
    assert sum(tables[signature]) % 256 == 0


def test_facs_is_aligned_and_of_its_length(tables):
    assert struct.unpack_from("<I", tables[b"FACP"], 36)[0] % 64 == 0
    assert len(tables[b"FACS"]) == 64


def test_madt_lists_every_processor_the_io_apic_and_the_overrides(tables):
    madt = tables[b"APIC"]
    records, position = [], 44
    while position < len(madt):
        records.append(madt[position : position + madt[position + 1]])
        position += madt[position + 1]
    processors = [record for record in records if record[0] == 0]
    assert [record[3] for record in processors] == [0, 1, 2, 3]
    (io_apic,) = (record for record in records if record[0] == 1)
    assert struct.unpack_from("<II", io_apic, 4) == (IO_APIC, 0)
    overrides = [struct.unpack_from("<BBIH", record, 2) for record in records if record[0] == 2]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0b1101)]
    assert [record for record in records if record[0] == 4] == [bytes([4, 6, 0xFF, 0, 0, 1])]


def test_fadt_says_no_keyboard_controller_and_no_vga(tables):
    boot_architecture = struct.unpack_from("<H", tables[b"FACP"], 109)[0]
    assert not boot_architecture & 1 << 1
    assert boot_architecture & 1 << 2


def test_tables_of_the_largest_machine_fit():
    assert len(acpi_tables(64).content) < FIRMWARE_END - FIRMWARE_START


@pytest.fixture(scope="module")
def iasl():
    return shutil.which("iasl") or pytest.skip("iasl is not installed (Debian: acpica-tools)")


@pytest.mark.parametrize("signature", [b"FACP", b"APIC", b"HPET", b"DSDT", b"XSDT", b"FACS"])
def test_iasl_reads_every_table(tables, signature, iasl, tmp_path):
    (tmp_path / "table.aml").write_bytes(tables[signature])
    result = _run(iasl, "-d", "table.aml", cwd=tmp_path)
    assert (tmp_path / "table.dsl").exists(), result
    complaints = [line for line in result.splitlines() if "rror" in line or "arning" in line]
    assert complaints == []


def test_iasl_compiles_what_it_read_from_the_dsdt(tables, iasl, tmp_path):
    (tmp_path / "dsdt.aml").write_bytes(tables[b"DSDT"])
    _run(iasl, "-d", "dsdt.aml", cwd=tmp_path)
    source = (tmp_path / "dsdt.dsl").read_text()
    assert "0 Errors, 0 Warnings" in _run(iasl, "dsdt.dsl", cwd=tmp_path)
    assert (
        f"Name (\\_S5, Package (0x04)  // _S5_: S5 System State\n    {{\n        0x{SLEEP_TYPE_OFF:02X}"
        in source
    )
    for number, base, irq in [(1, 0x3F8, 4), (2, 0x2F8, 3), (3, 0x3E8, 6), (4, 0x2E8, 7)]:
        port = source.partition(f"Device (COM{number})")[2].partition("Device (")[0]
        assert f"0x{base:04X},             // Range Minimum" in port
        assert f"{{{irq}}}" in port


def _run(*command, cwd):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return result.stdout + result.stderr
