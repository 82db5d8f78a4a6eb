"""`AsyncMachine` with a real guest."""

import asyncio
import functools
import time

import pytest

from gasang import AsyncMachine, GuestCommandFailed, GuestTimeout, Machine, MachineDied


def asynchronous(test):
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def wrapper(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 120))

    return wrapper


def boot():
    return AsyncMachine.boot(accel="bt", vsock=True)


@asynchronous
async def test_commands_run_at_the_same_time():
    async with await boot() as vm:
        await vm.run("mkfifo /tmp/a /tmp/b", check=True)
        # Each waits for the other: one after the other would never end.
        done = await asyncio.gather(
            vm.run("echo 1 >/tmp/a; cat /tmp/b", timeout=60), vm.run("cat /tmp/a; echo 2 >/tmp/b", timeout=60)
        )
        assert [each.stdout for each in done] == [b"2\n", b"1\n"]
        assert vm.config.vsock
        assert vm.outcome is None
    assert vm.outcome.reason == "stopped"


@asynchronous
async def test_errors_are_those_of_a_machine():
    async with await boot() as vm:
        with pytest.raises(GuestCommandFailed):
            await vm.run("exit 3", check=True)
        with pytest.raises(GuestTimeout) as caught:
            await vm.run("echo before; sleep 100", timeout=3)
        assert caught.value.stdout == b"before\n"
        await vm.write("/tmp/x", b"bytes")
        assert await vm.read("/tmp/x") == b"bytes"


@asynchronous
async def test_a_process_is_read_line_by_line():
    async with await boot() as vm, await vm.popen("while read l; do echo got $l; done; exit 4") as process:
        await process.stdin.write(b"one\ntwo\n")
        await process.stdin.close()
        assert [line async for line in process.stdout] == [b"got one\n", b"got two\n"]
        assert await process.wait() == 4


@asynchronous
async def test_cancelling_a_command_kills_it():
    async with await boot() as vm:
        running = asyncio.create_task(vm.run("touch /tmp/up; exec sleep 987"))
        while (await vm.run("ls /tmp/up")).returncode:
            pass
        assert b"sleep 987" in (await vm.run("ps")).stdout
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while b"sleep 987" in (await vm.run("ps")).stdout:
            pass


@asynchronous
async def test_cancelling_a_boot_stops_the_machine(monkeypatch):
    stopped, stop = [], Machine.stop

    def noted(self):
        stopped.append(self)
        stop(self)

    monkeypatch.setattr(Machine, "stop", noted)
    booting = asyncio.create_task(boot())
    await asyncio.sleep(0)
    booting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await booting
    deadline = time.monotonic() + 60
    while not stopped:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@asynchronous
async def test_clones_and_the_console():
    async with await boot() as vm:
        await vm.run("echo mine >/tmp/who")
        clones = await vm.fork(2)
        try:
            said = await asyncio.gather(*(clone.run("cat /tmp/who") for clone in clones))
            assert [each.stdout for each in said] == [b"mine\n"] * 2
        finally:
            await asyncio.gather(*(clone.stop() for clone in clones))
        await vm.console.write("echo from the $((1 + 1))nd shell\n")
        await vm.console.expect("from the 2nd shell", timeout=60)


@asynchronous
async def test_a_call_does_not_outlive_its_machine():
    vm = await boot()
    await vm.run("true")
    waiting = asyncio.create_task(vm.run("sleep 1000"))
    await asyncio.sleep(0)
    await vm.stop()
    with pytest.raises(MachineDied):
        await waiting


@asynchronous
async def test_a_notebook_shows_it():
    async with await boot() as vm:
        await vm.run("echo '<script>' >/dev/ttyS0")
        await vm.console.expect("<script>")
        html = vm._repr_html_()
        for part in ("running", "512M", "&lt;script&gt;", "<svg"):
            assert part in html
        assert "<script>" not in html
        await vm.stop()
        assert "ended: stopped" in vm._repr_html_()
