"""The real-time clock and its battery-backed memory: Motorola's MC146818 with the PC's century byte.

Offset 0 is the index port (0x70), offset 1 the data port (0x71). The time is the host's when the machine was
made plus the virtual clock, until the guest sets it.

It raises no interrupts: its flag is worked out when register C is read, which is what a driver that polls
needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from gasang.device import Saved, VirtualClock

INDEX, DATA = 0, 1
_NMI_DISABLE = 1 << 7
_SIZE = 128

SECOND = 1_000_000_000
"""In nanoseconds, as the virtual clock counts."""

_UPDATE_TIME = 244_000
"""UIP is set for so many nanoseconds before the seconds advance (data sheet, figure 14)."""


class Register(IntEnum):
    """Indexes of the clock's registers; the rest is memory."""

    SECONDS = 0x00
    SECONDS_ALARM = 0x01
    MINUTES = 0x02
    MINUTES_ALARM = 0x03
    HOURS = 0x04
    HOURS_ALARM = 0x05
    DAY_OF_WEEK = 0x06
    DAY_OF_MONTH = 0x07
    MONTH = 0x08
    YEAR = 0x09
    A = 0x0A
    B = 0x0B
    C = 0x0C
    D = 0x0D
    CENTURY = 0x32


_TIME = frozenset(
    (
        Register.SECONDS,
        Register.MINUTES,
        Register.HOURS,
        Register.DAY_OF_WEEK,
        Register.DAY_OF_MONTH,
        Register.MONTH,
        Register.YEAR,
        Register.CENTURY,
    )
)
_UPDATE_IN_PROGRESS = 1 << 7
_DIVIDER_32_KHZ, _RATE_1024_HZ = 0b010 << 4, 0b0110
_SET, _BINARY, _24_HOURS = 1 << 7, 1 << 2, 1 << 1
_UPDATE_ENDED = 1 << 4
_VALID_RAM_AND_TIME = 1 << 7
_PM = 1 << 7


