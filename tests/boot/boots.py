"""Boot machines of several processors, one after the other, until one hangs.

    python tests/boot/boots.py [--boots N] [--cpus N...]

A boot counts when all processors are online, processes have run in parallel, and the guest has powered off.
"""

from __future__ import annotations

import argparse
import sys
import time

from gasang import Machine
from gasang.errors import GasangError

SECONDS = 60
"""What a boot may take, many times what it does."""

SCRIPT = """
    nproc
    for job in 1 2 3 4 5 6 7 8; do (/bin/true; /bin/true) & done
    wait
    dmesg | grep -cE 'BUG:|stall|Oops'
"""


def boot(cpus: int) -> float:
    """Boot once; the seconds that it took. Raises `GasangError` or `RuntimeError` if anything is wrong."""
    started = time.monotonic()
    with Machine.boot(cpus=cpus, accel="bt") as machine:
        said = machine.run(SCRIPT, timeout=SECONDS).stdout.decode().split()
        if said != [str(cpus), "0"]:
            raise RuntimeError(f"the guest said {said}")
        machine.console.write("poweroff -f\n")
        machine.wait(SECONDS)
    return time.monotonic() - started


def main(arguments: list[str]) -> int:
    """Boot again and again; 0 if nothing hung."""
    parser = argparse.ArgumentParser(description="Boot machines of several processors until one hangs.")
    parser.add_argument(
        "--boots", type=int, default=50, help="how many for each number (default: %(default)s)"
    )
    parser.add_argument("--cpus", type=int, nargs="+", default=[2], help="processors (default: 2)")
    options = parser.parse_args(arguments)
    for cpus in options.cpus:
        times = []
        for number in range(1, options.boots + 1):
            try:
                times.append(boot(cpus))
            except (GasangError, RuntimeError) as error:
                print(f"boot {number} with {cpus} processors failed: {error}")
                return 1
        slowest = max(times)
        print(
            f"{options.boots} boots with {cpus} processors, {sum(times) / len(times):.2f} s each, "
            f"the slowest {slowest:.2f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
