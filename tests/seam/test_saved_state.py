"""A machine that is saved and loaded is the machine that it was: processors, chipset, time and RAM."""

import json
import os
import random
import time
from itertools import cycle

import pytest
from conftest import Guest, why_no_kvm
from test_determinism import STORM, storm
from test_interrupts import TIMER
from test_kvm_accelerator import boot

from gasang import _engine
from gasang._engine import EngineError, Halted, Interrupted, PioRead, PioWrite, SerialOutput, Vm

MEMORY = 2 << 20


def image_of(vm):
    """RAM as a file in memory; the digest that was told is that of the file."""
    descriptor = os.memfd_create("image")
    os.truncate(descriptor, MEMORY + 4096)
    told = vm.write_memory_image(descriptor, 4096)
    assert told == _engine.digest_of_image(descriptor, 4096, MEMORY)
    return descriptor


def moved(vm, **options):
    """Another machine that is what `vm` is; it stands still."""
    vm.hold()
    state, image = vm.save(), image_of(vm)
    try:
        other = Vm(memory=MEMORY, memory_image=(image, 4096), **options)
    finally:
        os.close(image)
    other.load(state)
    assert json.loads(other.save()) == json.loads(state)
    return other


def finish(vm, stretch=None, then=lambda vm: vm):
    """Run to the first port write but the serial port's; console, digest. `then` may exchange the machine."""
    console = bytearray()
    while not isinstance(exit := vm.vcpu(0).run(instructions=stretch), PioWrite):
        if isinstance(exit, SerialOutput):
            console += exit.data
        else:
            assert exit == Interrupted()
            vm = then(vm)
    return bytes(console), vm.state_digest()


@pytest.mark.parametrize("accel", ["bt", "interp"])
@pytest.mark.parametrize("stretch", [1009, 9973])
def test_a_machine_that_moves_all_the_time_is_the_same_run(assemble, accel, stretch):
    code = assemble(STORM)
    accels = cycle([accel, "interp", accel])

    def move(vm):
        return moved(vm, clock="instructions", accel=next(accels))

    reference = finish(storm(code, accel=accel).vm, stretch)
    assert finish(storm(code, accel=accel).vm, stretch, move) == reference


def test_copies_of_frozen_ram_go_their_own_ways(assemble):
    code = assemble(STORM)
    reference = finish(storm(code).vm, 5000)
    vm = storm(code).vm
    for _ in range(20):
        vm.vcpu(0).run(instructions=5000)
    vm.hold()
    state, image = vm.save(), vm.freeze_memory()
    copies = [Vm(memory=MEMORY, memory_image=(image, 0), clock="instructions") for _ in range(3)]
    os.close(image)
    for copy in copies:
        copy.load(state)
        copy.release()
    digests = [finish(machine, 5000)[1] for machine in [*copies, vm]]
    assert digests == [reference[1]] * 4


def test_time_stands_still_while_the_machine_does(assemble):
    vm = Guest(assemble(TIMER), 64).vm
    vm.hold()
    before = vm.virtual_time()
    time.sleep(0.05)
    assert vm.virtual_time() == before
    vm.release()
    assert before <= vm.virtual_time() < before + 40_000_000


def test_an_access_that_is_not_answered_cannot_be_saved(assemble):
    guest = Guest(assemble("in al, 0x80; hlt"), 64)
    assert isinstance(guest.vcpu.run(), PioRead)
    with pytest.raises(EngineError, match="answer"):
        guest.vm.hold()


def test_only_what_stands_still_is_saved(assemble):
    vm = Guest(assemble("hlt"), 64).vm
    for attempt in (vm.save, vm.freeze_memory, lambda: vm.write_memory_image(0, 0)):
        with pytest.raises(EngineError, match="hold"):
            attempt()


def saved(assemble, **options):
    vm = Guest(assemble("hlt"), 64, **options).vm
    vm.hold()
    return json.loads(vm.save())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(more=1), "unknown field `more`"),
        (lambda state: state.pop("clock"), "missing field `clock`"),
        (lambda state: state["features"].append("x87-2"), "had x87-2, which is not to be had"),
        (lambda state: state["features"].remove("avx2"), "did not have avx2"),
        (lambda state: state["clock"].update(tsc_hz=7), "7 Hz"),
        (lambda state: state["processors"].append(state["processors"][0]), "2 processors, not 1"),
        (lambda state: state["processors"][0]["state"].update(extended="xy"), "hexadecimal"),
        (lambda state: state["processors"][0]["state"].update(extended="ff" * 600), "extended state"),
        (lambda state: state["chipset"]["hpet"].update(config=-1), "invalid value"),
    ],
)
def test_what_is_no_state_of_this_machine_is_refused(assemble, change, message):
    state = saved(assemble)
    change(state)
    with pytest.raises(EngineError, match=message):
        Vm(memory=MEMORY).load(json.dumps(state))


def test_a_state_of_nonsense_breaks_nothing(assemble):
    """Numbers that no machine has: refused, or run without harm to this process."""
    generator = random.Random(7)
    pristine = json.dumps(saved(assemble, clock="instructions"))
    for _ in range(150):
        state = json.loads(pristine)
        for _ in range(generator.randint(1, 4)):
            spoil(generator, state)
        vm = Vm(memory=MEMORY, clock="instructions")
        try:
            vm.load(json.dumps(state))
            for _ in range(20):
                exit = vm.vcpu(0).run(instructions=500)
                if not isinstance(exit, Interrupted | SerialOutput):
                    break
        except EngineError:
            pass


def spoil(generator, place):
    """Change one number somewhere below `place`."""
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return
        key = generator.choice(list(keys))
        if isinstance(place[key], dict | list):
            place = place[key]
        elif isinstance(place[key], bool):
            place[key] = not place[key]
            return
        elif isinstance(place[key], int):
            place[key] = generator.choice([0, 1, 255, 1 << 31, (1 << 64) - 1, generator.getrandbits(64)])
            return
        else:
            return


@pytest.mark.skipif(why_no_kvm() is not None, reason=why_no_kvm() or "")
@pytest.mark.parametrize(("first", "second"), [("kvm", "bt"), ("bt", "kvm"), ("kvm", "kvm")])
def test_both_accelerators_read_the_same_state(assemble, first, second):
    source = "mov r8, 5; 1: inc r9; out 0x80, al; cmp r9, 100; jb 1b; hlt"
    guest = boot(assemble, first, 64, source, switchable=True)
    for _ in range(40):
        assert isinstance(guest.vcpu.run(), PioWrite)
    guest.vcpu.kick()
    assert guest.vcpu.run() == Interrupted()
    other = moved(guest.vm, switchable=True)
    other.release()
    other.set_accelerator(second)
    writes = 0
    while isinstance(exit := other.vcpu(0).run(), PioWrite):
        writes += 1
    assert exit == Halted()
    assert writes == 60
    registers = other.vcpu(0).registers()
    assert (registers["r8"], registers["r9"]) == (5, 100)
