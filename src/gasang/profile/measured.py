"""What a profile says: the engine's measurements of all processors, by name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gasang.profile.symbols import Symbols

_PAGE = 4096


class Measurements(Protocol):
    """What the engine measured of one processor (`_engine.Measurements`)."""

    @property
    def phases(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def interpreted(self) -> Sequence[tuple[int, str, int, int]]: ...
    @property
    def samples(self) -> Sequence[tuple[int, str, int]]: ...
    @property
    def exits(self) -> Sequence[tuple[str, int, int, int]]: ...
    @property
    def lost(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Phase:
    """What processors' threads did: how often it was begun, and seconds of the host's, all together.

    "code" is translated code (T1), "interpret" the interpreter (T0), "direct" its short cut for new code,
    "translate" making translated code; "dispatch" finds the next block after T0 or at the start of a slice;
    "poll", "lookup", "link", "leave", "user_miss", "supervisor_miss", "extended" and "fault" are what follows
    when translated code leaves for that reason; "machine" is the engine's clock and chipset and the delivery
    of interrupts, "outside" Python, "idle" a halted guest.
    """

    name: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Guest code by its samples: those in translated code, in T0, and in the rest of the engine for it."""

    name: str
    translated: int
    interpreted: int
    engine: int

    @property
    def samples(self) -> int:
        """All of them."""
        return self.translated + self.interpreted + self.engine


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction that T0 executed, or a form of instruction wherever it was: how often, and seconds."""

    place: str
    form: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Executed:
    """Translated code by how often it was entered, and how many guest instructions that were."""

    name: str
    times: int
    instructions: int


@dataclass(frozen=True, slots=True)
class Exit:
    """What Python answered: the kind, the port or address, how often, and seconds."""

    kind: str
    place: int
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a guest's time went. Everything is in descending order of time, or of samples.

    `seconds` are of all processors together, and `phases` add up to them. `symbols` and `blocks` come from
    samples at equal intervals of time, `lost` of which found no room; `forms` and `instructions` (T0's),
    `exits` and `counters` (the engine's statistics since the machine was made) are exact. So are
    `executed_symbols` and `executed_blocks`, since the machine was made, where blocks count.
    """

    processors: int
    seconds: float
    phases: tuple[Phase, ...]
    symbols: tuple[Place, ...]
    blocks: tuple[Place, ...]
    forms: tuple[Instruction, ...]
    instructions: tuple[Instruction, ...]
    executed_symbols: tuple[Executed, ...]
    executed_blocks: tuple[Executed, ...]
    exits: tuple[Exit, ...]
    lost: int
    counters: Mapping[str, int]


def profile(
    measured: Iterable[Measurements],
    counters: Mapping[str, int],
    symbols: Symbols,
    executions: Iterable[tuple[int, int, int]] = (),
) -> Profile:
    """The profile of the processors `measured`.

    `executions` of all of their blocks, if these counted, are (guest address, times, instructions).
    """
    processors = list(measured)
    phases = _phases(processors)
    counted = list(executions)

    def by_symbol(address: int) -> str:
        return symbol_name(symbols, address)

    return Profile(
        processors=len(processors),
        seconds=sum(each.seconds for each in phases),
        phases=phases,
        symbols=_places(processors, by_symbol),
        blocks=_places(processors, symbols.name),
        forms=_instructions(processors, lambda _: ""),
        instructions=_instructions(processors, symbols.name),
        executed_symbols=_executed(counted, by_symbol),
        executed_blocks=_executed(counted, symbols.name),
        exits=_exits(processors),
        lost=sum(each.lost for each in processors),
        counters=dict(counters),
    )


def symbol_name(symbols: Symbols, address: int) -> str:
    """The symbol that `address` is in, or else its page."""
    symbol = symbols.find(address)
    if symbol is not None:
        return symbol.name
    return f"{address & -_PAGE:#x} (page)" if address else "(unknown)"


def _phases(processors: Sequence[Measurements]) -> tuple[Phase, ...]:
    total: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for each in processors:
        for name, (count, time) in each.phases.items():
            total[name] = total[name][0] + count, total[name][1] + time
    found = [Phase(name, count, time / 1e9) for name, (count, time) in total.items()]
    return tuple(sorted(found, key=lambda each: (-each.seconds, each.name)))


def _places(processors: Sequence[Measurements], name: Callable[[int], str]) -> tuple[Place, ...]:
    columns = {"code": 0, "interpret": 1, "direct": 1}
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in processors:
        for address, phase, samples in each.samples:
            counts[name(address)][columns.get(phase, 2)] += samples
    found = [Place(called, *columns) for called, columns in counts.items()]
    return tuple(sorted(found, key=lambda each: (-each.samples, each.name)))


def _instructions(processors: Sequence[Measurements], name: Callable[[int], str]) -> tuple[Instruction, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    times: Counter[tuple[str, str]] = Counter()
    for each in processors:
        for address, form, count, time in each.interpreted:
            key = name(address), form
            counts[key] += count
            times[key] += time
    found = [Instruction(*key, count, times[key] / 1e9) for key, count in counts.items()]
    return tuple(sorted(found, key=lambda each: (-each.seconds, each.place, each.form)))


def _executed(counted: Sequence[tuple[int, int, int]], name: Callable[[int], str]) -> tuple[Executed, ...]:
    times: Counter[str] = Counter()
    instructions: Counter[str] = Counter()
    for address, entered, executed in counted:
        times[name(address)] += entered
        instructions[name(address)] += executed
    found = [Executed(called, times[called], executed) for called, executed in instructions.items()]
    return tuple(sorted(found, key=lambda each: (-each.instructions, each.name)))


def _exits(processors: Sequence[Measurements]) -> tuple[Exit, ...]:
    counts: Counter[tuple[str, int]] = Counter()
    times: Counter[tuple[str, int]] = Counter()
    for each in processors:
        for kind, place, count, time in each.exits:
            counts[kind, place] += count
            times[kind, place] += time
    found = [
        Exit(kind.removeprefix("exits_"), place, count, times[kind, place] / 1e9)
        for (kind, place), count in counts.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.seconds, each.kind, each.place)))
