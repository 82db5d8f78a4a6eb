"""Linux kernels, compressed and raw: boot parameters, page tables, registers, and where the initrd goes."""

import pytest
from kernels import Memory, bzimage, elf, gzip, overlaps, request, vmlinux

from gasang import loaders
from gasang.errors import KernelError
from gasang.firmware.memory_map import memory_map
from gasang.loaders import SegmentRegister
from gasang.units import GIB, MIB

CODE = SegmentRegister(0x10, 0, 0xFFFFFFFF, 0xA09B)
DATA = SegmentRegister(0x18, 0, 0xFFFFFFFF, 0xC093)


def load(kernel, tmp_path, **rest):
    image = loaders.load(request(kernel, tmp_path, **rest))
    assert overlaps(image) == []
    return image, Memory(image)


@pytest.fixture(params=["bzImage", "vmlinux"])
def kernel(request):
    return bzimage(gzip(vmlinux())) if request.param == "bzImage" else vmlinux()


def test_the_kernel_is_loaded_decompressed_and_entered_at_its_entry(kernel, tmp_path):
    image, memory = load(kernel, tmp_path)
    assert memory.read(0x100_0000, 7) == b"\xf4kernel"
    assert image.registers["rip"] == 0x100_0000


def test_registers_are_those_of_the_64_bit_boot_protocol(kernel, tmp_path):
    registers = load(kernel, tmp_path)[0].registers
    assert registers["cs"] == CODE
    assert all(registers[name] == DATA for name in ("ds", "es", "ss"))
    assert registers["cr0"] & 0x8000_0001 == 0x8000_0001
    assert registers["efer"] == 0x500
    assert registers["cr4"] & 1 << 5
    assert not registers["rflags"] & 1 << 9


def test_the_descriptor_table_has_the_segments_of_the_registers(kernel, tmp_path):
    image, memory = load(kernel, tmp_path)
    gdt = image.registers["gdtr"]
    table = memory.unpack("<4Q", gdt.base)
    assert gdt.limit == 31
    assert table[2:] == (0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)


@pytest.mark.parametrize("address", [0, 0x100_0000, 0x7654_3210, 0xFFFF_FFFF])
def test_page_tables_map_four_gib_to_itself(kernel, tmp_path, address):
    image, memory = load(kernel, tmp_path)

    def entry(table, index):
        return memory.unpack("<Q", (table & ~0xFFF) + 8 * index)[0]

    pml4e = entry(image.registers["cr3"], address >> 39)
    pdpte = entry(pml4e, address >> 30 & 0x1FF)
    pde = entry(pdpte, address >> 21 & 0x1FF)
    assert pml4e & pdpte & pde & 0b11 == 0b11
    assert pde & 1 << 7
    assert pde & ~0x1F_FFFF | address & 0x1F_FFFF == address


def test_boot_parameters_lead_to_everything(kernel, tmp_path):
    image, memory = load(kernel, tmp_path, append="console=ttyS0", initrd=memoryview(b"ramdisk"))
    page = image.registers["rsi"]
    assert memory.unpack("<Q", page + 0x70) == (0xE0000,)
    assert memory.read(page + 0x1FE, 2) == b"\x55\xaa"
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert memory.read(page + 0x210, 1) == b"\xff"
    assert memory.read(page + 0x211, 1)[0] & 1
    assert memory.string(memory.unpack("<I", page + 0x228)[0]) == b"console=ttyS0"
    start, size = memory.unpack("<II", page + 0x218)
    assert memory.read(start, size) == b"ramdisk"
    assert memory.read(page + 0x1EF, 1) == b"\0", "the sentinel says that the page was cleared"


def test_the_memory_map_is_handed_on(kernel, tmp_path):
    image, memory = load(kernel, tmp_path, memory=5 * GIB)
    page = image.registers["rsi"]
    count = memory.read(page + 0x1E8, 1)[0]
    entries = [memory.unpack("<QQI", page + 0x2D0 + 20 * index) for index in range(count)]
    assert entries == [(each.start, each.length, each.type) for each in memory_map(5 * GIB)]


def test_no_initrd_means_zero_in_the_parameters(kernel, tmp_path):
    image, memory = load(kernel, tmp_path)
    assert memory.unpack("<II", image.registers["rsi"] + 0x218) == (0, 0)


def initrd_place(image, memory):
    page = image.registers["rsi"]
    low, size = memory.unpack("<II", page + 0x218)
    high, high_size = memory.unpack("<II", page + 0xC0)
    return high << 32 | low, high_size << 32 | size


