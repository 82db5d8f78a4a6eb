"""`AsyncMachine`: `Machine` for asyncio, made from it method by method; `asynchronous.pyi` has its types."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from gasang.guest.guest_process import GuestProcess
from gasang.machine.channel import Channel
from gasang.machine.machine import Machine

LEFT_OUT = frozenset({"agent", "vsock_agent", "standing_still", "run_noting"})
"""What of `Machine` is not here: clients and blocks of its own parts, for threads."""


async def in_thread(call: Callable[[], Any], dispose: Callable[[Any], object] = lambda _: None) -> Any:
    """What a call that waits returns, which has a thread of its own: any number may wait.

    If nobody waits for it any more, what it returns in the end is disposed of.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            if error is None:
                dispose(result)
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # the loop is closed
            if error is None:
                dispose(result)

    threading.Thread(target=work, name="gasang-async", daemon=True).start()
    return await future


def _stop_all(made: Any) -> None:
    for machine in made if isinstance(made, list) else [made]:
        if isinstance(machine, Machine):
            threading.Thread(target=machine.stop, name="gasang-async", daemon=True).start()


def _wrapped(result: Any) -> Any:
    """A result as it is for asyncio."""
    if isinstance(result, list):
        return [_wrapped(each) for each in result]
    for kind, wrapper in (
        (Machine, AsyncMachine),
        (GuestProcess, AsyncGuestProcess),
        (Channel, AsyncChannel),
    ):
        if isinstance(result, kind):
            return wrapper(result)
    return result


class _Wrapper:
    """Another object's methods, awaited, and its properties."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"<Async{repr(self._inner).removeprefix('<')}"


def _awaited(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def wrapper(self: _Wrapper, *args: Any, **options: Any) -> Any:
        call = functools.partial(method, self._inner, *args, **options)
        return _wrapped(await in_thread(call, _stop_all))

    return wrapper


def _making(method: Callable[..., Any]) -> Any:
    @functools.wraps(method.__func__)  # type: ignore[attr-defined] - a bound class method
    async def wrapper(cls: type, *args: Any, **options: Any) -> Any:
        return cls(await in_thread(functools.partial(method, *args, **options), _stop_all))

    return classmethod(wrapper)


def _passed_on(name: str, whole: property) -> property:
    return property(lambda self: _wrapped(getattr(self._inner, name)), doc=whole.__doc__)


def _mirror(kind: type, leave_out: frozenset[str] = frozenset()) -> Callable[[type], type]:
    """Gives a class what is public of another, as far as it has no such name."""

    def fill(wrapper: type) -> type:
        for name in dir(kind):
            if name.startswith("_") or name in leave_out or name in vars(wrapper):
                continue
            whole = inspect.getattr_static(kind, name)
            if isinstance(whole, property):
                setattr(wrapper, name, _passed_on(name, whole))
            elif isinstance(whole, classmethod):
                setattr(wrapper, name, _making(getattr(kind, name)))
            else:
                setattr(wrapper, name, _awaited(whole))
        return wrapper

    return fill


class _Interrupt:
    """Ends a command whose caller is gone, whenever it starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._command: Any = None
        self._is_set = False

    def started(self, command: Any) -> None:
        with self._lock:
            self._command = command
            if self._is_set:
                command.close()

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            if self._command is not None:
                self._command.close()


@_mirror(Machine, LEFT_OUT)
class AsyncMachine(_Wrapper):
    """A running virtual machine for asyncio: `Machine`, whose methods are awaited.

    `await AsyncMachine.boot()` makes one, and leaving an `async with` block stops it. Cancelling `run` kills
    the command (of a machine with vsock; without, it runs to its end); cancelling `boot`, `restore` or `fork`
    stops what they make. Other calls go on to their end, unnoticed.
    """

    async def __aenter__(self) -> AsyncMachine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(in_thread(self._inner.stop))

    @property
    def machine(self) -> Machine:
        """The machine itself, for threads."""
        inner: Machine = self._inner
        return inner

    @property
    def config(self) -> Any:
        """What it was asked to be."""
        return self._inner.config

    def serial(self, index: int) -> AsyncChannel:
        """Serial port 0 (the console) to 3."""
        return AsyncChannel(self._inner.serial(index))

    def _repr_html_(self) -> str:
        html: str = self._inner._repr_html_()
        return html

    @functools.wraps(Machine.run)
    async def run(self, *args: Any, **options: Any) -> Any:
        interrupt = _Interrupt()
        call = functools.partial(self._inner.run_noting, interrupt.started, *args, **options)
        try:
            return await in_thread(call)
        except asyncio.CancelledError:
            interrupt.set()
            raise


@_mirror(Channel, frozenset({"close", "deliver", "listen", "set_state", "state", "tail", "has_unread"}))
class AsyncChannel(_Wrapper):
    """A serial port for asyncio."""

    @functools.wraps(Channel.tail)
    def tail(self, lines: int = 20) -> str:
        text: str = self._inner.tail(lines)
        return text


class AsyncReader(_Wrapper):
    """A stream of a process, to be read."""

    async def read(self, size: int = -1) -> bytes:
        """So many bytes, or all; fewer at the end only."""
        data: bytes = await in_thread(lambda: self._inner.read(size))
        return data

    async def read1(self, size: int = -1) -> bytes:
        """What there is, or comes first; nothing at the end."""
        data: bytes = await in_thread(lambda: self._inner.read1(size))
        return data

    async def readline(self) -> bytes:
        """A line with its end."""
        data: bytes = await in_thread(self._inner.readline)
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line


class AsyncWriter(_Wrapper):
    """The input of a process."""

    async def write(self, data: bytes) -> int:
        """Send it, once there is room; how much was taken."""
        count: int = await in_thread(lambda: self._inner.write(data))
        return count

    async def close(self) -> None:
        """The process finds its end."""
        await in_thread(self._inner.close)


@_mirror(GuestProcess)
class AsyncGuestProcess(_Wrapper):
    """A command in the guest for asyncio; leaving an `async with` block kills it, if it runs."""

    def __init__(self, inner: GuestProcess) -> None:
        super().__init__(inner)
        self.stdin = AsyncWriter(inner.stdin)
        self.stdout = AsyncReader(inner.stdout)
        self.stderr = AsyncReader(inner.stderr)

    async def __aenter__(self) -> AsyncGuestProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(in_thread(self._inner.close))
