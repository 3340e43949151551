"""Chunks that are read once for one answer: all with their hours, and with their readings where these are needed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from operator import or_

from django.db.models import BinaryField, Case, F, Q, When

from metrics.models import DAY_MS, EPOCH, HOUR_MS, Chunk, Interface, around, day_of, day_start, from_ms, to_ms
from metrics.readings import (
    AROUND_MS,
    MOST_NEXT_TO,
    Waiting,
    chunks_of_groups,
    starts_after,
    starts_before,
    with_newer,
    with_newest,
)

Shelf = Mapping[int, Sequence[Chunk]]  # by interface: all chunks around what is asked about, in order of time

MOST_CUT = 4  # hours that an instant cuts, of which the readings are read with the others


def read_shelf(interfaces: Sequence[Interface], instants: Sequence[int], waiting: Mapping[str, Waiting]) -> Shelf:
    """Return the chunks of some interfaces from the first of the `instants` (ms) on.

    The readings are with those around the hours that an instant cuts, and with those from which on what waits, by
    server, may change the hours; those of others are not there, as `is_read` tells. Where something waits that came
    late for no more than MOST_NEXT_TO of them, the chunks next to all these are there, too.
    """
    start = instants[0] - AROUND_MS
    late = {each.id for each in interfaces if is_late(each, waiting)}
    next_to = late if len(late) <= MOST_NEXT_TO else set()
    needed = [around(hour - AROUND_MS, hour + HOUR_MS + AROUND_MS) for hour in _cut_hours(instants)]
    for days, ids in _unsettled(interfaces, instants, waiting).items():
        first, last = map(day_start, days)
        needed.append(Q(interface__in=ids) & around(first, last))
        if of_days := next_to.intersection(ids):
            needed.append(Q(interface__in=of_days, start__in=starts_after(of_days, last)))
    of_all = Chunk.objects.filter(interface__in=[each.id for each in interfaces])
    wanted = of_all.since(start)
    if next_to:
        wanted |= of_all.filter(interface__in=next_to, start__in=starts_before(next_to, start))
    rows = with_newest(with_newer(wanted.with_hours()))
    if needed:
        rows = rows.annotate(read=Case(When(reduce(or_, needed), then=F("readings")), output_field=BinaryField()))
    shelf: dict[int, list[Chunk]] = {interface.id: [] for interface in interfaces}
    for chunk in rows:
        shelf[chunk.interface_id].append(chunk)
        read = getattr(chunk, "read", None)
        if read is not None or not chunk.has_readings:
            chunk.readings = read
    return shelf


def is_late(interface: Interface, waiting: Mapping[str, Waiting]) -> bool:
    """Tell whether something waits that is older than what was sealed."""
    of_server = waiting.get(interface.server_id)
    return of_server is not None and from_ms(of_server.first_at) < (interface.sealed_until or EPOCH)


def _unsettled(
    interfaces: Sequence[Interface], instants: Sequence[int], waiting: Mapping[str, Waiting]
) -> dict[tuple[date, date], list[int]]:
    """Return from which day to which what waits may change the hours of some interfaces."""
    unsettled: dict[tuple[date, date], list[int]] = defaultdict(list)
    for each in interfaces:
        if each.server_id in waiting and each.sealed_until is not None:
            first_waiting = waiting[each.server_id].first_at
            # The hours end with the one before that; what comes late follows on a reading of the same day, mostly.
            from_at = max(min(to_ms(each.sealed_until) - HOUR_MS, first_waiting - DAY_MS // 2), instants[0])
            until = max(instants[-1], first_waiting) if is_late(each, waiting) else instants[-1]
            if from_at - 2 * AROUND_MS < until:
                unsettled[day_of(from_at - 2 * AROUND_MS), day_of(until + AROUND_MS)].append(each.id)
    return unsettled


def _cut_hours(instants: Sequence[int]) -> list[int]:
    """Return when the hours begin (ms) that an instant cuts; none where these are many."""
    cut = {instant // HOUR_MS * HOUR_MS for instant in instants if instant % HOUR_MS}
    return sorted(cut) if len(cut) <= MOST_CUT else []


def stored_of(groups: Sequence[tuple[int, Sequence[Interface]]], end: int, shelf: Shelf) -> list[Chunk] | None:
    """Return the chunks around the windows of groups of interfaces, each from a start of its own to `end` (ms).

    What is not on the shelf is read at once; None where that is one group, of which nothing may be needed.
    """
    missing = [(start, [each.id for each in group if each.id not in shelf]) for start, group in groups]
    missing = [(start, of_group) for start, of_group in missing if of_group]
    if missing and len(groups) < 2:
        return None
    stored = [chunk for _, group in groups for each in group for chunk in shelf.get(each.id, ())]
    if missing:
        near = chunks_of_groups([(of_group, (start, end)) for start, of_group in missing])
        stored.extend(with_newest(near))
    return stored
