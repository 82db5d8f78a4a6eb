"""EPT, bitmaps, and the guest's memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gasang import vmx
from gasang.vmx import ExitReason

MIB = 1 << 20
STORE = "a20020 f4"  # mov [0x2000], al; hlt
LOAD = "a00020 f4"


@pytest.fixture
def quick():
    with vmx.Processor(memory="2M") as cpu:
        yield cpu


def test_ram_is_mapped_to_itself(quick):
    ept = quick.vmcs().ept
    assert repr(ept).endswith(": 0x0-0x9ffff, 0xc0000-0x1fffff>")
    page = ept.walk(0x12345)
    assert (page.guest_physical, page.physical, page.size) == (0x12000, 0x12000, 0x1000)
    assert (page.read, page.write, page.execute, page.memory_type) == (True, True, True, "write-back")
    assert ept.walk(0xA0000) is None
    assert ept.walk(2 * MIB) is None, "nothing of the hypervisor's"


def test_large_pages_are_used_and_split():
    with vmx.Processor(memory="8M") as cpu:
        ept = cpu.vmcs().ept
        assert ept.walk(4 * MIB).size == 2 * MIB
        ept.protect(4 * MIB + 0x3000, 0x1000, write=False)
        assert [ept.walk(4 * MIB + at).write for at in (0x2000, 0x3000, 0x4000)] == [True, False, True]
        assert ept.walk(4 * MIB + 0x4000).physical == 4 * MIB + 0x4000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["map", "unmap", "protect"]),
            st.integers(0, 1100),
            st.integers(1, 600),
            st.booleans(),
        ),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_tables_say_what_they_were_told(actions):
    """Against a dictionary of pages."""
    with vmx.Processor(memory="64K") as cpu:
        ept, known = cpu.vmcs().ept, {}
        ept.unmap(0, 64 << 10)
        for action, first, count, flag in actions:
            pages = range(first, first + count)
            if action == "map":
                ept.map(first << 12, 0x20_0000 + (first << 12), count << 12, write=flag)
                known |= {page: (0x200 + page, flag) for page in pages}
            elif action == "unmap":
                ept.unmap(first << 12, count << 12)
                known = {page: what for page, what in known.items() if page not in pages}
            elif all(page in known for page in pages):
                ept.protect(first << 12, count << 12, write=flag)
                known |= {page: (known[page][0], flag) for page in pages}
        for page in range(0, 1800, 7):
            found = ept.walk(page << 12)
            told = (
                None
                if found is None
                else (found.physical + (page << 12) - found.guest_physical >> 12, found.write)
            )
            assert told == known.get(page)


@pytest.mark.parametrize(
    ("code", "allowed", "kind"),
    [
        (STORE, {"write": False}, ("write", (True, False, True))),
        (STORE, {"write": False, "read": False, "execute": False}, ("write", (False, False, False))),
        (LOAD, {"write": False, "read": False}, ("read", (False, False, True))),
    ],
)
def test_an_access_that_ept_forbids_is_told(cpu, guest, code, allowed, kind):
    vmcs = guest(code)
    vmcs.ept.protect(0x2000, 0x1000, **allowed)
    violation = cpu.launch(vmcs).ept_violation
    assert (violation.guest_physical, violation.guest_linear) == (0x2000, 0x2000)
    assert (violation.read, violation.write, violation.fetch) == (
        kind[0] == "read",
        kind[0] == "write",
        False,
    )
    assert (violation.readable, violation.writable, violation.executable) == kind[1]
    assert not violation.translation
    vmcs.ept.protect(0x2000, 0x1000, read=True, write=True)
    assert cpu.resume(vmcs).reason is ExitReason.HLT


def test_code_that_ept_forbids_is_not_fetched(cpu, guest):
    vmcs = guest("f4")
    vmcs.ept.protect(0x1000, 0x1000, execute=False)
    assert cpu.launch(vmcs).ept_violation.fetch


def test_paging_structures_are_told_from_what_they_lead_to(cpu, guest):
    vmcs = guest("f4", "long")
    vmcs.ept.unmap(vmcs.guest.cr3, 0x1000)
    violation = cpu.launch(vmcs).ept_violation
    assert violation.translation
    assert violation.guest_linear == 0x1000


def test_write_without_read_is_a_misconfiguration(cpu, guest):
    vmcs = guest(STORE)
    vmcs.ept.map(0x2000, 0x2000, 0x1000, read=False)
    exit = cpu.launch(vmcs)
    assert (exit.reason, exit.guest_physical_address) == (ExitReason.EPT_MISCONFIGURATION, 0x2000)


def test_tables_can_be_shared(cpu, guest):
    first, second = guest(LOAD), guest(LOAD)
    second.ept = first.ept
    first.ept.map(0x2000, 0x5000, 0x1000)
    cpu.memory[0x5000] = 0x77
    cpu.launch(second)
    assert cpu.registers.rax & 0xFF == 0x77


@pytest.mark.parametrize(
    ("words", "message"), [((0x1001, 0, 0x1000), "must be multiples"), ((0, 0, 0), "must be multiples")]
)
def test_ept_maps_pages(quick, words, message):
    ept = quick.vmcs().ept
    with pytest.raises(vmx.VmxError, match=message):
        ept.map(*words)
    with pytest.raises(vmx.VmxError, match="no memory type 'wb'"):
        ept.map(0, 0, 0x1000, memory_type="wb")
    with pytest.raises(vmx.VmxError, match="0xa0000 is not mapped"):
        ept.protect(0xA0000, 0x1000, write=False)


def test_ports_exit_as_the_bitmaps_say(cpu, guest):
    vmcs = guest("e680 e681 f4")
    vmcs.execution.use_io_bitmaps = True
    vmcs.io_bitmap |= {0x81, 0x8000, 0xFFFF}
    assert cpu.launch(vmcs).io.port == 0x81
    assert set(vmcs.io_bitmap) == {0x81, 0x8000, 0xFFFF}
    assert repr(vmcs.io_bitmap) == "PortSet({0x81, 0x8000, 0xffff})"
    vmcs.io_bitmap.clear()
    assert len(vmcs.io_bitmap) == 0
    assert cpu.resume(vmcs).reason is ExitReason.HLT
    with pytest.raises(vmx.VmxError, match="no I/O port"):
        vmcs.io_bitmap.add(0x10000)


def test_msrs_exit_as_the_bitmaps_say(cpu, guest):
    vmcs = guest("66b9820000c0 0f32 0f30 f4")  # IA32_LSTAR
    vmcs.execution.use_msr_bitmaps = True
    vmcs.msr_bitmaps.write.add(0xC0000082)
    exit = cpu.launch(vmcs)
    assert (exit.reason, cpu.registers.rcx) == (ExitReason.WRMSR, 0xC0000082)
    assert set(vmcs.msr_bitmaps.write) == {0xC0000082}
    assert not vmcs.msr_bitmaps.read
    vmcs.msr_bitmaps.write.discard(0xC0000082)
    assert cpu.resume(vmcs).reason is ExitReason.HLT


def test_msrs_without_a_bit_always_exit(quick):
    read = quick.vmcs().msr_bitmaps.read
    read.add(0x1B)
    assert 0x1B in read
    assert 0x1C not in read
    assert 0x40000000 in read
    with pytest.raises(vmx.VmxError, match="no bit"):
        read.discard(0x40000000)


def test_memory_is_read_and_written_by_slices(quick):
    memory = quick.memory
    memory[0x1000:] = b"abcdef"
    assert memory[0x1000:0x1006] == b"abcdef"
    memory[0x1000:0x1002] = bytearray(b"AB")
    memory[0x1002] = 0x43
    assert memory[0x1000:0x1004] == b"ABCd"
    assert memory[0x1003] == ord("d")
    assert memory[0x1FFFFE:] == b"\0\0"
    assert len(memory) == 2 * MIB


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda memory: memory[2 * MIB], "not in the guest's 0x200000"),
        (lambda memory: memory.write(2 * MIB - 1, b"ab"), "not in the guest's"),
        (lambda memory: memory[0:10:2], "step"),
        (lambda memory: memory.__setitem__(slice(0, 3), b"ab"), "do not fill"),
        (lambda memory: memory[0xA0000], "0xa0000"),
        (lambda memory: memory[-1], "-0x1"),
    ],
)
def test_memory_ends_where_it_ends(quick, act, message):
    with pytest.raises(vmx.VmxError, match=message):
        act(quick.memory)


def test_a_guest_without_ept_is_kept_in_its_ram_by_its_page_tables(cpu, guest):
    # mov [0x1fff], al; mov byte ptr [0x200000], 1; hlt
    vmcs = guest("a2 ff1f000000000000 c604250000200001 f4", "long")
    vmcs.execution.unrestricted_guest = vmcs.execution.enable_ept = False
    vmcs.execution.exception_bitmap = 1 << 14
    cpu.registers.rax = 0x5A
    exit = cpu.launch(vmcs)
    assert (exit.interruption.vector, exit.qualification) == (14, 0x200000)
    assert cpu.memory[0x1FFF] == 0x5A
