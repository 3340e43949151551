"""Sealed readings told from some rows of their chunks' columns, where each is plainly more than the one before.

That is nearly all of them: one boot, no gap, counters that only count up. All others, `readings` and `unroll` tell.
"""

from array import array
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, groupby, pairwise
from operator import itemgetter, sub
from typing import Any, NamedTuple

from metrics.codec import CodecError, Table
from metrics.counters import BYTES, GAP_INTERVALS_TENTHS, REQUIRED, Chain, Reading
from metrics.models import DAY_MS, HOUR_COLUMNS, HOUR_MS, READING_COLUMNS, Chunk, day_start, from_ms, unpack_reading
from metrics.readings import chunks_around, is_around, is_read, with_newer
from metrics.shelf import Shelf
from metrics.streaming import stream

COLUMN = {name: index for index, name in enumerate(READING_COLUMNS)}
AT = COLUMN["at"]
COUNTED = [COLUMN[name] for name in REQUIRED]
SAME = [COLUMN[name] for name in ("interval", "link", "boot", "ifindex")]
MARKS, COVERED = (HOUR_COLUMNS.index(name) for name in ("marks", "covered_ms"))
STORED = (
    "interface_id", "start", "days", "last_reading", *BYTES, "covered_seconds", "resets", "has_newer",
    "hours", "readings",
)  # fmt: skip

Window = tuple[int, int]


class Plain(NamedTuple):
    """By interface: its plain lines; the last reading around the windows; all chunks there, if these are not all."""

    lines: dict[int, dict[Window, Chain]]
    last: dict[int, str]
    others: dict[int, list[Chunk]]


def plain_lines(
    wanted: Mapping[int, Collection[Window]],
    newest: Mapping[int, int],
    *,
    thin: bool = False,
    reach: Window | None = None,
    shelf: Shelf | None = None,
) -> Plain:
    """Return the plain ones of sealed readings in some windows (ms) of some interfaces.

    Each is a chain of bytes that reaches from a reading before the window, or at its start, to one after it, or to the
    `newest` sealed one (ms). It has all readings in between. Where it is `thin`, it has those next to the window's ends
    and to those of chunks, enough for what passed from the start to the end, and the hours know of nothing else. The
    chunks that come with them are those around the `reach`, too. What is on the `shelf` is not read again.
    """
    found = Plain({}, {}, {pk: [] for pk in wanted})
    shelf = shelf or {}
    clocks = _Clocks(thin)
    for pk, group in groupby(_rows(wanted, reach, shelf), itemgetter(0)):
        rows = list(group)
        found.lines[pk] = _plain([_Stored(*row) for row in rows], wanted[pk], newest.get(pk), clocks)
        found.last[pk] = next((last for row in reversed(rows) if (last := row[STORED.index("last_reading")])), "")
        if len(found.lines[pk]) == len(wanted[pk]):
            del found.others[pk]
        else:
            found.others[pk] = list(map(_chunk, rows))
    return found


def _rows(wanted: Mapping[int, Collection[Window]], reach: Window | None, shelf: Shelf) -> Iterator[tuple[Any, ...]]:
    near = {pk: _around(shelf[pk], wanted[pk]) for pk in wanted.keys() & shelf.keys()}
    near = {pk: chunks for pk, chunks in near.items() if all(map(is_read, chunks))}
    for chunks in near.values():
        for chunk in chunks:
            yield tuple(getattr(chunk, name) for name in STORED)
    if missing := wanted.keys() - near.keys():
        windows = set().union(*(wanted[pk] for pk in missing), [reach] if reach else [])
        of_missing = with_newer(chunks_around(missing, windows)).order_by("interface_id", "start")
        with closing(stream(of_missing.values_list(*STORED))) as rows:
            yield from rows


def _around(chunks: Sequence[Chunk], windows: Collection[Window]) -> list[Chunk]:
    return [chunk for chunk in chunks if any(is_around(chunk.start_ms, chunk.end_ms, *window) for window in windows)]


def _chunk(row: Sequence[Any]) -> Chunk:
    values = dict(zip(STORED, row, strict=True))
    has_newer = values.pop("has_newer")
    chunk = Chunk(**values)
    chunk.has_newer = has_newer
    last = chunk.get_last_reading()
    chunk.last_at = from_ms(last.at) if last is not None else None
    chunk.has_readings = chunk.readings is not None
    return chunk


