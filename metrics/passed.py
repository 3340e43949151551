"""The bytes of one window for a whole fleet: chunks that lie in it are not unpacked.

The answer is that of `increases`, which unpacks the hours of all of them.
"""

from collections import defaultdict
from collections.abc import Sequence

from django.db.models import Q, Sum

from metrics.counters import REQUIRED, RESET, Buckets, empty_buckets
from metrics.increases import (
    FOREVER,
    Hours,
    add_cut_hours,
    add_newest,
    followed,
    hours_line,
    increases,
    is_by_hours,
    limits_of,
    waiting_of,
)
from metrics.models import DAY_MS, HOUR_MS, Chunk, Interface, day_of, to_ms
from metrics.readings import Logs, logs_of, newest_sealed

BYTES = REQUIRED[:2]
OF_CHUNKS = (*BYTES, "covered_seconds", "resets")
OF_HOURS = (*BYTES, "covered_ms", "marks")


def passed(interfaces: Sequence[Interface], start: int, end: int) -> dict[int, tuple[int, int] | None]:
    """Return the bytes, rx and tx, that passed each interface, by its id, from `start` to `end` (ms).

    None where nothing is known.
    """
    instants = [start, end]
    if not interfaces or not is_by_hours(instants):
        return _told(increases(interfaces, instants, BYTES))
    logs = logs_of(interfaces)
    hours = _hours_of(interfaces, end, logs)
    totals = {pk: empty_buckets(1, BYTES) for pk in hours}
    unclear = _add_whole_hours(totals, interfaces, hours, instants)
    clear = [interface for interface in interfaces if interface.pk not in unclear]
    add_cut_hours(totals, clear, hours, instants, BYTES)
    add_newest(totals, clear, hours, instants, BYTES, logs)
    totals |= increases([interface for interface in interfaces if interface.pk in unclear], instants, BYTES)
    return _told(totals)


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


def _add_whole_hours(
    totals: dict[int, Buckets], interfaces: Sequence[Interface], hours: dict[int, Hours], instants: Sequence[int]
) -> set[int]:
    """Add what the whole hours of the window say. Return the interfaces of which chunks' totals do not tell that.

    Of the chunks that the window cuts it notes, in `hours`, what is left of those past their retention.
    """
    first, end = -(-instants[0] // HOUR_MS) * HOUR_MS, instants[1] // HOUR_MS * HOUR_MS
    until = {pk: min(of.bounds(instants)[0], end) for pk, of in hours.items()}
    newest = max(until.values())
    unclear = {pk for pk, at in until.items() if first < at < newest - DAY_MS}  # late: their backlog is not sealed
    within = _within(first, min(at for at in until.values() if at >= newest - DAY_MS))
    others = [pk for pk in hours if pk not in unclear]
    chunks = Chunk.objects.filter(interface__in=others)
    cut = chunks.around(*instants).with_hours()
    if within:
        cut = cut.exclude(within)
        sums_of = chunks.filter(within).order_by().values_list("interface_id").annotate(*map(Sum, OF_CHUNKS))
        for pk, *sums in sums_of:
            if any(sums):
                _add(totals[pk], *sums)
            else:
                unclear.add(pk)  # no byte, no second, but a gap perhaps
    sealed_until = {interface.pk: interface.sealed_until for interface in interfaces}
    pruned: dict[int, list[Chunk]] = defaultdict(list)
    for chunk in cut:
        pk = chunk.interface_id
        if not chunk.has_readings:
            pruned[pk].append(chunk)
        since, to = max(first, chunk.start_ms), min(until[pk], chunk.end_ms)
        if since < to:
            is_last = chunk.last_at is not None and chunk.last_at == sealed_until[pk] and to_ms(chunk.last_at) <= to
            is_whole = since == chunk.start_ms and (to == chunk.end_ms or is_last)
            sums = [getattr(chunk, name) for name in OF_CHUNKS]
            if is_whole and any(sums):
                _add(totals[pk], *sums)
            else:
                _add_some(totals[pk], chunk, since, to)
    for pk, of_interface in pruned.items() if any(instant % HOUR_MS for instant in instants) else ():
        kept_from = max(chunk.end_ms for chunk in of_interface)
        hours[pk] = hours[pk]._replace(kept_from=kept_from, line=hours_line(of_interface, BYTES))
    return unclear


def _within(start: int, end: int) -> Q | None:
    """Return which chunks lie between two instants (ms) with all their days; None where none can."""
    first, last = day_of(start + DAY_MS - 1), day_of(end)
    if first >= last:
        return None
    return Q(start__gte=first) & (Q(days=1, start__lt=last) | Q(days=7, start__lte=day_of(end - 7 * DAY_MS)))


def _add(into: Buckets, rx: int, tx: int, covered_seconds: int, resets: int) -> None:
    into.sums["rx_bytes"][0] += rx
    into.sums["tx_bytes"][0] += tx
    into.sums["covered_ms"][0] += 1000 * covered_seconds
    into.marks[0] |= RESET if resets or rx or tx else 0


def _add_some(into: Buckets, chunk: Chunk, start: int, end: int) -> None:
    """Add some hours of a chunk."""
    some = slice((start - chunk.start_ms) // HOUR_MS, (end - chunk.start_ms) // HOUR_MS)
    rx, tx, covered, marks = (values[some] for values in chunk.get_columns_of_hours(OF_HOURS))
    into.sums["rx_bytes"][0] += sum(rx)
    into.sums["tx_bytes"][0] += sum(tx)
    into.sums["covered_ms"][0] += sum(covered)
    into.marks[0] |= max(marks, default=0)
