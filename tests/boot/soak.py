"""Machines come and go for half an hour: what they used is given back.

    python tests/boot/soak.py [--minutes N]

Each round boots or restores a guest, runs commands, saves it, restores it, forks it and stops all of that;
every few rounds machines in the background are made, cloned and killed, and a `gasang run` is killed within
its command. Memory, descriptors, threads, processes and files are counted after each round. In the end no
count of the last quarter may be above that of the second: 0 if so.

The C library's allocator has one arena: with one for every few threads it would take minutes until each of
them has been as large as it gets, and a leak could not be told from that.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from gasang import Machine
from gasang.guest.cache import cache_directory

SECONDS = 120
"""What a step may take, many times what it does."""

FOLDER = "/tmp/folder"
SCRIPT = "head -c 3000000 /dev/urandom | md5sum >/tmp/sum; wc -c </tmp/sum; ls " + FOLDER + " | wc -l"
SPARE_MEMORY = 4 << 20
"""Bytes by which the allocator's own fragmentation may differ."""

PEOPLE = 4
"""In so many rounds machines are held by other processes."""

SETTLE = 0.5


def in_process(place: Path, *, boots: bool) -> None:
    """A machine, its snapshot, and clones, in this process. Raises what goes wrong."""
    with ExitStack() as stack:
        snapshot = place / "soak.snap"
        if boots or not snapshot.exists():
            first = stack.enter_context(Machine.boot(accel="bt", vsock=True, net="user", balloon=True))
            first.run(f"mkdir {FOLDER}", check=True, timeout=SECONDS)
            first.snapshot(snapshot)
        machine = stack.enter_context(Machine.restore(snapshot))
        expect(machine, b"36\n0\n")
        where = machine.expose(80)
        machine.unexpose(where)
        with machine.popen("cat", timeout=SECONDS) as process:
            process.stdin.write(b"x" * 100_000)
            process.stdin.close()
            assert len(process.stdout.read()) == 100_000
        machine.copy_in(Path(__file__), "/tmp/soak.py")
        machine.copy_out("/tmp/soak.py", place / "copy")
        machine.snapshot(place / "again.snap")
        clones = [stack.enter_context(clone) for clone in machine.fork(3)]
        clones.append(stack.enter_context(Machine.restore(place / "again.snap")))
        for clone in clones:
            expect(clone, b"36\n0\n")


def expect(machine: Machine, output: bytes) -> None:
    """Run the script. Raises `RuntimeError` if it says anything else."""
    said = machine.run(SCRIPT, check=True, timeout=SECONDS).stdout
    if said != output:
        raise RuntimeError(f"the guest said {said!r}")


def in_the_background(place: Path) -> None:
    """Machines held by other processes, of which some are killed."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(place / "run")}

    def gasang(*words: str) -> str:
        command = [sys.executable, "-m", "gasang", *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True
        )
        return done.stdout

    gasang("restore", "-d", "--name", "box", str(place / "soak.snap"))
    gasang("fork", "box", "left", "right")
    assert gasang("exec", "left", "--", "echo", "up") == "up\n"
    for each in json.loads(gasang("ps", "--json")):
        if each["name"] != "box":
            os.kill(each["pid"], signal.SIGKILL)
    gasang("stop", "box")
    while json.loads(gasang("ps", "--json")):
        time.sleep(0.05)
    command = [sys.executable, "-m", "gasang", "run", "-q", "--", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()


def counts(place: Path) -> dict[str, int]:
    """What is in use."""
    gc.collect()
    own = {int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
           if line.startswith("Private_Dirty")}  # fmt: skip
    children = 0
    for stat in Path("/proc").glob("[0-9]*/environ"):
        try:
            children += str(place).encode() in stat.read_bytes()
        except OSError:
            continue
    temporary = [*Path(tempfile.gettempdir()).iterdir(), *cache_directory().rglob("*"), *place.rglob("*")]
    return {
        "memory": sum(own) << 10,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "processes": children,
        "files": len(temporary),
    }


def verdict(rows: list[dict[str, int]]) -> list[str]:
    """What has grown, in words."""
    quarter = len(rows) // 4
    grown = []
    for name in rows[0]:
        before = statistics.median(row[name] for row in rows[quarter : 2 * quarter])
        after = statistics.median(row[name] for row in rows[-quarter:])
        spare = SPARE_MEMORY if name == "memory" else 0
        print(f"{name}: {before:,.0f} in the second quarter, {after:,.0f} in the last")
        if after > before + spare:
            grown.append(name)
    return grown


def main(arguments: list[str]) -> int:
    """Soak; 0 if nothing has grown."""
    parser = argparse.ArgumentParser(description="Machines come and go: what they used is given back.")
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: %(default)s)")
    options = parser.parse_args(arguments)
    if os.environ.get("MALLOC_ARENA_MAX") != "1":
        os.execve(
            sys.executable, [sys.executable, __file__, *arguments], {**os.environ, "MALLOC_ARENA_MAX": "1"}
        )
    deadline = time.monotonic() + 60 * options.minutes
    rows: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        place = Path(directory)
        (place / "run").mkdir()
        while time.monotonic() < deadline or len(rows) < 2 * PEOPLE:
            in_process(place, boots=len(rows) % PEOPLE == 0)
            if len(rows) % PEOPLE == 1:
                in_the_background(place)
            time.sleep(SETTLE)  # threads that end by themselves
            rows.append(counts(place))
            if len(rows) % 20 == 0:
                print(f"round {len(rows)}: {rows[-1]}", flush=True)
    print(f"{len(rows)} rounds in {options.minutes:g} minutes")
    grown = verdict(rows)
    if grown:
        print(f"grown: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