def _plain(
    chunks: Sequence["_Stored"], windows: Iterable[Window], newest: int | None, clocks: "_Clocks"
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

    def __init__(self, _interface: int, start: Any, days: int, last_reading: str, *others: Any) -> None:
        *_, hours, readings = others
        self.starts = day_start(start)
        self.ends = self.starts + days * DAY_MS
        self._hours: bytes = hours
        self._readings: bytes | None = readings
        self._last_reading = last_reading
        self._table: Table | None = None
        self._same: list[int | None] = []

    def open(self) -> tuple[Table | None, list[int | None]]:
        """Return the readings, and those of their columns that have to be the same; None where there are none."""
        if self._table is None and self._readings:
            self._table = Table(bytes(self._readings))
            self._same = list(map(self._table.constant, SAME))
        return self._table, self._same

    def same_within(self, first: int, last: int) -> list[int] | None:
        """Return those of the columns from one row to another; None where they are not the same there."""
        table, same = self.open()
        if table is None:
            return None
        within = [
            {value} if value is not None else set(table.values(column, first, last + 1))
            for column, value in zip(SAME, same, strict=True)
        ]
        return [values.pop() for values in within] if all(len(values) == 1 for values in within) else None

    def last(self) -> Reading | None:
        return unpack_reading(self._last_reading)

    def has_one_line(self, start: int, end: int, newest: int | None, known: dict[Hashable, bool]) -> bool:
        """Tell whether the hours between two instants know of one line of readings, without a mark.

        They know of a second boot, too, that was silent for so long that it has no reading there. What is `known` of
        other interfaces of the server is mostly true of this one.
        """
        first = (max(start, self.starts) - self.starts) // HOUR_MS
        last = -((self.starts - min(end, self.ends)) // HOUR_MS)
        if first >= last:
            return True
        table = Table(bytes(self._hours))
        marks = table.constant(MARKS)
        if marks or (marks is None and table.total(MARKS, first, last)):
            return False
        key = self.starts, first, last, newest, table.packed(COVERED)
        if key not in known:
            begins = range(self.starts + first * HOUR_MS, self.starts + last * HOUR_MS, HOUR_MS)
            covered = [HOUR_MS if newest is None else max(min(newest - at, HOUR_MS), 0) for at in begins]
            known[key] = table.values(COVERED, first, last) == covered
        return known[key]


class _Clock(NamedTuple):
    """Which rows of consecutive chunks tell what passed in a window, and when these were read."""

    rows: list[tuple[int, Sequence[int]]]  # the place of each chunk, and its rows
    at: Sequence[int]  # of all of them
    longest: int  # between two readings, ms
    reaches_end: bool


class _Clocks:
    """All interfaces of a server were read at the same instants: most clocks are found once for all of them."""

    def __init__(self, thin: bool) -> None:
        self.thin = thin
        self.covered: dict[Hashable, bool] = {}
        self._found: dict[Hashable, _Clock | None] = {}

    def of(self, tables: Sequence[Table], window: Window) -> _Clock | None:
        """Return the rows of consecutive chunks; None where none is at the window's start, or before it."""
        key = window, *(table.packed(AT) for table in tables)
        if key not in self._found:
            self._found[key] = self._clock(tables, *window)
        return self._found[key]

    def _clock(self, tables: Sequence[Table], start: int, end: int) -> _Clock | None:
        spans = [table.span(AT, start, end) for table in tables]
        begins = max((place for place, (_, at) in enumerate(spans) if at[0] <= start), default=None)
        if begins is None:
            return None
        all_at: list[int] = []
        at = array("q")
        rows: list[tuple[int, Sequence[int]]] = []
        for place, (first, of_chunk) in enumerate(spans[begins:], begins):
            last = first + len(of_chunk) - 1
            wanted: Sequence[int] = range(first, last + 1)
            if self.thin:
                wanted = sorted({first, min(first + 1, last), max(first, last - 1), last})
            all_at.extend(of_chunk)
            at.extend(of_chunk[row - first] for row in wanted)
            rows.append((place, wanted))
            if of_chunk[-1] >= end:
                break
        return _Clock(rows, at, max(map(sub, all_at[1:], all_at), default=0), all_at[-1] >= end)


def _line(near: Sequence[_Stored], window: Window, newest: int | None, clocks: _Clocks) -> Chain | None:
    tables: list[Table] = []
    for each in near:
        table, same = each.open()
        if table is None or not table.rows:
            return None
        if not clocks.thin and (None in same or same != near[0].open()[1]):
            return None  # nor are there hours to tell whether it is another boot's, too
        tables.append(table)
    clock = clocks.of(tables, window)
    if clock is None or not (clock.reaches_end or clock.at[-1] == newest):
        return None
    first, *others = (near[place].same_within(of_chunk[0], of_chunk[-1]) for place, of_chunk in clock.rows)
    if first is None or any(other != first for other in others):
        return None
    interval, link, *_ = first
    if clock.longest * 10 > GAP_INTERVALS_TENTHS * interval:
        return None
    rows = _Rows([(near[place], tables[place], of_chunk) for place, of_chunk in clock.rows])
    if not rows.are_ascending():
        return None
    if clocks.thin and not all(each.has_one_line(*window, newest, clocks.covered) for each in near):
        return None
    total = {name: rows.running(name) for name in BYTES}
    total["covered_ms"] = clock.at
    if link:
        total["up_ms"] = clock.at
    return Chain(clock.at, {}, total, {}, {}, {}, {})


class _Rows(NamedTuple):
    """Some rows of consecutive chunks."""

    of_chunks: list[tuple[_Stored, Table, Sequence[int]]]

    def running(self, column: str) -> Sequence[int]:
        """Return how much a column's value had increased since the first row by each."""
        index = COLUMN[column]
        _, table, rows = self.of_chunks[0]
        increases = table.increases(index, rows)
        for joint, (_, table, rows) in zip(self._joints(column), self.of_chunks[1:], strict=True):
            increases += [joint, *table.increases(index, rows)]
        return array("q", accumulate(increases, initial=0))

    def are_ascending(self) -> bool:
        """Tell whether no value of a column that each reading has is lower than the one before it."""
        of_each = (table.are_ascending(COUNTED, rows[0], rows[-1]) for _, table, rows in self.of_chunks)
        return all(of_each) and all(joint >= 0 for column in REQUIRED for joint in self._joints(column))

    def _joints(self, column: str) -> list[int]:
        """Return the increases from the last row of each chunk to the first of the next."""
        if len(self.of_chunks) < 2:  # most windows lie in one
            return []
        return [
            table.values(COLUMN[column], 0, 1)[0] - getattr(chunk.last(), column)
            for (chunk, *_), (_, table, _) in pairwise(self.of_chunks)
        ]
