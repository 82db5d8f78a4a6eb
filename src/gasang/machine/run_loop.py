"""Runs the virtual processors, one thread each, and answers their exits from the bus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

from gasang._engine import (
    Halted,
    Interrupted,
    KvmLost,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    SerialOutput,
    Shutdown,
    Vcpu,
    VmExit,
)
from gasang.bus import Bus
from gasang.machine.ending import Ending
from gasang.machine.outcome import EngineFailed, HaltedForever, Outcome, TripleFault

if TYPE_CHECKING:
    from gasang._engine import Exit


class RunLoop:
    """The threads of a machine's processors, from `start` until its `ending` has an outcome.

    Devices are called by one thread at a time. `serial_output` receives what a serial port sent; after each
    time the guest stands still until `until_answered` returns. A machine that is `standing_still` from the
    start does so after `resume`, too. `kvm_lost` is told why KVM could not go on.
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        bus: Bus,
        ending: Ending,
        serial_output: Callable[[int, bytes], None],
        *,
        until_answered: Callable[[], None] | None = None,
        standing_still: bool = False,
        kvm_lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._vcpus = vcpus
        self._bus = bus
        self._ending = ending
        self._serial_output = serial_output
        self._until_answered = until_answered
        self._kvm_lost = kvm_lost
        self._devices = threading.Lock()
        self._gate = threading.Condition()
        self._starts_outside = standing_still
        self._pauses = 1 if standing_still else 0
        self._running = 0
        self._threads = [
            threading.Thread(target=self._run, args=(vcpu,), name=f"gasang-cpu{vcpu.index}", daemon=True)
            for vcpu in vcpus
        ]
        ending.watch(self._leave)

    def start(self) -> None:
        """Start every processor's thread."""
        self._running = len(self._threads)
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the threads of a machine that has ended are gone, but for the calling one."""
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold every processor outside the guest, between two instructions."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """Hold every processor there until as many `resume`s."""
        with self._gate:
            self._pauses += 1
        self._kick()
        with self._gate:
            self._gate.wait_for(lambda: self._running == 0)

    def resume(self) -> None:
        """Let them go on."""
        with self._gate:
            self._pauses -= 1
            self._gate.notify_all()

    def _run(self, vcpu: Vcpu) -> None:
        reply: int | None = None
        try:
            if self._starts_outside:
                self._stay_outside(self._until_answered or (lambda: None))
            while self._ending.outcome is None:
                reply = self.answer(vcpu, vcpu.run(reply))
        except BaseException as error:  # a panic of the engine too: those who wait must learn of it
            self._ending.end(EngineFailed(error))
        finally:
            with self._gate:
                self._running -= 1
                self._gate.notify_all()

    def answer(self, vcpu: Vcpu, exit: Exit) -> int | None:
        """Do what an exit asks for; the value to enter with if it was a read."""
        match exit:  # without positional patterns, which cost more than the access itself
            case PioRead():
                with self._devices:
                    return self._bus.ports.read(exit.port, exit.size)
            case PioWrite():
                with self._devices:
                    self._bus.ports.write(exit.port, exit.size, exit.value)
            case MmioRead():
                with self._devices:
                    return self._bus.memory.read(exit.address, exit.size)
            case MmioWrite():
                with self._devices:
                    self._bus.memory.write(exit.address, exit.size, exit.value)
            case SerialOutput():
                with self._devices:
                    self._serial_output(exit.index, exit.data)
                if self._until_answered is not None:
                    self._stay_outside(self._until_answered)
            case Interrupted():
                self._stay_outside()
            case KvmLost():
                self._kvm_lost(exit.reason)
            case Halted():
                self._ending.end(HaltedForever())
            case Shutdown():
                self._ending.end(TripleFault())
            case VmExit():
                raise AssertionError("the hypervisor of a Machine is its guest")
            case _:
                assert_never(exit)
        return None

    def _stay_outside(self, wait: Callable[[], None] = lambda: None) -> None:
        """Stay here until `wait` returns, and while the machine is paused."""
        with self._gate:
            self._running -= 1
            self._gate.notify_all()
        wait()
        with self._gate:
            self._gate.wait_for(lambda: self._pauses == 0 or self._ending.outcome is not None)
            self._running += 1

    def _leave(self, _: Outcome) -> None:
        with self._gate:
            self._gate.notify_all()
        self._kick()

    def _kick(self) -> None:
        for vcpu in self._vcpus:
            vcpu.kick()
