"""A profile as text for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from gasang.profile.measured import Phase, Profile

_ROWS = 20
"""Lines of a table, from the top."""

_PHASES = {
    "code": "translated code (T1)",
    "interpret": "interpreter (T0)",
    "direct": "new code, executed directly",
    "translate": "translation",
    "dispatch": "finding the next block",
    "poll": "left: slice over",
    "lookup": "left: unknown jump target",
    "link": "left: jump to be linked",
    "leave": "left: instruction for T0",
    "user_miss": "left: TLB miss, user",
    "supervisor_miss": "left: TLB miss, kernel",
    "extended": "left: extended state wanted",
    "fault": "left: host fault",
    "machine": "clock, chipset, interrupts",
    "outside": "devices and waiting in Python",
    "idle": "guest halted",
}


def as_json(profile: Profile) -> str:
    """All of a profile, its dataclasses as objects."""
    return json.dumps(asdict(profile), indent=1) + "\n"


def as_text(profile: Profile) -> str:
    """The tops of a profile's tables."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    count = profile.counters.get("instructions", 0)
    cpus = f"{profile.processors} processor" + ("s" if profile.processors != 1 else "")
    yield f"profile of {cpus}: {profile.seconds:.2f} s, {count:,} instructions"
    yield ""
    yield f"{'where time went':30} {'share':>7} {'seconds':>9} {'times':>12} {'ns each':>9}"
    for phase in profile.phases:
        if phase.count:
            yield _phase(phase, profile.seconds)
    yield from _samples(profile)
    yield from _executed(profile)
    yield from _interpreted(profile)
    yield from _exits(profile)
    yield from _counters(profile)


def _phase(phase: Phase, whole: float) -> str:
    name = _PHASES.get(phase.name, phase.name)
    return f"{name:30} {_share(phase.seconds, whole)} {_cost(phase.count, phase.seconds)}"


def _samples(profile: Profile) -> Iterator[str]:
    whole = sum(place.samples for place in profile.symbols)
    if not whole:
        return
    lost = f", {profile.lost} more lost" if profile.lost else ""
    for title, places in (("symbol", profile.symbols), ("block", profile.blocks)):
        yield ""
        yield f"{f'by {title} ({whole} samples{lost})':54} {'share':>7} {'T1':>7} {'T0':>7} {'engine':>7}"
        for place in places[:_ROWS]:
            parts = (place.samples, place.translated, place.interpreted, place.engine)
            yield f"{place.name:54} " + " ".join(_share(part, whole) for part in parts)
        yield from _rest(places)


def _executed(profile: Profile) -> Iterator[str]:
    whole = sum(each.instructions for each in profile.executed_symbols)
    for title, rows in (("symbol", profile.executed_symbols), ("block", profile.executed_blocks)):
        if rows:
            yield ""
            heading = f"translated code by {title}, counted"
            yield f"{heading:54} {'share':>7} {'instructions':>15} {'times':>13}"
        for each in rows[:_ROWS]:
            share = _share(each.instructions, whole)
            yield f"{each.name:54} {share} {each.instructions:15,} {each.times:13,}"
        yield from _rest(rows)


def _interpreted(profile: Profile) -> Iterator[str]:
    for title, rows in (("forms", profile.forms), ("instructions", profile.instructions)):
        if rows:
            yield ""
            yield f"{f'{title} that T0 executed':62} {'share':>7} {'seconds':>9} {'times':>12} {'ns each':>9}"
        for each in rows[:_ROWS]:
            name = f"{each.form:24} {each.place}".rstrip()
            yield f"{name:62} {_share(each.seconds, profile.seconds)} {_cost(each.count, each.seconds)}"
        yield from _rest(rows)


def _exits(profile: Profile) -> Iterator[str]:
    if profile.exits:
        yield ""
        yield f"{'exits to Python':30} {'share':>7} {'seconds':>9} {'times':>12} {'ns each':>9}"
    for each in profile.exits[:_ROWS]:
        name = f"{each.kind} {each.place:#x}"
        yield f"{name:30} {_share(each.seconds, profile.seconds)} {_cost(each.count, each.seconds)}"
    yield from _rest(profile.exits)


def _counters(profile: Profile) -> Iterator[str]:
    yield ""
    yield "counters since the machine was made"
    for name, value in sorted(profile.counters.items()):
        if value:
            yield f"{name.replace('_', ' '):30} {value:>17,}"


def _rest(rows: Sequence[object]) -> Iterator[str]:
    if len(rows) > _ROWS:
        yield f"  and {len(rows) - _ROWS} more"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:5.1f} %"


def _cost(count: int, seconds: float) -> str:
    each = f"{1e9 * seconds / count:9,.0f}" if count else f"{'':9}"
    return f"{seconds:9.3f} {count:12,} {each}"
