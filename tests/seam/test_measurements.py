"""What a profile says of a guest."""

import pytest
from conftest import ENTRY

from gasang._engine import EngineError, Halted, PioRead


def measure(guest, hertz=100):
    guest.vcpu.set_profile(hertz)
    assert guest.vcpu.run() == Halted()
    return guest.vcpu.profile()


def test_nothing_is_measured_unless_asked(boot):
    guest = boot("hlt")
    assert guest.vcpu.profile() is None
    guest.vcpu.set_profile(100)
    assert guest.vcpu.profile() is not None
    guest.vcpu.set_profile(None)
    assert guest.vcpu.profile() is None


def test_instructions_of_the_interpreter_have_place_form_and_number(boot):
    guest = boot("mov ebp, 100\n again: cpuid\n dec ebp\n jnz again\n cli\n hlt")
    found = {address: (form, count) for address, form, count, _ in measure(guest).interpreted}
    assert found[ENTRY + 5] == ("CPUID", 100)


def test_phases_are_counted_and_add_up(boot):
    guest = boot("mov ebp, 100\n again: cpuid\n dec ebp\n jnz again\n cli\n hlt")
    phases = measure(guest).phases
    assert phases["interpret"][0] == guest.vcpu.statistics().get("instructions_interpreted", 303)
    assert phases["code"][0] == guest.vcpu.statistics().get("code_entries", 0)
    assert phases["translate"][0] == guest.vcpu.statistics().get("blocks_translated", 0)
    assert all(time > 0 for times, time in phases.values() if times > 10)


def test_exits_have_place_and_number(boot):
    guest = boot("mov ebp, 3\n again: in al, 0x71\n dec ebp\n jnz again\n cli\n hlt")
    guest.vcpu.set_profile(100)
    reply = None
    while (exit := guest.vcpu.run(reply)) == PioRead(0x71, 1):
        reply = 0
    assert exit == Halted()
    [answered] = guest.vcpu.profile().exits
    assert answered[:3] == ("exits_pio_read", 0x71, 3)
    assert answered[3] > 0


def test_samples_in_a_loop_are_where_it_is(boot):
    guest = boot("again: nop\n nop\n nop\n nop\n nop\n nop\n jmp again")
    guest.vcpu.set_profile(2000)
    while sum(count for *_, count in guest.vcpu.profile().samples) < 20:
        guest.vcpu.run(instructions=1_000_000)
    inside = [place for place in guest.vcpu.profile().samples if place[1] in ("code", "interpret")]
    assert inside
    assert all(ENTRY <= address <= ENTRY + 6 for address, _, _ in inside)


@pytest.mark.parametrize("hertz", [-1, 10_001])
def test_a_rate_out_of_range_is_refused(boot, hertz):
    with pytest.raises(EngineError, match="hertz must be from 0 to"):
        boot("hlt").vcpu.set_profile(hertz)


@pytest.mark.parametrize("flags", ["", "stc", "add eax, eax"])
def test_blocks_count_their_executions(boot, flags):
    source = f"""
        mov ecx, 1000
        again: {flags}
        adc ebx, 0
        dec ecx
        jz over
        jmp again
        over: cli
        hlt"""
    guest, plain = boot(source, count_blocks=True), boot(source)
    assert guest.vcpu.run() == plain.vcpu.run() == Halted()
    for name in ("rax", "rbx", "rcx", "rip", "rflags"):
        assert guest.vcpu.registers()[name] == plain.vcpu.registers()[name]
    statistics = guest.vcpu.statistics()
    executions = guest.vcpu.executions()
    if statistics.get("blocks_translated"):
        times = {address: times for address, times, _ in executions}
        assert times[ENTRY] == 1
        assert 999 in times.values()
        # What T0 executes instead is counted by its block too, unless it is the first of one.
        counted = sum(instructions for _, _, instructions in executions)
        assert abs(counted - statistics["instructions"]) <= statistics["instructions_interpreted"]
    else:
        assert executions == []


def test_counts_outlive_their_blocks(boot, monkeypatch):
    monkeypatch.setenv("GASANG_FLUSH_ON_WRITE", "1")
    source = """
        mov ebp, 100
        again: mov byte ptr [rip + place + 1], 7
        place: mov al, 0
        dec ebp
        jnz again
        cli
        hlt"""
    guest = boot(source, count_blocks=True)
    assert guest.vcpu.run() == Halted()
    if guest.vcpu.statistics().get("blocks_translated"):
        assert guest.vcpu.statistics()["code_cache_flushes"] >= 99
        assert max(times for _, times, _ in guest.vcpu.executions()) >= 99


def test_code_that_is_not_there_has_no_form(boot):
    guest = boot("mov eax, 0x40000000\n shl rax, 4\n jmp rax")
    guest.set_gate(14, ENTRY + 0x40)
    guest.vm.write_memory(ENTRY + 0x40, b"\xf4")
    found = {address: form for address, form, _, _ in measure(guest).interpreted}
    assert found[0x4_0000_0000] == "(could not be fetched)"