@pytest.mark.parametrize(
    ("memory", "limit", "end"),
    [(64 * MIB, 0x7FFF_FFFF, 64 * MIB), (5 * GIB, 0x7FFF_FFFF, 2 * GIB), (GIB, 0x37FF_FFFF, 0x3800_0000)],
)
def test_the_initrd_is_as_high_as_the_kernel_allows(tmp_path, memory, limit, end):
    kernel = bzimage(gzip(vmlinux()), initrd_addr_max=limit)
    place = initrd_place(*load(kernel, tmp_path, memory=memory, initrd=memoryview(bytes(5000))))
    assert place == (end - 8192, 5000)


class Huge:
    """An initrd of gigabytes that takes no memory."""

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size


def test_a_large_initrd_goes_above_four_gib_if_the_kernel_can_read_it_there(tmp_path):
    request_ = request(bzimage(gzip(vmlinux())), tmp_path, memory=8 * GIB, initrd=Huge(4 * GIB))
    image = loaders.load(request_)
    small = [each for each in image.segments if each.purpose != "initrd"]
    memory = Memory(type(image)(image.protocol, small, image.registers))
    assert initrd_place(image, memory) == (5 * GIB, 4 * GIB)


@pytest.mark.parametrize(("xloadflags", "memory"), [(0b01, 8 * GIB), (0b11, 2 * GIB)])
def test_an_initrd_that_does_not_fit_is_an_error(tmp_path, xloadflags, memory):
    kernel = bzimage(gzip(vmlinux()), xloadflags=xloadflags)
    with pytest.raises(KernelError, match="the initrd of 4G does not fit in guest memory"):
        loaders.load(request(kernel, tmp_path, memory=memory, initrd=Huge(4 * GIB)))


def test_an_initrd_larger_than_memory_is_an_error(kernel, tmp_path):
    with pytest.raises(KernelError, match=r"the initrd of 65M .* give the machine more memory \(-m\)"):
        loaders.load(request(kernel, tmp_path, initrd=Huge(65 * MIB)))


def test_a_kernel_larger_than_memory_is_an_error(tmp_path):
    kernel = elf([(16 * MIB, 16 * MIB, b"x", 100 * MIB)], entry=16 * MIB)
    with pytest.raises(KernelError, match="the kernel's segment 0 goes to 0x1000000-0x7400000"):
        loaders.load(request(kernel, tmp_path))


def test_a_command_line_longer_than_the_kernel_takes_is_an_error(tmp_path):
    kernel = bzimage(gzip(vmlinux()), cmdline_size=100)
    load(kernel, tmp_path, append="x" * 100)
    with pytest.raises(KernelError, match="has 101 bytes: this kernel takes 100"):
        loaders.load(request(kernel, tmp_path, append="x" * 101))


def test_an_uncompressed_payload_is_taken_as_it_is(tmp_path):
    image, memory = load(bzimage(vmlinux()), tmp_path)
    assert image.protocol == "bzImage (uncompressed)"
    assert memory.read(0x100_0000, 1) == b"\xf4"


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (bzimage(gzip(vmlinux()))[:1100], "is truncated: it has 1100 bytes, its header promises"),
        (bzimage(gzip(vmlinux()))[:0x230], "is truncated: its 560 bytes end inside the setup header"),
        (bzimage(gzip(vmlinux()), version=0x0204), "has boot protocol 2.04: gasang needs 2.08"),
        (bzimage(gzip(vmlinux()), xloadflags=0), "is a 32-bit x86 kernel"),
        (bzimage(b""), "holds no compressed kernel"),
        (bzimage(b"\x89LZO\0\r\n\x1a\n"), "is compressed in an unknown way"),
        (bzimage(gzip(vmlinux())[:-20]), "is truncated: its gzip data ends too early"),
        (bzimage(gzip(b"not an ELF file")), "the kernel inside .*/kernel is a truncated or damaged ELF"),
    ],
)
def test_kernels_that_cannot_be_booted_say_why(kernel, message, tmp_path):
    with pytest.raises(KernelError, match=message) as caught:
        loaders.load(request(kernel, tmp_path))
    assert "\n" not in str(caught.value)


def test_debians_kernel_loads(debian_kernel, tmp_path):
    image, memory = load(debian_kernel.read_bytes(), tmp_path, memory=512 * MIB, append="console=ttyS0")
    assert image.protocol == "bzImage (LZ4)"
    assert image.registers["rip"] == 0x100_0000
    assert sum(len(each.data) for each in image.segments) > 30 * MIB
    assert memory.read(image.registers["rip"], 16) != bytes(16)
