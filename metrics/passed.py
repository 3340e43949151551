"""The bytes of one window for a whole fleet: chunks that lie in it are not unpacked.

The answer is that of `increases`, which unpacks the hours of all of them.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import nlargest
from operator import add, attrgetter, sub
from typing import Any, NamedTuple

from django.db import OperationalError
from django.db.models import Q, QuerySet, Sum

from metrics import memory
from metrics.counters import GAP, Buckets, Reading, empty_buckets
from metrics.increases import (
    BYTES,
    FOREVER,
    Hours,
    add_cut_hours,
    add_newest,
    bytes_between,
    followed,
    hour_around,
    hours_line,
    limits_of,
)
from metrics.models import DAY_MS, EPOCH, HOUR_MS, Chunk, Interface, day_of, day_start, to_ms
from metrics.readings import Log, Waiting
from metrics.steady import Standing, Standings, standings_of

OF_CHUNKS = (*BYTES, "covered_seconds", "resets")
OTHERS_OF_HOURS = ("covered_ms", "marks")
SOON_SEALED_MS = 2 * HOUR_MS

Sums = list[int]  # rx and tx, and more than 0 where anything is known


class _Chunks(NamedTuple):
    """The chunks of a window, by interface: the sums of those within it, and those that its edges may cut."""

    within: dict[int, Sums]
    until: int  # the end of those within, ms
    others: dict[int, list["_Other"]]


@dataclass
class _Other:
    chunk: Chunk
    known: dict[tuple[int, int], Sums] = field(default_factory=dict)

    def add_to(self, sums: Sums, since: int, until: int, sealed_until: int) -> None:
        """Add what passed between two whole hours; nothing is sealed past `sealed_until` (ms)."""
        chunk = self.chunk
        start, end = max(since, chunk.start_ms), min(until, chunk.end_ms)
        if start >= end:
            return
        of_chunk = [getattr(chunk, name) for name in OF_CHUNKS]
        if start == chunk.start_ms and (end == chunk.end_ms or sealed_until <= end) and any(of_chunk):
            _add(sums, of_chunk)
        else:
            sums[:] = map(add, sums, self.between(start, end))

    def between(self, start: int, end: int) -> Sums:
        """Return what passed between two whole hours within the chunk."""
        if (start, end) not in self.known:
            some = slice((start - self.chunk.start_ms) // HOUR_MS, (end - self.chunk.start_ms) // HOUR_MS)
            rx, tx = (sum(values[some]) for values in self.chunk.get_columns_of_hours(BYTES))
            is_known = rx + tx > 0 or any(any(of[some]) for of in self.chunk.get_columns_of_hours(OTHERS_OF_HOURS))
            self.known[start, end] = [rx, tx, int(is_known)]
        return self.known[start, end]


class _Part(NamedTuple):
    """What is known of one interface: the sums without the final hours that an edge cuts (ms)."""

    sums: Sums
    hours: Hours
    cut: list[int]
    is_told: bool  # all after the final hours is in the sums


def passed(
    interfaces: Sequence[Interface], start: int, end: int, *, most: int | None = None
) -> dict[int, tuple[int, int] | None]:
    """Return the bytes, rx and tx, that passed each interface, by its id, from `start` to `end` (ms).

    None where nothing is known. Those that are not among the `most` that passed most may be left out.
    """
    if not interfaces:
        return {}
    instants = [start, end]
    standings = standings_of(interfaces, instants)
    key = ("passed", start, end, most, *(interface.pk for interface in interfaces))
    known: dict[int, tuple[int, int] | None] | None = memory.recall(key, standings.version)
    if known is None:
        known, unclear = _passed(interfaces, instants, standings, most)
        if unclear:
            known |= _told(bytes_between(unclear, instants))  # as of when the interfaces were read: not to be kept
        else:
            memory.keep(key, standings.version, known, rows=4 * len(interfaces))
    return known


def _passed(
    interfaces: Sequence[Interface], instants: Sequence[int], standings: Standings, most: int | None
) -> tuple[dict[int, tuple[int, int] | None], list[Interface]]:
    """Return what passed, and of which interfaces the totals of chunks do not tell it."""
    sealed, waiting, logs = standings.sealed, standings.waiting, standings.logs()
    limits = limits_of(interfaces, waiting)
    chunks = _chunks_of(interfaces, instants[0], instants[1], sealed)
    parts: dict[Interface, _Part] = {}
    unclear = []
    for interface in interfaces:
        others = chunks.others.get(interface.pk, [])
        hours = _hours(interface, limits[interface], waiting.get(interface.server_id), others, instants)
        sums = _sums(interface, hours, chunks, instants)
        if sums is None:
            unclear.append(interface)
        else:
            standing, log = standings.of[interface.server_id], logs.get(interface.server_id)
            is_told = _add_plain(sums, interface, hours, standing, log, instants)
            cut = [
                hour
                for hour in {hour_around(instant)[0] for instant in instants if instant % HOUR_MS}
                if hour + HOUR_MS <= hours.bounds(instants)[0]
            ]
            parts[interface] = _Part(sums, hours, cut, is_told)
    if most is not None:
        parts = _foremost(parts, chunks, most)
    told = {each.pk: (part.sums[0], part.sums[1]) if part.sums[2] else None for each, part in parts.items()}
    rest = [each for each, part in parts.items() if part.cut or not part.is_told]
    waits = [each for each in rest if not parts[each].is_told]
    totals = {each.pk: _bucket(parts[each].sums) for each in rest}
    hours_of = {each.pk: parts[each].hours for each in rest}
    add_cut_hours(totals, rest, hours_of, instants, BYTES, sealed)
    add_newest(totals, waits, hours_of, instants, BYTES, logs, are_thin=True)
    return told | _told(totals), unclear


def _foremost(parts: Mapping[Interface, _Part], chunks: _Chunks, count: int) -> dict[Interface, _Part]:
    """Return the parts that may be among the `count` with most bytes, were all of the hours that are cut in them."""
    least = nlargest(count, (sum(part.sums[:2]) for part in parts.values()))
    if len(least) < count:
        return dict(parts)
    return {
        interface: part
        for interface, part in parts.items()
        if not part.is_told or _most(interface, part, chunks) >= least[-1]
    }


def _most(interface: Interface, part: _Part, chunks: _Chunks) -> int:
    """Return no less than the bytes that passed, both ways together."""
    sums = list(part.sums)
    for other in chunks.others.get(interface.pk, []):
        for hour in part.cut:
            other.add_to(sums, hour, hour + HOUR_MS, FOREVER)
    return sums[0] + sums[1]


def _add_plain(
    sums: Sums, interface: Interface, hours: Hours, standing: Standing, log: Log | None, instants: Sequence[int]
) -> bool:
    """Add what passed after the hours, if the log goes on plainly from the newest sealed reading; tell whether."""
    since = hours.bounds(instants)[1]
    if since >= instants[1]:
        return True
    if log is None or standing.since is None:
        return False
    line = log.readings.get(interface.name, [])
    is_sealed = standing.sealed or interface.sealed_until is not None
    if hours.newest is not None and standing.since <= hours.newest.at == since:
        line = [hours.newest, *line]
    elif is_sealed or sum(reading.at <= standing.since for reading in line) > 1:
        return False  # of one of which nothing was ever sealed, it goes on from the first
    if line:
        start, end = max(instants[0], since, line[0].at), min(instants[1], line[-1].at)
        if start < end:
            sums[:] = map(add, sums, (*map(sub, _counters_at(line, end), _counters_at(line, start)), 1))
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
    interface: Interface, limit: int, waiting: Waiting | None, others: Sequence[_Other], instants: Sequence[int]
) -> Hours:
    """Return up to when the hours of an interface serve, and what is left of those whose readings are gone."""
    last = others[-1].chunk if others else None
    newest = followed(last.get_last_reading(), interface, waiting) if last and limit < instants[-1] else None
    first_waiting, last_waiting = (waiting.first_at, waiting.last_at) if waiting else (None, None)
    pruned = [other.chunk for other in others if not other.chunk.has_readings]
    is_cut = any(instant % HOUR_MS for instant in instants)
    kept_from = max((chunk.end_ms for chunk in pruned), default=-FOREVER)
    line = hours_line([other.chunk for other in others], BYTES, (), ()) if pruned and is_cut else None
    return Hours(instants[0], limit, first_waiting, last_waiting, newest, kept_from, line)


def _sums(interface: Interface, hours: Hours, chunks: _Chunks, instants: Sequence[int]) -> Sums | None:
    """Return what the whole hours of the window say; None where the totals of chunks do not tell it."""
    since = -(-instants[0] // HOUR_MS) * HOUR_MS
    until = min(hours.bounds(instants)[0], instants[1] // HOUR_MS * HOUR_MS)
    sums = list(chunks.within.get(interface.pk, [0, 0, 0]))
    if interface.pk in chunks.within and (until < chunks.until or not any(sums)):
        return None  # late readings wait for some of these chunks; or no byte and no second, but a gap perhaps
    others = chunks.others.get(interface.pk, [])
    if others and (interface.sealed_until is None or (others[-1].chunk.last_at or EPOCH) > interface.sealed_until):
        return None  # sealed since the window was asked for
    for other in others:
        other.add_to(sums, since, until, to_ms(interface.sealed_until or EPOCH))
    return sums


def _chunks_of(interfaces: Sequence[Interface], start: int, end: int, sealed: Mapping[str, int]) -> _Chunks:
    """Return the chunks of the window; read once until something is sealed."""
    (since, first), (_, last) = hour_around(start), hour_around(end)
    ids = [interface.pk for interface in interfaces]
    key = ("chunks", since, first, last, *ids)
    revision = sum(sealed.values())
    chunks: _Chunks | None = memory.recall(key, revision)
    if chunks is None:
        chunks = _read_chunks(ids, since, first, last)
        others = [other.chunk for of_interface in chunks.others.values() for other in of_interface]
        rows = 10 * len(ids) + sum(40 + len(chunk.hours) // 50 for chunk in others)
        memory.keep(key, revision, chunks, rows=rows)
    return chunks


def _read_chunks(ids: Sequence[int], since: int, first: int, last: int) -> _Chunks:
    # What is over for a while is sealed, but for late readings.
    start, end = day_of(first + DAY_MS - 1), day_of(last - SOON_SEALED_MS)
    of_all = Chunk.objects.filter(interface__in=ids)
    others = of_all.around(since, last).with_hours().defer("readings", "first_at")
    within: dict[int, Sums] = {}
    if start < end:
        days = Q(days=1, start__lt=end) | Q(days=7, start__lte=end - timedelta(days=7))
        inner = Q(start__gte=start) & days
        for pk, *of_chunks in _sums_of_each(of_all.filter(inner).order_by()):
            _add(within.setdefault(pk, [0, 0, 0]), of_chunks)
        others = others.exclude(inner)
    by_interface: dict[int, list[_Other]] = defaultdict(list)
    for chunk in others:
        by_interface[chunk.interface_id].append(_Other(chunk))
    return _Chunks(within, day_start(end), dict(by_interface))


def _sums_of_each(chunks: QuerySet[Chunk]) -> list[Any]:
    """Return the sums of the chunks by interface; or each chunk's own, where that is more than SQLite adds."""
    try:
        return list(chunks.values_list("interface_id").annotate(*map(Sum, OF_CHUNKS)))
    except OperationalError:
        return list(chunks.values_list("interface_id", *OF_CHUNKS))


def _add(sums: Sums, of_chunks: Sequence[int]) -> None:
    rx, tx, *_ = of_chunks
    sums[:] = sums[0] + rx, sums[1] + tx, sums[2] + int(any(of_chunks))


def _bucket(sums: Sums) -> Buckets:
    bucket = empty_buckets(1, BYTES)
    bucket.sums["rx_bytes"][0], bucket.sums["tx_bytes"][0], is_known = sums
    bucket.marks[0] = GAP if is_known else 0  # which, is not told
    return bucket


def _told(totals: dict[int, Buckets]) -> dict[int, tuple[int, int] | None]:
    return {
        pk: (of.sums["rx_bytes"][0], of.sums["tx_bytes"][0]) if of.is_known(0) else None for pk, of in totals.items()
    }
