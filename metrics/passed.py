"""The bytes of one window for a whole fleet: chunks that lie in it are not unpacked.

The answer is that of `increases`, which unpacks the hours of all of them.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from heapq import nlargest
from operator import add, attrgetter, itemgetter, sub
from typing import Any, NamedTuple

from django.db import OperationalError
from django.db.models import Max, Min, Q, QuerySet, Sum

from metrics import memory
from metrics.codec import CodecError
from metrics.counters import BYTES, GAP, Buckets, Chain, Reading, empty_buckets, measure, sums_between, unroll
from metrics.final import FOREVER, limits_as_of
from metrics.increases import (
    Hours,
    add_newest,
    bytes_as_of,
    followed,
    hour_around,
    hours_line,
    room_of,
    unrolled_windows,
)
from metrics.models import (
    DAY_MS,
    EPOCH,
    HOUR_MS,
    Chunk,
    Interface,
    around,
    day_of,
    day_start,
    sums_of_hours,
    to_ms,
    unpack_reading,
)
from metrics.plain import plain_lines
from metrics.readings import Log, Logs, Waiting, newest_sealed, readings, with_newer
from metrics.shelf import Shelf, is_late, read_shelf
from metrics.steady import Standing, Standings, standings_of
from metrics.streaming import stream

OF_CHUNKS = (*BYTES, "covered_seconds", "resets")
OTHERS_OF_HOURS = ("covered_ms", "marks")
OF_OTHERS = (
    "interface_id",
    "start",
    "days",
    "last_at",
    "last_reading",
    "has_readings",
    "has_newer",
    *OF_CHUNKS,
    "hours",
)
TOLD = (*BYTES, "covered_ms")
SOON_SEALED_MS = 2 * HOUR_MS
MOST_OF_READINGS_MS = DAY_MS  # a longer window is faster told from hours, and from two that it cuts

Sums = list[int]  # rx and tx, and more than 0 where anything is known


class _Chunks(NamedTuple):
    """The chunks of a window, by interface: the sums of those within it, and those that its edges may cut."""

    within: dict[int, Sums]
    until: int  # the end of those within, ms
    others: dict[int, list["_Other"]]


@dataclass
class _Other:
    """A chunk, as far as sums need it, and what was told of it before."""

    interface: int
    start: date
    days: int
    last_at: datetime | None
    last_reading: str
    has_readings: bool
    has_newer: bool
    totals: Sequence[int]
    hours: bytes
    known: dict[tuple[int, int], Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start_ms = day_start(self.start)
        self.end_ms = self.start_ms + self.days * DAY_MS

    @property
    def chunk(self) -> Chunk:
        """As it is in the database, with nothing but its hours."""
        return Chunk(interface_id=self.interface, start=self.start, days=self.days, hours=self.hours)

    def add_to(self, sums: Sums, since: int, until: int, sealed_until: int) -> None:
        """Add what passed between two whole hours; nothing is sealed past `sealed_until` (ms)."""
        start, end = max(since, self.start_ms), min(until, self.end_ms)
        if start >= end:
            return
        if start == self.start_ms and (end == self.end_ms or sealed_until <= end) and any(self.totals):
            _add(sums, self.totals)
        else:
            sums[:] = map(add, sums, self.between(start, end))

    def between(self, start: int, end: int) -> Sums:
        """Return what passed between two whole hours within the chunk."""
        if (start, end) not in self.known:
            first, last = ((at - self.start_ms) // HOUR_MS for at in (start, end))
            try:
                rx, tx = sums_of_hours(self.hours, BYTES, first, last)
                is_known = rx + tx > 0 or any(sums_of_hours(self.hours, OTHERS_OF_HOURS, first, last))
            except CodecError:
                self.chunk.get_hours()  # it tells which chunk is damaged
                raise
            self.known[start, end] = [rx, tx, int(is_known)]
        return self.known[start, end]


@dataclass
class _Part:
    """What is known of one interface: the sums without the hours that an edge cuts, of those that are `final`.

    Up to `final` (ms) hours serve, and from `since` on readings do.
    """

    interface: Interface
    sums: Sums
    hours: Hours
    final: int
    since: int
    is_told: bool = False  # all after the final hours is in the sums


def passed(
    interfaces: Sequence[Interface],
    start: int,
    end: int,
    *,
    most: int | None = None,
    ahead: bool = False,
    standings: Standings | None = None,
) -> dict[int, tuple[int, int] | None]:
    """Return the bytes, rx and tx, that passed each interface, by its id, from `start` to `end` (ms).

    None where nothing is known. Those that are not among the `most` that passed most may be left out. Where it is read
    `ahead`, it is told from hours, and so are the next windows of these hours, which then need little else. The
    `standings` are those of the interfaces, as of `start` and `end`.
    """
    if not interfaces:
        return {}
    instants = [start, end]
    standings = standings or standings_of(interfaces, instants)
    key = ("passed", start, end, most, *(interface.id for interface in interfaces))
    known: dict[int, tuple[int, int] | None] | None = memory.recall(key, standings.version)
    if known is None:
        logs = standings.logs  # before any chunk: what is sealed in between is in both
        shelf = _shelf_of_late(interfaces, instants, standings)
        known, unclear = _passed(interfaces, instants, standings, logs, shelf, most, ahead)
        if unclear:
            known |= _told(bytes_as_of(standings, unclear, instants, shelf))
        if all(interface.revision == standings.of[interface.server_id].revision for interface in unclear):
            memory.keep(key, standings.version, known, rows=4 * len(interfaces))
    return known


def _shelf_of_late(interfaces: Sequence[Interface], instants: Sequence[int], standings: Standings) -> Shelf:
    """Return the chunks of the interfaces of which something waits that came late."""
    waiting = standings.waiting
    late = [interface for interface in interfaces if is_late(interface, waiting)]
    return read_shelf(late, instants, waiting) if late else {}


def _passed(
    interfaces: Sequence[Interface],
    instants: Sequence[int],
    standings: Standings,
    logs: Logs,
    late: Shelf,
    most: int | None,
    ahead: bool,
) -> tuple[dict[int, tuple[int, int] | None], list[Interface]]:
    """Return what passed, and of which interfaces the totals of chunks do not tell it."""
    sealed, waiting = standings.sealed, standings.waiting
    limits = limits_as_of(standings, interfaces, logs, late, instants[0])
    told: dict[int, tuple[int, int] | None] = {}
    shelf = late
    is_ranking = most is not None and most < len(interfaces)
    if not (ahead or is_ranking or _known_chunks(interfaces, instants[0], instants[1], sealed)):
        in_time = [interface for interface in interfaces if interface.id not in late]
        told, of_others = _of_readings(in_time, instants, limits, standings, logs)
        shelf = {**late, **of_others}
        interfaces = [interface for interface in interfaces if interface.id not in told]
        if not interfaces:
            return told, []
    chunks = _chunks_of(interfaces, instants[0], instants[1], sealed, shelf)
    parts: dict[int, _Part] = {}
    unclear = []
    for interface in interfaces:
        others = chunks.others.get(interface.id, [])
        server = interface.server_id
        hours = _hours(interface, limits[interface.id], waiting.get(server), logs.get(server), others, instants)
        final, since = hours.bounds(instants)
        sums = _sums(interface, final, chunks, instants)
        if sums is None or not _is_as_read(interface, sealed):
            unclear.append(interface)
        else:
            parts[interface.id] = _Part(interface, sums, hours, final, since)
    until_newest = _until_newest(parts, instants, standings, shelf)
    for pk, part in parts.items():
        server = part.interface.server_id
        part.is_told = _add_plain(part, standings.of[server], logs.get(server), instants, until_newest.get(pk))
    cut = {hour_around(instant)[0] for instant in instants if instant % HOUR_MS}
    if most is not None:
        parts = _foremost(parts, chunks, cut, most)
    _add_cut(parts, cut, instants, sealed, shelf)
    waits = {pk: part for pk, part in parts.items() if not part.is_told}
    totals = {pk: _bucket(part.sums) for pk, part in waits.items()}
    if waits:
        hours_of = {pk: part.hours for pk, part in waits.items()}
        of_waits = [part.interface for part in waits.values()]
        add_newest(totals, of_waits, hours_of, instants, BYTES, standings.all_logs, are_thin=True, shelf=shelf)
    told |= {pk: _both(part.sums) for pk, part in parts.items()}
    return told | _told(totals), unclear


def _is_as_read(interface: Interface, sealed: Mapping[str, int]) -> bool:
    """Tell whether nothing of its server was sealed between when the interface was read and its standing."""
    return interface.sealed_revision in (None, sealed[interface.server_id])


def _of_readings(
    interfaces: Sequence[Interface],
    instants: Sequence[int],
    limits: Mapping[int, int],
    standings: Standings,
    logs: Logs,
) -> tuple[dict[int, tuple[int, int] | None], Shelf]:
    """Return what passed in a window of a day at most that cuts hours, of those of which readings alone tell it.

    These have plain readings, up to the newest sealed one and on in the log. With them come the chunks of those that
    have others.
    """
    start, end = instants
    is_by_hours = all(instant % HOUR_MS == 0 for instant in instants)
    if is_by_hours or end - start > MOST_OF_READINGS_MS:
        return {}, {}
    as_read = [each for each in interfaces if _is_as_read(each, standings.sealed)]
    final = [each for each in as_read if limits[each.id] >= end]
    going_on = [each for each in as_read if limits[each.id] < end and logs.get(each.server_id) is not None]
    if 10 * (len(final) + len(going_on)) < 9 * len(interfaces):  # the rest is asked of the chunks as ever
        return {}, {}
    newest_at = {each.id: to_ms(each.sealed_until) for each in as_read if each.sealed_until is not None}
    # Of those without a revision, something may have been sealed since.
    silent = [each for each in final if newest_at.get(each.id, start) <= start and each.sealed_revision is not None]
    told: dict[int, tuple[int, int] | None] = {each.id: None for each in silent}
    final = [each for each in final if each.id not in told]
    windows = {each.id: (start, end) for each in final}
    windows |= {each.id: (start, min(end, at)) for each in going_on if start < (at := newest_at.get(each.id, start))}
    reach = hour_around(start)[0], hour_around(end)[1]  # what the hours that the window cuts need
    plain = plain_lines({pk: [window] for pk, window in windows.items()}, newest_at, thin=True, reach=reach)
    lines = {pk: of_window[windows[pk]] for pk, of_window in plain.lines.items() if of_window}
    sums: dict[int, Sums] = {each.id: [0, 0, 0] for each in final if each.id in lines}
    for pk in sums:
        _add_between(sums[pk], [lines[pk]], instants)
    told |= {pk: _both(of_interface) for pk, of_interface in sums.items()}
    newest = newest_sealed([each for each in going_on if each.id not in windows])
    followed_on: dict[Interface, Reading] = {}
    for interface in going_on:
        server = interface.server_id
        log, standing = logs[server], standings.of[server]
        is_read = interface.id in windows
        last = unpack_reading(plain.last.get(interface.id, "")) if is_read else newest.get(interface.id)
        last_sealed = followed(last, interface, standing.waiting, log)
        hours = Hours(start, start, None, None, last_sealed, -FOREVER, None)
        part = _Part(interface, [0, 0, 0], hours, final=start, since=start)
        if _add_plain(part, standing, log, instants, lines.get(interface.id)):
            told[interface.id] = _both(part.sums)
        elif last_sealed is not None and (interface.id in lines or last_sealed.at <= start):
            followed_on[interface] = last_sealed
    return told | _of_log(followed_on, lines, instants, logs), plain.others


def _of_log(
    newest: Mapping[Interface, Reading], lines: Mapping[int, Chain], instants: Sequence[int], logs: Logs
) -> dict[int, tuple[int, int] | None]:
    """Return what passed those of which the log goes on from the newest sealed reading, if not plainly.

    The `lines` tell what passed until then, where a window begins before.
    """
    start, end = instants
    since = min((max(start, of.at) for of in newest.values()), default=start)
    last = {interface.id: of for interface, of in newest.items()}
    read = readings(list(newest), since, end, BYTES, logs=logs, newest=last, last_waiting=FOREVER) if newest else {}
    told: dict[int, tuple[int, int] | None] = {}
    for pk, of_log in read.items():
        sums, until = [0, 0, 0], last[pk].at
        if start < until:
            _add_between(sums, [lines[pk]], [start, min(end, until)])
        if until < end:
            _add_between(sums, unroll(of_log, BYTES), [max(start, until), end])
        told[pk] = _both(sums)
    return told


def _add_cut(
    parts: Mapping[int, _Part],
    cut: Collection[int],
    instants: Sequence[int],
    sealed: Mapping[str, int],
    shelf: Shelf,
) -> None:
    """Add what passed in the final hours that an edge cuts, from their readings."""
    edges = {hour: [max(hour, instants[0]), min(hour + HOUR_MS, instants[1])] for hour in cut}
    final: dict[tuple[int, int], list[Interface]] = {(hour, hour + HOUR_MS): [] for hour in cut}
    for part in parts.values():
        for hour, end in final:
            if end <= part.final and hour < part.hours.kept_from and part.hours.line is not None:
                _add_between(part.sums, [part.hours.line], edges[hour])  # in proportion to time, past their retention
            elif end <= part.final and not _ends_before(part.interface, hour, sealed):
                final[hour, end].append(part.interface)
    for (hour, _), of_hour in unrolled_windows(final, BYTES, sealed, shelf).items():
        for pk, chains in of_hour.items():
            _add_between(parts[pk].sums, chains, edges[hour])


def _ends_before(interface: Interface, hour: int, sealed: Mapping[str, int]) -> bool:
    """Tell whether nothing of an hour (ms) is sealed, as far as is known: its newest sealed reading is earlier."""
    newest = interface.sealed_until
    return newest is not None and to_ms(newest) <= hour and interface.sealed_revision == sealed[interface.server_id]


def _foremost(parts: Mapping[int, _Part], chunks: _Chunks, cut: Collection[int], count: int) -> dict[int, _Part]:
    """Return the parts that may be among the `count` with most bytes, were all of the hours that are cut in them."""
    if len(parts) <= count:
        return dict(parts)
    least = nlargest(count, (sum(part.sums[:2]) for part in parts.values()))
    return {
        pk: part
        for pk, part in parts.items()
        if not part.is_told or _most(part, chunks.others.get(pk, []), cut) >= least[-1]
    }


def _most(part: _Part, others: Sequence[_Other], cut: Collection[int]) -> int:
    """Return no less than the bytes that passed, both ways together."""
    sums = list(part.sums)
    for other in others:
        for hour in cut:
            if hour + HOUR_MS <= part.final:
                other.add_to(sums, hour, hour + HOUR_MS, FOREVER)
    return sums[0] + sums[1]


def _until_newest(
    parts: Mapping[int, _Part], instants: Sequence[int], standings: Standings, shelf: Shelf
) -> dict[int, Chain]:
    """Return what is sealed of the hour of the newest sealed reading, where an edge cuts it and it is plain."""
    lines: dict[int, Chain] = {}
    wanted: dict[int, list[tuple[int, int]]] = {}
    keys: dict[int, tuple[object, ...]] = {}
    for pk, part in parts.items():
        standing, newest = standings.of[part.interface.server_id], part.hours.newest
        since = part.since
        if newest is not None and standing.since is not None and standing.since <= newest.at and since < newest.at:
            keys[pk] = ("until newest", pk, since)
            kept: Chain | None = memory.recall(keys[pk], standing.sealed)
            if kept is not None:
                lines[pk] = kept
            elif since < instants[1] and instants[0] < newest.at:
                wanted[pk] = [(since, newest.at)]
    for pk, read in plain_lines(wanted, {}, shelf=shelf).lines.items():
        for line in read.values():
            lines[pk] = line
            sealed = standings.of[parts[pk].interface.server_id].sealed
            memory.keep(keys[pk], sealed, line, rows=room_of(line))
    return lines


def _add_plain(
    part: _Part, standing: Standing, log: Log | None, instants: Sequence[int], until_newest: Chain | None
) -> bool:
    """Add what passed after the hours, if the log goes on plainly from the newest sealed reading; tell whether."""
    since, newest = part.since, part.hours.newest
    if since >= instants[1]:
        return True
    if log is None or standing.since is None:
        return False
    line = log.readings.get(part.interface.name, [])
    # Of an interface that was read without a revision, something may have been sealed since.
    is_sealed = part.interface.sealed_until is not None or (standing.sealed and part.interface.sealed_revision is None)
    is_known = newest is not None and (newest.at <= max(since, instants[0]) or until_newest is not None)
    if newest is not None and is_known and standing.since <= newest.at:
        line = [newest, *line]
    elif is_sealed or sum(reading.at <= standing.since for reading in line) > 1:
        return False  # of one of which nothing was ever sealed, it goes on from the first
    if until_newest is not None and newest is not None:
        start, end = max(instants[0], since), min(instants[1], newest.at)
        if start < end:
            _add_between(part.sums, [until_newest], [start, end])
    if line:
        start, end = max(instants[0], since, line[0].at), min(instants[1], line[-1].at)
        if start < end:
            _add(part.sums, [*map(sub, _counters_at(line, end), _counters_at(line, start)), 1])
    return True


def _counters_at(line: Sequence[Reading], instant: int) -> tuple[int, int]:
    """Return rx and tx at an instant: between two readings, in proportion to time."""
    index = bisect_right(line, instant, key=attrgetter("at"))
    a, b = line[index - 1], line[min(index, len(line) - 1)]
    since, span = instant - a.at, max(b.at - a.at, 1)
    return (
        a.rx_bytes + (b.rx_bytes - a.rx_bytes) * since // span,
        a.tx_bytes + (b.tx_bytes - a.tx_bytes) * since // span,
    )


def _hours(
    interface: Interface,
    limit: int,
    waiting: Waiting | None,
    log: Log | None,
    others: Sequence[_Other],
    instants: Sequence[int],
) -> Hours:
    """Return up to when the hours of an interface serve, and what is left of those whose readings are gone."""
    newest = None
    if others and limit < instants[-1]:
        newest = followed(unpack_reading(others[-1].last_reading), interface, waiting, log)
    first_waiting, last_waiting = (waiting.first_at, waiting.last_at) if waiting else (None, None)
    pruned = [other for other in others if not other.has_readings]
    is_cut = any(instant % HOUR_MS for instant in instants)
    kept_from = max((chunk.end_ms for chunk in pruned), default=-FOREVER)
    line = hours_line([other.chunk for other in others], BYTES, (), ()) if pruned and is_cut else None
    return Hours(instants[0], limit, first_waiting, last_waiting, newest, kept_from, line)


def _sums(interface: Interface, final: int, chunks: _Chunks, instants: Sequence[int]) -> Sums | None:
    """Return what the whole hours of the window say; None where the totals of chunks do not tell it."""
    since = -(-instants[0] // HOUR_MS) * HOUR_MS
    until = min(final, instants[1] // HOUR_MS * HOUR_MS)
    sums = list(chunks.within.get(interface.id, [0, 0, 0]))
    if interface.id in chunks.within and (until < chunks.until or not any(sums)):
        return None  # late readings wait for some of these chunks; or no byte and no second, but a gap perhaps
    others = chunks.others.get(interface.id, [])
    newest = others[-1].last_at or EPOCH if others else EPOCH
    if others and (interface.sealed_until is None or newest > interface.sealed_until):
        return None  # sealed since the window was asked for
    if newest == interface.sealed_until and others[-1].has_newer:
        return None  # so was that, in another chunk: the hour of the newest reading may have more in it by now
    for other in others:
        other.add_to(sums, since, until, to_ms(interface.sealed_until or EPOCH))
    return sums


def _key_of(interfaces: Sequence[Interface], start: int, end: int, sealed: Mapping[str, int]) -> tuple[Hashable, int]:
    """Return under which key, and as of which revision, the chunks of a window are remembered."""
    key = "chunks", *hour_around(start), hour_around(end)[1], *(interface.id for interface in interfaces)
    return key, sum(sealed[server] for server in {interface.server_id for interface in interfaces})


def _known_chunks(interfaces: Sequence[Interface], start: int, end: int, sealed: Mapping[str, int]) -> _Chunks | None:
    return memory.recall(*_key_of(interfaces, start, end, sealed))


def _chunks_of(
    interfaces: Sequence[Interface], start: int, end: int, sealed: Mapping[str, int], shelf: Shelf
) -> _Chunks:
    """Return the chunks of the window; read once until something is sealed. What is on the `shelf` is not read."""
    (since, first), (_, last) = hour_around(start), hour_around(end)
    missing = [interface for interface in interfaces if interface.id not in shelf]
    chunks = _known_chunks(missing, start, end, sealed)
    if chunks is None and missing:
        chunks = _read_chunks([interface.id for interface in missing], since, first, last)
        others = [other for of_interface in chunks.others.values() for other in of_interface]
        rows = 10 * len(missing) + sum(20 + len(other.hours) // 50 for other in others)
        memory.keep(*_key_of(missing, start, end, sealed), chunks, rows=rows)
    within, until, others_of = chunks or _Chunks({}, since, {})
    shelved = {each.id: list(map(_other, shelf[each.id])) for each in interfaces if each.id in shelf}
    return _Chunks(within, until, {**others_of, **shelved})


def _other(chunk: Chunk) -> _Other:
    totals = [getattr(chunk, name) for name in OF_CHUNKS]
    return _Other(
        chunk.interface_id, chunk.start, chunk.days, chunk.last_at, chunk.last_reading, chunk.has_readings,
        chunk.has_newer, totals, bytes(chunk.hours),
    )  # fmt: skip


def _read_chunks(ids: Sequence[int], since: int, first: int, last: int) -> _Chunks:
    # What is over for a while is sealed, but for late readings.
    start, end = day_of(first + DAY_MS - 1), day_of(last - SOON_SEALED_MS)
    of_all = Chunk.objects.filter(interface__in=ids)
    within: dict[int, Sums] = {}
    spans: dict[int, tuple[date, date]] = {}
    edges = [around(since, last)]
    if start < end:
        inner = Q(start__gte=start, start__lt=end) & (Q(days=1) | Q(start__lte=end - timedelta(days=7)))
        for pk, first_day, last_day, *of_chunks in _sums_of_each(of_all.filter(inner).order_by()):
            _add(within.setdefault(pk, [0, 0, 0]), of_chunks)
            if first_day is not None:
                before = spans.get(pk, (first_day, last_day))
                spans[pk] = min(first_day, before[0]), max(last_day, before[1])
        last_week = max(start, end - timedelta(days=6))
        at_end = Q(start__gte=last_week, start__lte=day_of(last)) & (Q(start__gte=end) | Q(days=7))
        edges = [around(since, day_start(start) - 1), at_end]
    by_interface: dict[int, list[_Other]] = defaultdict(list)
    # An index bounds each edge, where of both at once it would look at all between them.
    of_edges = [with_newer(of_all.filter(edge).order_by().with_hours()).values_list(*OF_OTHERS) for edge in edges]
    rows = sorted(stream(of_edges[0].union(*of_edges[1:], all=True)), key=itemgetter(0, 1))
    for pk, first_day, days, last_at, last_reading, has_readings, has_newer, *totals, hours in rows:
        summed_from, summed_to = spans.get(pk, (date.max, date.min))
        if first_day <= summed_to and first_day + timedelta(days=days) > summed_from:
            return _read_chunks(ids, since, first, last)  # its days were summed, and have become a week since
        other = _Other(pk, first_day, days, last_at, last_reading, has_readings, has_newer, totals, hours)
        by_interface[pk].append(other)
    return _Chunks(within, day_start(end), dict(by_interface))


def _sums_of_each(chunks: QuerySet[Chunk]) -> list[Any]:
    """Return the first and last day that is a chunk of its own, and the sums of all chunks, by interface.

    Where that is more than SQLite adds, those of each chunk.
    """
    days = {"first_day": Min("start", filter=Q(days=1)), "last_day": Max("start", filter=Q(days=1))}
    try:
        return list(
            chunks.values_list("interface_id").annotate(**days, **{f"all_{name}": Sum(name) for name in OF_CHUNKS})
        )
    except OperationalError:
        return list(chunks.values_list("interface_id", "start", "start", *OF_CHUNKS))


def _add_between(sums: Sums, chains: Sequence[Chain], edges: Sequence[int]) -> None:
    """Add what passed between two instants."""
    if any(chain.marks for chain in chains):
        bucket = measure(chains, edges, BYTES)
        _add(sums, [bucket.sums["rx_bytes"][0], bucket.sums["tx_bytes"][0], int(bucket.is_known(0))])
    else:
        _add(sums, [values[0] for values in sums_between(chains, edges, TOLD)])


def _add(sums: Sums, of_chunks: Sequence[int]) -> None:
    rx, tx, *_ = of_chunks
    sums[:] = sums[0] + rx, sums[1] + tx, sums[2] + int(any(of_chunks))


def _both(sums: Sums) -> tuple[int, int] | None:
    return (sums[0], sums[1]) if sums[2] else None


def _bucket(sums: Sums) -> Buckets:
    bucket = empty_buckets(1, BYTES)
    bucket.sums["rx_bytes"][0], bucket.sums["tx_bytes"][0], is_known = sums
    bucket.marks[0] = GAP if is_known else 0  # which, is not told
    return bucket


def _told(totals: dict[int, Buckets]) -> dict[int, tuple[int, int] | None]:
    return {
        pk: (of.sums["rx_bytes"][0], of.sums["tx_bytes"][0]) if of.is_known(0) else None for pk, of in totals.items()
    }
