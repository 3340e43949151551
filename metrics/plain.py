"""Sealed readings told from some rows of their chunks' columns, where each is plainly more than the one before.

That is nearly all of them: one boot, no gap, counters that only count up. All others, `readings` and `unroll` tell.
"""

from array import array
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, groupby
from operator import itemgetter, sub
from typing import Any, NamedTuple

from metrics.codec import CodecError, Table
from metrics.counters import BYTES, GAP_INTERVALS_TENTHS, REQUIRED, Chain, Reading
from metrics.models import DAY_MS, READING_COLUMNS, Chunk, day_start, unpack_reading
from metrics.readings import chunks_around, is_around
from metrics.streaming import stream

COLUMN = {name: index for index, name in enumerate(READING_COLUMNS)}
AT = COLUMN["at"]
SAME = [COLUMN[name] for name in ("interval", "link", "boot", "ifindex")]
STORED = ("interface_id", "start", "days", "last_reading", "readings")

Window = tuple[int, int]


def plain_lines(
    wanted: Mapping[int, Collection[Window]], newest: Mapping[int, int]
) -> tuple[dict[int, dict[Window, Chain]], list[Chunk]]:
    """Return the plain ones of sealed readings in some windows (ms) of some interfaces, by the interface's id.

    Each is a chain of bytes that reaches from a reading before the window, or at its start, to one after it, or to the
    `newest` sealed one (ms). With them come the chunks around the windows of the interfaces that have others.
    """
    lines: dict[int, dict[Window, Chain]] = {}
    others: list[Chunk] = []
    clocks: dict[Hashable, _Clock] = {}
    if wanted:
        chunks = chunks_around(wanted, set().union(*wanted.values())).order_by("interface_id", "start")
        with closing(stream(chunks.values_list(*STORED))) as rows:
            for pk, group in groupby(rows, itemgetter(0)):
                of_interface = list(group)
                lines[pk] = _plain([_Stored(*row) for row in of_interface], wanted[pk], newest.get(pk), clocks)
                if len(lines[pk]) < len(wanted[pk]):
                    others.extend(Chunk(**dict(zip(STORED, row, strict=True))) for row in of_interface)
    return lines, others


def _plain(
    chunks: Sequence["_Stored"], windows: Iterable[Window], newest: int | None, clocks: dict[Hashable, "_Clock"]
) -> dict[Window, Chain]:
    found: dict[Window, Chain] = {}
    try:
        for start, end in windows:
            near = [each for each in chunks if is_around(each.starts, each.ends, start, end)]
            if (line := _line(near, (start, end), newest, clocks)) is not None:
                found[start, end] = line
    except CodecError:
        return {}  # who unpacks all of it tells which chunk is damaged
    return found


class _Stored:
    """The readings of a chunk, opened when they are asked for."""

    def __init__(self, _interface: int, start: Any, days: int, last_reading: str, readings: bytes | None) -> None:
        self.starts = day_start(start)
        self.ends = self.starts + days * DAY_MS
        self._readings = readings
        self._last_reading = last_reading
        self._table: Table | None = None
        self._same: list[int | None] = []

    def open(self) -> tuple[Table | None, list[int | None]]:
        """Return the readings, and those of their columns that have to be the same; None where there are none."""
        if self._table is None and self._readings:
            self._table = Table(bytes(self._readings))
            self._same = list(map(self._table.constant, SAME))
        return self._table, self._same

    def last(self) -> Reading | None:
        return unpack_reading(self._last_reading)


class _Clock(NamedTuple):
    """The rows of a window, one on each side where there is one, and their instants.

    All interfaces of a server were read at the same instants, so that most are found once for all of them.
    """

    first: int
    last: int
    at: Sequence[int]
    longest: int  # between two of them, ms
    has_before: bool
    has_after: bool


def _clock(table: Table, start: int, end: int) -> _Clock:
    first, last = table.count_up_to(AT, start) - 1, table.count_up_to(AT, end - 1)
    rows = max(first, 0), min(last, table.rows - 1)
    at = table.values(AT, rows[0], rows[1] + 1)
    return _Clock(*rows, array("q", at), max(map(sub, at[1:], at), default=0), first >= 0, last < table.rows)


def _line(near: Sequence[_Stored], window: Window, newest: int | None, clocks: dict[Hashable, _Clock]) -> Chain | None:
    tables: list[Table] = []
    for each in near:
        table, same = each.open()
        if table is None or not table.rows or None in same or same != near[0].open()[1]:
            return None
        tables.append(table)
    start, end = window
    holder = next((index for index, each in enumerate(near) if each.starts <= start and end <= each.ends), None)
    if holder is None:
        return None
    key = tables[holder].packed(AT), window
    if key not in clocks:
        clocks[key] = _clock(tables[holder], start, end)
    clock = clocks[key]
    before = near[holder - 1].last() if not clock.has_before and holder else None
    after = tables[holder + 1] if not clock.has_after and holder + 1 < len(tables) else None
    if not (clock.has_before or before) or not (clock.has_after or after or clock.at[-1] == newest):
        return None
    return _chain(_Rows(near[holder], tables[holder], clock, before, after))


class _Rows(NamedTuple):
    """Some rows of a chunk, perhaps with the last reading of the chunk before it, or the first one of the next."""

    holder: _Stored
    table: Table
    clock: _Clock
    before: Reading | None
    after: Table | None

    def instants(self) -> Sequence[int]:
        if self.before is None and self.after is None:
            return self.clock.at
        before = [self.before.at] if self.before is not None else []
        return array("q", [*before, *self.clock.at, *(self.after.values(AT, 0, 1) if self.after is not None else ())])

    def steps(self, column: str) -> Sequence[int]:
        """Return the increases of a column from each row to the next."""
        index = COLUMN[column]
        steps = self.table.steps(index, self.clock.first, self.clock.last)
        if self.before is not None:
            steps = [self.table.values(index, 0, 1)[0] - getattr(self.before, column), *steps]
        if self.after is not None:
            steps = [*steps, self.after.values(index, 0, 1)[0] - getattr(self.holder.last(), column)]
        return steps

    def never_falls(self, column: str) -> bool:
        return self.before is None and self.after is None and self.table.never_falls(COLUMN[column])


def _chain(rows: _Rows) -> Chain | None:
    interval, link, *_ = rows.holder.open()[1]
    at = rows.instants()
    longest = max(rows.clock.longest, at[min(1, len(at) - 1)] - at[0], at[-1] - at[max(-2, -len(at))])
    if longest * 10 > GAP_INTERVALS_TENTHS * (interval or 0):
        return None
    rx, tx = map(rows.steps, BYTES)
    if any(min(rows.steps(name), default=0) < 0 for name in REQUIRED if not rows.never_falls(name)):
        return None
    total: dict[str, Sequence[int]] = {
        "rx_bytes": array("q", accumulate(rx, initial=0)),
        "tx_bytes": array("q", accumulate(tx, initial=0)),
        "covered_ms": at,
    }
    if link:
        total["up_ms"] = at
    return Chain(at, {}, total, {}, {}, {}, {})
