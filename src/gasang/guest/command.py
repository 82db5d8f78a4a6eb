"""One command in the guest, as the host sees it: from its line on the control port until its last byte."""

from __future__ import annotations

from gasang.guest.streams import Sink


class Command:
    """What the guest has said about a command so far. The agent holds its lock around every use."""

    def __init__(self, marker: str, output: Sink, errors: Sink, *, has_input: bool) -> None:
        self.marker = marker
        end = self.marker.encode("ascii") + b"\n"
        self.output = Stream(end, output)
        self.errors = Stream(end, errors)
        self.processes: list[int] = []
        """The command's process, which is its session too, and the two that copy its output."""
        self.sent = False
        """The guest has been asked to run it."""
        self.code: int | None = None
        self.wants_input = False
        self.input_over = not has_input
        """Nothing more is to be sent: the source has ended, or the command has."""
        self.input_ended = not has_input
        """The guest has been told so."""

    @property
    def complete(self) -> bool:
        """It has ended, all of its output is here, and the guest expects no more input."""
        return self.code is not None and self.input_ended and self.output.ended and self.errors.ended

    @property
    def has_output(self) -> bool:
        """Some output can be taken."""
        return self.output.available or self.errors.available

    def take_output(self) -> list[tuple[Sink, bytes]]:
        """What has come since the last call, for the sinks."""
        streams = (self.output, self.errors)
        return [(stream.sink, data) for stream in streams if (data := stream.take())]

    def obey(self, word: str, numbers: list[int]) -> None:
        """A line of the guest's agent: a word and its numbers. Others than these are no concern of ours."""
        match word, numbers:
            case "started", [_, _, _]:
                self.processes = numbers
            case "exit", [code]:
                self.code = code
                self.input_over = True
            case "want", []:
                self.wants_input = True


class Stream:
    """One stream of output, which ends in `end`; bytes that may be the beginning of `end` are held back."""

    def __init__(self, end: bytes, sink: Sink) -> None:
        self._end = end
        self._data = bytearray()
        self._available = 0
        self.ended = False
        self.sink = sink

    @property
    def available(self) -> bool:
        """Some bytes can be taken."""
        return self._available > 0

    def feed(self, data: bytes) -> None:
        """Bytes from the guest; those behind the end are dropped: a process left behind wrote them."""
        if self.ended:
            return
        self._data += data
        self.ended = self._data.endswith(self._end)
        self._available = len(self._data) - self._held()

    def take(self) -> bytes:
        """The bytes that are surely output."""
        taken = bytes(self._data[: self._available])
        del self._data[: self._available]
        self._available = 0
        return taken

    def _held(self) -> int:
        lengths = range(min(len(self._end), len(self._data)), 0, -1)
        return next((n for n in lengths if self._data.endswith(self._end[:n])), 0)
