"""The bytes of one window for a whole fleet: chunks that lie in it are not unpacked.

The answer is that of `increases`, which unpacks the hours of all of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from django.db.models import Q, Sum

from metrics import memory
from metrics.counters import GAP, REQUIRED, RESET, Buckets, Chain, empty_buckets
from metrics.increases import (
    FOREVER,
    Hours,
    add_cut_hours,
    add_newest,
    followed,
    hour_around,
    hours_line,
    increases,
    is_by_hours,
    limits_of,
    waiting_of,
)
from metrics.models import DAY_MS, EPOCH, HOUR_MS, Chunk, Interface, day_of, to_ms
from metrics.readings import Logs, logs_of, newest_sealed

BYTES = REQUIRED[:2]
OF_CHUNKS = (*BYTES, "covered_seconds", "resets")
OF_HOURS = (*BYTES, "covered_ms", "marks")


class _Whole(NamedTuple):
    """What the whole hours of a window say: rx, tx, covered milliseconds and marks of each interface, by its id.

    `until` is up to when they serve. `unclear` are the interfaces of which chunks' totals do not tell it. `kept` is, of
    those whose readings at the edge of the window are past their retention, from when on there are any, and the hours.
    """

    until: dict[int, int]
    passed: dict[int, list[int]]
    unclear: set[int]
    kept: dict[int, tuple[int, Chain | None]]


def passed(interfaces: Sequence[Interface], start: int, end: int) -> dict[int, tuple[int, int] | None]:
    """Return the bytes, rx and tx, that passed each interface, by its id, from `start` to `end` (ms).

    None where nothing is known.
    """
    instants = [start, end]
    if not interfaces or not is_by_hours(instants):
        return _told(increases(interfaces, instants, BYTES))
    logs = logs_of(interfaces)
    hours = _hours_of(interfaces, end, logs)
    whole = _whole_hours(interfaces, hours, instants)
    for pk, (kept_from, line) in whole.kept.items():
        hours[pk] = hours[pk]._replace(kept_from=kept_from, line=line)
    clear = [interface for interface in interfaces if interface.pk not in whole.unclear]
    totals = {interface.pk: _bucket(whole.passed[interface.pk]) for interface in clear}
    add_cut_hours(totals, clear, hours, instants, BYTES)
    add_newest(totals, clear, hours, instants, BYTES, logs)
    totals |= increases([interface for interface in interfaces if interface.pk in whole.unclear], instants, BYTES)
    return _told(totals)


def _bucket(passed: Sequence[int]) -> Buckets:
    bucket = empty_buckets(1, BYTES)
    for name, value in zip(OF_HOURS[:-1], passed, strict=False):
        bucket.sums[name][0] = value
    bucket.marks[0] = passed[-1]
    return bucket


def _told(totals: dict[int, Buckets]) -> dict[int, tuple[int, int] | None]:
    return {
        pk: (of.sums["rx_bytes"][0], of.sums["tx_bytes"][0]) if of.is_known(0) else None for pk, of in totals.items()
    }


def _hours_of(interfaces: Sequence[Interface], end: int, logs: Logs | None) -> dict[int, Hours]:
    """Return up to when the hours of each interface serve, without the hours."""
    waiting = waiting_of(interfaces, logs)
    limits = limits_of(interfaces, waiting)
    newest = newest_sealed([interface for interface in interfaces if limits[interface] < end])
    found = {}
    for interface in interfaces:
        of_server = waiting.get(interface.server_id)
        last_sealed = followed(newest.get(interface.pk), interface, of_server)
        first_waiting, last_waiting = (of_server.first_at, of_server.last_at) if of_server else (None, None)
        found[interface.pk] = Hours(end, limits[interface], first_waiting, last_waiting, last_sealed, -FOREVER, None)
    return found


def _whole_hours(interfaces: Sequence[Interface], hours: dict[int, Hours], instants: Sequence[int]) -> _Whole:
    """Return what the whole hours of the window say; read once until something is sealed."""
    until = {pk: min(of.bounds(instants)[0], instants[1] // HOUR_MS * HOUR_MS) for pk, of in hours.items()}
    around = [edge for instant in instants for edge in hour_around(instant)]
    key = ("whole hours", *around, *hours)
    revision = memory.revision_of(interfaces, "sealed_revision")
    whole: _Whole | None = memory.recall(key, revision)
    if whole is None or whole.until != until:
        whole = _read_whole_hours(interfaces, until, around)
        memory.keep(key, revision, whole, rows=10 * len(until))
    return whole


def _read_whole_hours(interfaces: Sequence[Interface], until: dict[int, int], around: Sequence[int]) -> _Whole:
    _, first, _, end = around
    newest = max(until.values())
    unclear = {pk for pk, at in until.items() if first < at < newest - DAY_MS}  # late: their backlog is not sealed
    within = _within(first, min(at for at in until.values() if at >= newest - DAY_MS))
    chunks = Chunk.objects.filter(interface__in=until.keys() - unclear)
    passed = {pk: [0, 0, 0, 0] for pk in until}
    if within:
        sums_of = chunks.filter(within).order_by().values_list("interface_id").annotate(*map(Sum, OF_CHUNKS))
        for pk, *sums in sums_of:
            if any(sums):
                _add(passed[pk], *sums)
            else:
                unclear.add(pk)  # no byte, no second, but a gap perhaps
    sealed_until = {interface.pk: interface.sealed_until for interface in interfaces}
    pruned: dict[int, list[Chunk]] = defaultdict(list)
    cut = chunks.around(around[0], end).with_hours().defer("readings", "first_at", "last_reading")
    for chunk in cut.exclude(within) if within else cut:
        pk, newest_sealed_at = chunk.interface_id, sealed_until[chunk.interface_id]
        last_at = chunk.last_at or EPOCH
        if not chunk.has_readings:
            pruned[pk].append(chunk)
        since, to = max(first, chunk.start_ms), min(until[pk], chunk.end_ms)
        if since >= to:
            continue
        if newest_sealed_at is None or last_at > newest_sealed_at:
            unclear.add(pk)  # more was sealed since the window was asked for
        is_all = to == chunk.end_ms or (last_at == newest_sealed_at and to_ms(last_at) <= to)
        sums = [getattr(chunk, name) for name in OF_CHUNKS]
        if since == chunk.start_ms and is_all and any(sums):
            _add(passed[pk], *sums)
        else:
            _add_some(passed[pk], chunk, since, to)
    is_cut = around[0] < first or around[2] < end
    kept = {
        pk: (max(chunk.end_ms for chunk in of_interface), hours_line(of_interface, BYTES))
        for pk, of_interface in (pruned.items() if is_cut else ())
    }
    return _Whole(until, passed, unclear, kept)


def _within(start: int, end: int) -> Q | None:
    """Return which chunks lie between two instants (ms) with all their days; None where none can."""
    first, last = day_of(start + DAY_MS - 1), day_of(end)
    if first >= last:
        return None
    return Q(start__gte=first) & (Q(days=1, start__lt=last) | Q(days=7, start__lte=day_of(end - 7 * DAY_MS)))


def _add(into: list[int], rx: int, tx: int, covered_seconds: int, resets: int) -> None:
    into[:] = into[0] + rx, into[1] + tx, into[2] + 1000 * covered_seconds, into[3] | (RESET if resets else 0)
    if not into[2]:  # under a second of a chunk, or none
        into[3] |= GAP


def _add_some(into: list[int], chunk: Chunk, start: int, end: int) -> None:
    """Add some hours of a chunk."""
    some = slice((start - chunk.start_ms) // HOUR_MS, (end - chunk.start_ms) // HOUR_MS)
    rx, tx, covered, marks = (values[some] for values in chunk.get_columns_of_hours(OF_HOURS))
    into[:] = into[0] + sum(rx), into[1] + sum(tx), into[2] + sum(covered), into[3] | max(marks, default=0)