class RealTimeClock:
    """`start` is the wall-clock time when `clock` was 0; `memory` presets battery-backed bytes."""

    def __init__(self, clock: VirtualClock, start: datetime, memory: Mapping[int, int]) -> None:
        # wiring
        self._clock = clock
        # volatile state
        self._epoch = start.astimezone(UTC)
        self._index = 0
        self._ram = bytearray(_SIZE)
        self._ram[Register.A] = _DIVIDER_32_KHZ | _RATE_1024_HZ
        self._ram[Register.B] = _24_HOURS
        self._last_flags_read = clock()
        for index, value in memory.items():
            self._ram[index] = value

    def read(self, offset: int, size: int) -> int:
        if offset == INDEX:
            return 0xFF  # write-only
        match self._index:
            case Register.A:
                return self._ram[Register.A] | self._update_in_progress()
            case Register.C:
                return self._take_flags()
            case Register.D:
                return _VALID_RAM_AND_TIME
            case index if index in _TIME:
                self._latch_time()
        return self._ram[self._index]

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == INDEX:
            self._index = value & ~_NMI_DISABLE
            return
        match self._index:
            case Register.A:
                self._ram[Register.A] = value & ~_UPDATE_IN_PROGRESS
            case Register.B:
                self._write_control(value)
            case Register.C | Register.D:
                pass  # read-only
            case index if index in _TIME:
                self._latch_time()
                self._ram[index] = value
                self._set_time()
            case index:
                self._ram[index] = value

    def state(self) -> Saved:
        return {
            "epoch": self._epoch.isoformat(),
            "index": self._index,
            "ram": self._ram.hex(),
            "last_flags_read": self._last_flags_read,
        }

    def set_state(self, state: Saved) -> None:
        ram = bytes.fromhex(state["ram"])
        if len(ram) != _SIZE:
            raise ValueError(f"a clock with {len(ram)} bytes of memory")
        self._ram[:] = ram
        self._epoch = datetime.fromisoformat(state["epoch"]).astimezone(UTC)
        self._index = state["index"] & ~_NMI_DISABLE & 0xFF
        self._last_flags_read = int(state["last_flags_read"])

    def step(self, seconds: float) -> None:
        """So much time has passed of which the virtual clock knows nothing."""
        self._epoch += timedelta(seconds=seconds)

    @property
    def _stopped(self) -> bool:
        """SET in register B: the time registers are memory until it is cleared."""
        return bool(self._ram[Register.B] & _SET)

    def _now(self) -> datetime:
        return self._epoch + timedelta(microseconds=self._clock() // 1000)

    def _update_in_progress(self) -> int:
        if self._stopped:
            return 0
        sub_second = self._now().microsecond * 1000
        return _UPDATE_IN_PROGRESS if sub_second >= SECOND - _UPDATE_TIME else 0

    def _take_flags(self) -> int:
        """Register C: the update-ended flag, if a second began since the last read, which clears it."""
        now, last = self._clock(), self._last_flags_read
        self._last_flags_read = now
        return _UPDATE_ENDED if now // SECOND != last // SECOND and not self._stopped else 0

    def _write_control(self, value: int) -> None:
        """Register B: setting SET keeps the time as it is now; clearing it lets the clock go on from it."""
        self._latch_time()
        was_stopped = self._stopped
        self._ram[Register.B] = value
        if was_stopped:
            self._set_time()

    def _latch_time(self) -> None:
        """Bring the time registers up to date, in the format that register B asks for."""
        if self._stopped:
            return
        now = self._now()
        fields = {
            Register.SECONDS: self._encode(now.second),
            Register.MINUTES: self._encode(now.minute),
            Register.HOURS: self._encode_hour(now.hour),
            Register.DAY_OF_WEEK: self._encode(now.isoweekday() % 7 + 1),
            Register.DAY_OF_MONTH: self._encode(now.day),
            Register.MONTH: self._encode(now.month),
            Register.YEAR: self._encode(now.year % 100),
            Register.CENTURY: self._encode(now.year // 100),
        }
        for register, value in fields.items():
            self._ram[register] = value

    def _set_time(self) -> None:
        """Let the clock go on from the time registers; a date that does not exist changes nothing."""
        if self._stopped:
            return
        field = {register: self._decode(self._ram[register]) for register in _TIME}
        try:
            wanted = datetime(
                field[Register.CENTURY] * 100 + field[Register.YEAR],
                field[Register.MONTH],
                field[Register.DAY_OF_MONTH],
                self._decode_hour(self._ram[Register.HOURS]),
                field[Register.MINUTES],
                field[Register.SECONDS],
                tzinfo=UTC,
            )
            self._epoch += wanted - self._now().replace(microsecond=0)
        except (ValueError, OverflowError):
            return

    def _encode(self, value: int) -> int:
        return value if self._ram[Register.B] & _BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._ram[Register.B] & _BINARY else (value >> 4) * 10 + (value & 0xF)

    def _encode_hour(self, hour: int) -> int:
        if self._ram[Register.B] & _24_HOURS:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (_PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._ram[Register.B] & _24_HOURS:
            return self._decode(value)
        return self._decode(value & ~_PM) % 12 + (12 if value & _PM else 0)


def memory_size_bytes(ram: int, cpus: int) -> dict[int, int]:
    """The memory of a PC's CMOS that tells `ram` bytes: base memory and what lies above 1 and 16 MiB."""
    kib = ram >> 10
    extended = min(kib - 1024, 0xFFFF)
    above_16_mib = min(max(kib - 16 * 1024, 0), 3 * (1 << 20) - 16 * 1024) >> 6
    values = {0x15: 640, 0x17: extended, 0x30: extended, 0x34: above_16_mib}
    layout = {index + byte: value >> (8 * byte) & 0xFF for index, value in values.items() for byte in (0, 1)}
    above_4_gib = max(ram - 3 * (1 << 30), 0) >> 16
    high = {0x5B + byte: above_4_gib >> (8 * byte) & 0xFF for byte in range(3)}
    return {**layout, **high, 0x14: _COPROCESSOR, 0x5F: cpus - 1}


_COPROCESSOR = 1 << 1
"""Equipment byte: a coprocessor, no diskette drive."""
