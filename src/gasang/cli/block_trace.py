"""Shows translation blocks: the guest's code beside the host code that it became."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Protocol

from gasang.cli.trace import Trace

_LEFT_WIDTH = 60

Line = tuple[int, bytes, str]


class Block(Protocol):
    """A translation block, as the engine shows it: code as (address, bytes, text) in program order."""

    @property
    def guest_address(self) -> int: ...
    @property
    def physical_address(self) -> int: ...
    @property
    def guest(self) -> list[Line]: ...
    @property
    def host(self) -> list[Line]: ...


class Source(Protocol):
    """A machine, as far as it is of use here."""

    def translated_blocks(self, cpu: int = ...) -> Sequence[Block]:
        """The blocks translated since the last call."""


class BlockTrace(Trace[Source]):
    """Writes blocks to a descriptor as they are translated."""

    def texts(self, machine: Source, cpu: int) -> Iterator[str]:
        """The listings of the processor's blocks."""
        return (listing(block) for block in machine.translated_blocks(cpu))


def listing(block: Block) -> str:
    """A block as text: a head line, then guest and host code in two columns, then an empty line."""
    size = sum(len(code) for _, code, _ in block.host)
    lines = [
        f"block {block.guest_address:#x}, physical {block.physical_address:#x}: "
        f"{len(block.guest)} guest instructions, {len(block.host)} host instructions of {size} bytes"
    ]
    for guest, host in zip_longest(block.guest, block.host):
        left = "" if guest is None else f"{guest[0]:016x}  {guest[2]}"
        right = "" if host is None else host[2]
        lines.append(f"  {left:{_LEFT_WIDTH}}| {right}".rstrip())
    return "\n".join(lines) + "\n\n"
