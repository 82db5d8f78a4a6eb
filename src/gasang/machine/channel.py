"""A serial port as the host sees it: bytes from the guest to read, wait for or listen to; bytes to send."""

from __future__ import annotations

import re
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable

from gasang.device import Saved
from gasang.errors import GuestTimeout, MachineDied

_UNREAD_LIMIT = 16 << 20
"""Bytes kept for a reader; of more, the oldest are lost."""

_LOG_LIMIT = 4 << 20
_SAVED_LOG = 64 << 10
_RETRY_SECONDS = 0.002
"""How long to leave a guest whose receive queue is full before offering the rest again."""

Listener = Callable[[bytes], None]


class Channel:
    """Both directions of one serial port; every method may be called from any thread.

    `offer` hands bytes to the guest and returns how many it took.
    """

    def __init__(self, name: str, offer: Callable[[bytes], int]) -> None:
        self._name = name
        self._offer = offer
        self._changed = threading.Condition()
        self._unread = bytearray()
        self._log = bytearray()
        self._unsent = bytearray()
        self._sender: threading.Thread | None = None
        self._listener: Listener | None = None
        self._death: tuple[str, str] | None = None
        self._delivery = threading.Lock()

    def __repr__(self) -> str:
        state = "open" if self._death is None else f"ended: {self._death[0]}"
        return f"<Channel {self._name}, {len(self._unread)} bytes to read, {state}>"

    @property
    def log(self) -> bytes:
        """What the guest has sent, read or not: its last 4 MiB."""
        with self._changed:
            return bytes(self._log)

    def tail(self, lines: int = 20) -> str:
        """The last lines that the guest has sent, as text."""
        with self._changed:
            end = bytes(self._log[-200 * lines :])
        return "\n".join(end.decode(errors="replace").splitlines()[-lines:])

    def has_unread(self, data: bytes) -> bool:
        """Whether this was sent and not read yet."""
        with self._changed:
            return data in self._unread

    def read(self, limit: int = 1 << 16, timeout: float | None = None) -> bytes:
        """Wait for output; return up to `limit` bytes of it, or none when the machine has ended.

        Raises `GuestTimeout` if nothing comes for `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._unread or self._death is not None, timeout):
                raise GuestTimeout(f"nothing came from {self._name} for {timeout:g} seconds")
            return self._take(limit)

    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = 30) -> re.Match[str]:
        """Wait until the output contains `pattern`: a string literally, or a compiled expression.

        What precedes the end of the match is read by that; `match.string` holds it. Bytes that are not UTF-8
        become surrogates. Raises `GuestTimeout` after `timeout` seconds, `MachineDied` if the machine ends.
        """
        expression = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern

        def found() -> re.Match[str] | None:
            return expression.search(self._unread.decode(errors="surrogateescape"))

        with self._changed:
            if not self._changed.wait_for(lambda: found() or self._death is not None, timeout):
                raise GuestTimeout(
                    f"{self._name} did not show {expression.pattern!r} within {timeout:g} seconds",
                    stdout=bytes(self._unread),
                )
            match = found()
            if match is None:
                raise self._died()
            self._take(len(match.string[: match.end()].encode(errors="surrogateescape")))
            return match

    def write(self, data: bytes | str) -> None:
        """Send to the guest, which reads when it likes: this does not wait. Raises `MachineDied`."""
        with self._changed:
            if self._death is not None:
                raise self._died()
            self._unsent += data.encode() if isinstance(data, str) else data
            self._offer_unsent()
            if self._unsent and self._sender is None:
                self._sender = threading.Thread(
                    target=self._send_rest, name=f"gasang-{self._name}", daemon=True
                )
                self._sender.start()

    def listen(self, listener: Listener) -> None:
        """Pass output on as it comes, and what is unread now, in place of keeping it for `read`.

        The listener is called by a processor's thread: it must not wait for the guest.
        """
        with self._delivery:
            with self._changed:
                self._listener = listener
                unread = self._take(len(self._unread))
            if unread:
                listener(unread)

    def deliver(self, data: bytes) -> None:
        """Output of the guest, from the run loop.

        The listener is called with the order of delivery locked, but not the channel: it may write.
        """
        with self._delivery:
            with self._changed:
                self._log += data
                del self._log[:-_LOG_LIMIT]
                if self._listener is None:
                    self._unread += data
                    del self._unread[:-_UNREAD_LIMIT]
                    self._changed.notify_all()
            if self._listener is not None:
                self._listener(data)

    def state(self) -> Saved:
        """What was sent and not read, either way, and the end of what was sent in all."""
        with self._changed:
            parts = {"unread": self._unread, "unsent": self._unsent, "log": self._log[-_SAVED_LOG:]}
        return {name: b64encode(part).decode("ascii") for name, part in parts.items()}

    def set_state(self, state: Saved) -> None:
        """Have that, before anything is sent."""
        with self._changed:
            self._unread[:], self._unsent[:], self._log[:] = (
                b64decode(state[name], validate=True) for name in ("unread", "unsent", "log")
            )
        if self._unsent:
            self.write(b"")

    def close(self, reason: str, console_tail: str) -> None:
        """The machine has ended: whoever waits is told so."""
        with self._changed:
            self._death = (reason, console_tail)
            self._unsent.clear()
            self._changed.notify_all()

    def _take(self, limit: int) -> bytes:
        data = bytes(self._unread[:limit])
        del self._unread[:limit]
        return data

    def _offer_unsent(self) -> None:
        taken = self._offer(bytes(self._unsent))
        del self._unsent[:taken]

    def _send_rest(self) -> None:
        """Lives while the guest's receive queue is too full for what was written."""
        with self._changed:
            while self._unsent and self._death is None:
                self._changed.wait(_RETRY_SECONDS)
                self._offer_unsent()
            self._sender = None

    def _died(self) -> MachineDied:
        assert self._death is not None, "asked only once the machine has ended"
        return MachineDied(*self._death)
