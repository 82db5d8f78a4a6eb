"""An engine with the real one's surface that runs a script instead of a guest.

A script is a list for each processor: exits, which `run` returns one by one; functions, which are called with
the `Vm` and may wait for something. At its end a processor idles until it is kicked.
"""

import threading
from dataclasses import dataclass


class EngineError(Exception):
    pass


@dataclass(frozen=True)
class PioRead:
    port: int
    size: int


@dataclass(frozen=True)
class PioWrite:
    port: int
    size: int
    value: int


@dataclass(frozen=True)
class MmioRead:
    address: int
    size: int


@dataclass(frozen=True)
class MmioWrite:
    address: int
    size: int
    value: int


@dataclass(frozen=True)
class SerialOutput:
    index: int
    data: bytes


@dataclass(frozen=True)
class VmExit:
    reason: int
    qualification: int


@dataclass(frozen=True)
class Halted:
    pass


@dataclass(frozen=True)
class KvmLost:
    reason: str


@dataclass(frozen=True)
class Shutdown:
    reason: str = "triple fault"


@dataclass(frozen=True)
class Interrupted:
    pass


Exit = PioRead | PioWrite | MmioRead | MmioWrite | SerialOutput | Halted | Shutdown | Interrupted
EXITS = (PioRead, PioWrite, MmioRead, MmioWrite, SerialOutput, Halted, Shutdown, Interrupted, KvmLost)


@dataclass(frozen=True)
class Segment:
    selector: int
    base: int
    limit: int
    attributes: int


@dataclass(frozen=True)
class DescriptorTable:
    base: int
    limit: int


class TranslatedBlock:
    pass


class Vcpu:
    def __init__(self, vm, index, script):
        self.index = index
        self.replies = []
        self.state = {}
        self.inside = False
        self._vm = vm
        self._script = list(script)
        self._kicked = threading.Event()

    def run(self, reply=None, *, instructions=None):
        self.replies.append(reply)
        self.inside = True
        try:
            return self._next()
        finally:
            self.inside = False

    def _next(self):
        if self._kicked.is_set():
            self._kicked.clear()
            return Interrupted()
        while self._script:
            step = self._script.pop(0)
            if not callable(step):
                return step
            step(self._vm)
        self._kicked.wait()
        self._kicked.clear()
        return Interrupted()

    def kick(self):
        self._kicked.set()

    def registers(self):
        if self.inside:
            raise EngineError("a thread is inside")
        return self.state

    def set_registers(self, **values):
        self.state.update(values)

    def statistics(self):
        return {"exits": len(self.replies), "instructions": 100}

    def translated_blocks(self):
        return []


class Vm:
    """`script` of the class is what the next machine runs."""

    script = ((),)
    queue_size = 1 << 16

    def __init__(
        self,
        *,
        memory,
        cpus=1,
        accel="bt",
        cpu="max",
        trace_blocks=False,
        log_code=False,
        count_blocks=False,
        clock="host",
        wall_clock=0,
        seed=0,
        kvm_may_fail=False,
        switchable=False,
        irqchip="own",
        memory_image=None,
    ):
        if cpu == "nonesuch":
            raise EngineError("no processor model 'nonesuch'")
        self.options = {
            "memory": memory,
            "cpus": cpus,
            "accel": accel,
            "cpu": cpu,
            "clock": clock,
            "seed": seed,
        }
        self.memory = {}
        self.lines = {}
        self.input = {index: bytearray() for index in range(4)}
        self._vcpus = [Vcpu(self, index, self.script[index]) for index in range(cpus)]

    def vcpu(self, index):
        return self._vcpus[index]

    def memory_regions(self):
        return [(0, self.options["memory"])]

    def read_memory(self, address, length):
        if address + length > self.options["memory"]:
            raise EngineError(f"{address:#x} is not RAM")
        return self.memory.get(address, bytes(length))[:length]

    def write_memory(self, address, data):
        if address + len(data) > self.options["memory"]:
            raise EngineError(f"{address:#x} is not RAM")
        self.memory[address] = bytes(data)

    def set_interrupt_line(self, gsi, level):
        self.lines[gsi] = level

    def serial_input(self, index, data):
        room = self.queue_size - len(self.input[index])
        self.input[index] += data[:room]
        return min(room, len(data))

    def serial_pending(self, index):
        return len(self.input[index])

    def state_digest(self):
        if any(vcpu.inside for vcpu in self._vcpus):
            raise EngineError("a thread is inside")
        return 0xABC

    def virtual_time(self):
        return 0
