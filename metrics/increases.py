"""What passed between any instants: from the chunks' hours where these are final, all else from readings.

The answer is the same whichever it is computed from, and the same before and after sealing.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from django.db.models import Min

from metrics.counters import COUNTERS, UNKNOWN, Buckets, add_buckets, empty_buckets, measure, unroll
from metrics.models import HOUR_MS, Chunk, Heartbeat, Interface, to_ms
from metrics.readings import readings, sealed_readings


def increases(
    interfaces: Sequence[Interface], instants: Sequence[int], counters: Sequence[str] = COUNTERS
) -> dict[int, Buckets]:
    """Return what passed each interface, by its id, between consecutive `instants` (ms)."""
    totals = {interface.pk: empty_buckets(len(instants) - 1, counters) for interface in interfaces}
    if len(instants) < 2 or not interfaces:
        return totals
    if not _is_by_hours(instants):
        _add_readings(totals, interfaces, instants, counters)
        return totals
    by_limit: dict[int, list[Interface]] = defaultdict(list)
    for interface, limit in final_until(interfaces).items():
        by_limit[min(max(limit, instants[0]), instants[-1])].append(interface)
    for limit, group in by_limit.items():
        _add_hours(totals, group, instants, limit, counters)
        if limit < instants[-1]:
            _add_readings(totals, group, instants, counters, start=limit)
    return totals


def _is_by_hours(instants: Sequence[int]) -> bool:
    """Tell whether whole hours serve: buckets of an hour or more, on the hour or few enough that are not."""
    inner = instants[1:-1]
    shortest = min((after - before for before, after in pairwise(inner)), default=HOUR_MS)
    if shortest < HOUR_MS:
        return False
    if instants[-1] - instants[0] < 2 * HOUR_MS:
        return all(instant % HOUR_MS == 0 for instant in instants)
    return shortest >= 6 * HOUR_MS or all(instant % HOUR_MS == 0 for instant in inner)


def final_until(interfaces: Sequence[Interface]) -> dict[Interface, int]:
    """Return, for each interface, up to when its chunks' hours say all that is known.

    Without heartbeats waiting in the log: for ever. Otherwise up to the hour of the reading before the first of them.
    """
    waiting = Heartbeat.objects.filter(server__in={interface.server_id for interface in interfaces}).order_by()
    oldest = {server: to_ms(first) for server, first in waiting.values_list("server_id").annotate(Min("collected_at"))}
    limits: dict[Interface, int] = {}
    late: dict[int, list[Interface]] = defaultdict(list)
    for interface in interfaces:
        first_waiting = oldest.get(interface.server_id)
        newest_sealed = to_ms(interface.sealed_until) if interface.sealed_until else None
        if first_waiting is None:
            limits[interface] = 2**62
        elif newest_sealed is None:
            limits[interface] = 0
        elif newest_sealed <= first_waiting:
            limits[interface] = newest_sealed // HOUR_MS * HOUR_MS
        else:
            late[first_waiting].append(interface)
    for first_waiting, group in late.items():
        sealed = sealed_readings([interface.pk for interface in group], first_waiting, first_waiting, ())
        for interface in group:
            at = sealed[interface.pk]["at"]
            limits[interface] = at[0] // HOUR_MS * HOUR_MS if at and at[0] <= first_waiting else 0
    return limits


def _add_readings(
    totals: dict[int, Buckets],
    interfaces: Sequence[Interface],
    instants: Sequence[int],
    counters: Sequence[str],
    *,
    start: int | None = None,
) -> None:
    """Add what readings say of the buckets, from `start` on."""
    first = bisect_right(instants, start) - 1 if start is not None else 0
    cut = [max(instants[first], start or instants[first]), *instants[first + 1 :]]
    for interface, found in readings(interfaces, cut[0], cut[-1], counters).items():
        part = measure(unroll(found, counters), cut, counters)
        for index in range(len(cut) - 1):
            add_buckets(totals[interface], first + index, part, index, index + 1)


def _add_hours(
    totals: dict[int, Buckets],
    interfaces: Sequence[Interface],
    instants: Sequence[int],
    limit: int,
    counters: Sequence[str],
) -> None:
    """Add what the chunks' hours say of the buckets up to `limit`; of the hours that a bucket cuts, the readings."""
    cut = [*instants[: bisect_left(instants, limit)], limit]
    if len(cut) < 2:
        return
    pieces: dict[int, list[int]] = defaultdict(list)
    for instant in cut:
        if instant % HOUR_MS:
            pieces[instant // HOUR_MS * HOUR_MS].append(instant)
    ids = {interface.pk: interface for interface in interfaces}
    pruned: dict[int, dict[int, tuple[Buckets, int]]] = defaultdict(dict)
    chunks = Chunk.objects.filter(interface__in=ids).around(cut[0], cut[-1]).with_hours()
    for chunk in chunks:
        hours = chunk.get_hours(counters)
        _add_whole_hours(totals[chunk.interface_id], chunk, hours, cut)
        if not chunk.has_readings:
            for hour in pieces:
                if chunk.start_ms <= hour < chunk.end_ms:
                    pruned[hour][chunk.interface_id] = (hours, (hour - chunk.start_ms) // HOUR_MS)
    _add_cut_hours(totals, interfaces, cut, pieces, pruned, counters)


def _add_whole_hours(into: Buckets, chunk: Chunk, hours: Buckets, cut: Sequence[int]) -> None:
    first = max(bisect_right(cut, chunk.start_ms) - 1, 0)
    for index in range(first, len(cut) - 1):
        if cut[index] >= chunk.end_ms:
            return
        start = max(-(-(cut[index] - chunk.start_ms) // HOUR_MS), 0)
        stop = min((cut[index + 1] - chunk.start_ms) // HOUR_MS, 24 * chunk.days)
        if start < stop:
            add_buckets(into, index, hours, start, stop)


def _add_cut_hours(
    totals: dict[int, Buckets],
    interfaces: Sequence[Interface],
    cut: Sequence[int],
    pieces: dict[int, list[int]],
    pruned: dict[int, dict[int, tuple[Buckets, int]]],
    counters: Sequence[str],
) -> None:
    if not pieces:
        return
    ids = [interface.pk for interface in interfaces]
    whole = len(pieces) > 4
    loaded = sealed_readings(ids, min(pieces), max(pieces) + HOUR_MS, counters) if whole else {}
    lines = {interface: unroll(found, counters) for interface, found in loaded.items()}
    for hour, inner in pieces.items():
        if not whole:
            found = sealed_readings(ids, hour, hour + HOUR_MS, counters)
            lines = {interface: unroll(columns_, counters) for interface, columns_ in found.items()}
        around = [hour, *inner, hour + HOUR_MS]
        for interface in ids:
            if interface in pruned[hour]:
                part = _shares(*pruned[hour][interface], around, counters)
            else:
                part = measure(lines[interface], around, counters)
            for index in range(len(around) - 1):
                bucket = bisect_right(cut, around[index]) - 1
                if bucket >= 0 and around[index + 1] <= cut[-1]:
                    add_buckets(totals[interface], bucket, part, index, index + 1)


def _shares(hours: Buckets, row: int, around: Sequence[int], counters: Sequence[str]) -> Buckets:
    """Return an hour whose readings are past their retention, shared out in proportion to time."""
    shares = empty_buckets(len(around) - 1, counters)
    add_buckets(shares, 0, hours, row, row + 1)
    for name, values in shares.sums.items():
        if values[0] != UNKNOWN:
            upto = [values[0] * (instant - around[0]) // HOUR_MS for instant in around]
            shares.sums[name][:] = [after - before for before, after in pairwise(upto)]
    for name, values in shares.peaks.items():
        shares.peaks[name][:] = [values[0]] * len(values)
    shares.marks[:] = [shares.marks[0]] * len(shares.marks)
    return shares
