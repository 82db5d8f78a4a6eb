"""The translated blocks that the guide shows, as the translator makes them today.

    python docs/show_blocks.py           print them
    python docs/show_blocks.py --write   put them into docs/guide/how-translation-works.md

Each snippet is run in a machine of its own: 64-bit code at CPL 0, paging on, address = physical address.
The guide marks their places by "<!-- block NAME -->". Host addresses differ from run to run, so jumps get
labels; the names of slots and ways out are read from the translator's sources.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gasang import _engine

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs/guide/how-translation-works.md"
TRANSLATOR = ROOT / "engine/translate/src"

ENTRY = 0x10000
_DATA = 0x20000
_PAGE_TABLE = 0x2000

SNIPPETS = {
    "sum": """
        again: add rax, [rsi + rcx*8]
        dec rcx
        jnz again
        hlt""",
    "carry": """
        add rax, [rsi]
        adc rdx, [rdi]
        jmp next
        next: hlt""",
    "neighbours": """
        push rbx
        push rbp
        jmp next
        next: hlt""",
    "spilled": """
        mov r10, [r9 + 8]
        add r11, r10
        jmp next
        next: hlt""",
    "call": """
        call function
        hlt
        function: ret""",
    "interpreted": """
        mov ecx, 1
        cpuid
        hlt""",
}
"""Guest code by name; the first block that is translated is shown, of "call" the last."""

_LAST_BLOCK = {"call"}
_MARK = re.compile(r"(<!-- block (\w+) -->\n).*?(<!-- end of block -->)", re.DOTALL)
_ADDRESS = re.compile(r"\b(?:[0-9A-F]{16}|[0-9A-F]{12})h\b")
_SLOT = re.compile(r"gs:\[([0-9A-F]+)h?\]")


def render(name: str) -> str:
    """The block of a snippet as a fenced listing."""
    blocks = _translate(SNIPPETS[name])
    block = blocks[-2 if name in _LAST_BLOCK else 0]
    names = _Names(block)
    guest = [f"  {address:5x}  {_short(text)}" for address, _, text in block.guest]
    host = [f"{names.label(address):>6}  {names.replace(text)}" for address, _, text in block.host]
    end = next(number for number, line in enumerate(host, 1) if line.split()[0] == "jmp")
    host.insert(end, "")  # behind it is what seldom runs
    size = sum(len(code) for _, code, _ in block.host)
    head = f"guest, {len(block.guest)} instructions", f"host, {len(block.host)} instructions, {size} bytes"
    return "\n".join(["```text", head[0], *guest, "", head[1], *host, "```", ""])


def _short(text: str) -> str:
    return _ADDRESS.sub(lambda found: f"{int(found[0][:-1], 16):X}h", text)


def rendered_guide(text: str) -> str:
    """The guide's text with today's blocks."""
    return _MARK.sub(lambda mark: mark[1] + render(mark[2]) + mark[3], text)


@dataclass(frozen=True)
class _Slots:
    """What generated code calls the words behind the GS base: constants of the translator's."""

    by_number: dict[int, str]
    exits: list[str]

    @staticmethod
    def read() -> _Slots:
        slots = re.findall(r"const (\w+): i32 = slot\((\d+)\)", (TRANSLATOR / "slots.rs").read_text())
        exits = re.findall(r"far\(\w+::(\w+)\)", (TRANSLATOR / "emit.rs").read_text())
        return _Slots({int(number): name for name, number in slots}, exits)


class _Names:
    """Names in place of a block's addresses: labels inside, the ways out by name, slots by name."""

    def __init__(self, block: _engine.TranslatedBlock) -> None:
        self._slots = _Slots.read()
        targets = {int(found[:-1], 16) for _, _, text in block.host for found in _ADDRESS.findall(text)}
        inside = [address for address, _, _ in block.host if address in targets]
        self._labels = {address: f"L{number}" for number, address in enumerate(inside, 1)}
        self._first_slot = self._find_slots(block)

    def _find_slots(self, block: _engine.TranslatedBlock) -> int:
        """The offset of slot 0: the last store of every block is the one to SITE."""
        site = next(number for number, name in self._slots.by_number.items() if name == "SITE")
        stores = [text for _, _, text in block.host if text.startswith("mov dword ptr gs:[")]
        found = _SLOT.search(stores[-1])
        assert found is not None, "a block ends in a store to SITE"
        return int(found[1], 16) - 8 * site

    def label(self, address: int) -> str:
        return self._labels[address] + ":" if address in self._labels else ""

    def replace(self, text: str) -> str:
        return _SLOT.sub(self._slot, _ADDRESS.sub(self._target, text))

    def _target(self, found: re.Match[str]) -> str:
        address = int(found[0][:-1], 16)
        # The ways out are at the start of the cache, a page: 14 bytes each.
        number, rest = divmod(address % 4096, 14)
        if address in self._labels:
            return self._labels[address]
        is_exit = rest == 0 and number < len(self._slots.exits)
        return self._slots.exits[number] if is_exit else found[0]

    def _slot(self, found: re.Match[str]) -> str:
        offset = int(found[1], 16)
        number, rest = divmod(offset - self._first_slot, 8)
        if offset < 128 and offset % 8 == 0:  # the state begins with the general-purpose registers
            return f"gs:[R{offset // 8}]"
        name = self._slots.by_number.get(number) if rest == 0 else None
        return f"gs:[{name}]" if name else found[0]


def _translate(source: str) -> list[_engine.TranslatedBlock]:
    vm = _engine.Vm(memory=1 << 20, trace_blocks=True)
    vcpu = vm.vcpu(0)
    vm.write_memory(ENTRY, _assemble(source))
    for level in range(2):
        table = _PAGE_TABLE + 0x1000 * level
        vm.write_memory(table, (table + 0x1000 | 3).to_bytes(8, "little"))
    vm.write_memory(_PAGE_TABLE + 0x2000, (0x83).to_bytes(8, "little"))  # 2 MiB, identity
    code = _engine.Segment(0x08, 0, 0xFFFFFFFF, 0xA09B)
    data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), _engine.Segment(0x10, 0, 0xFFFFFFFF, 0xC093))
    vcpu.set_registers(cr0=0x80000011, cr3=_PAGE_TABLE, cr4=0x620, efer=0x500, cs=code, **data)
    vcpu.set_registers(rip=ENTRY, rsp=0x30000, rsi=_DATA, rdi=_DATA, rcx=3, r9=_DATA)
    vcpu.run(instructions=1000)
    return vcpu.translated_blocks()


def _assemble(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        text, object_, flat = (Path(directory) / name for name in ("code.s", "code.o", "code.bin"))
        text.write_text(f".intel_syntax noprefix\n{source}\n")
        subprocess.run(["as", "-o", object_, text], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", object_, flat], check=True)
        return flat.read_bytes()


def main() -> None:
    """Print the blocks, or write them into the guide."""
    if sys.argv[1:] == ["--write"]:
        GUIDE.write_text(rendered_guide(GUIDE.read_text()))
        return
    for name in SNIPPETS:
        print(f"## {name}\n\n{render(name)}")


if __name__ == "__main__":
    main()
