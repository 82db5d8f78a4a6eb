"""Translation blocks as text."""

import os
from dataclasses import dataclass

from gasang.cli.block_trace import BlockTrace, listing


@dataclass
class Block:
    guest_address: int = 0xFFFFFFFF81000000
    physical_address: int = 0x1000000
    guest: tuple = (
        (0xFFFFFFFF81000000, b"\x50", "push rax"),
        (0xFFFFFFFF81000001, b"\xc3", "ret"),
    )
    host: tuple = (
        (0x7F0000000000, b"\x48\x89\xc3", "mov rbx, rax"),
        (0x7F0000000003, b"\x90", "nop"),
        (0x7F0000000004, b"\xc3", "ret"),
    )


def test_guest_and_host_code_stand_side_by_side():
    head, first, second, third, *end = listing(Block()).split("\n")
    assert head == (
        "block 0xffffffff81000000, physical 0x1000000: 2 guest instructions, 3 host instructions of 5 bytes"
    )
    assert first.split("|") == [f"  {'ffffffff81000000  push rax':60}", " mov rbx, rax"]
    assert second.startswith("  ffffffff81000001  ret ")
    assert third.strip() == "| ret"
    assert end == ["", ""]


class Machine:
    def __init__(self, blocks):
        self.blocks = blocks

    def translated_blocks(self, cpu):
        blocks, self.blocks[cpu] = self.blocks[cpu], []
        return blocks


def test_every_block_of_every_processor_is_written():
    read, write = os.pipe()
    machine = Machine([[Block(1)], [Block(2), Block(3)]])
    with BlockTrace(write).following(machine, cpus=2):
        machine.blocks[0].append(Block(4))
    os.close(write)
    with os.fdopen(read) as trace:
        heads = [line for line in trace if line.startswith("block")]
    assert sorted(head.split(",")[0] for head in heads) == [
        "block 0x1",
        "block 0x2",
        "block 0x3",
        "block 0x4",
    ]


def test_trace_that_nobody_reads_does_not_disturb():
    read, write = os.pipe()
    os.close(read)
    with BlockTrace(write).following(Machine([[Block()]])):
        pass
    os.close(write)
