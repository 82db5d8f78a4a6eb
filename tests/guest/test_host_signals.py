"""Signals of the host while a guest runs: they wait until the processor's thread has its own stack again."""

import signal
import threading
import time
from contextlib import suppress

from guest_programs import manifest

from gasang import Machine

(PROGRAM,) = (program for program in manifest() if program.name == "stack_pointer")
SIGNALS = (signal.SIGALRM, signal.SIGUSR1)


def test_signals_never_see_the_guests_stack(built):
    arrived = []
    old = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in SIGNALS}
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with Machine.boot(kernel=built(PROGRAM), memory="32M", accel="bt") as machine:
            (processor,) = (each for each in threading.enumerate() if each.name == "gasang-cpu0")
            while machine.outcome is None:
                with suppress(ProcessLookupError):  # it may just have ended
                    signal.pthread_kill(processor.ident, signal.SIGUSR1)
                time.sleep(0.001)
            assert machine.exit_code == 1, machine.debug_console.log
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in old.items():
            signal.signal(number, handler)
    assert arrived.count(signal.SIGALRM) > 20
