"""Fold the log into chunks, days into weeks, and delete what is past its retention.

Every step is one short transaction that recomputes and replaces, under the lock of its server that ingest takes too:
run twice, run by two at once, or killed anywhere and run again, it leaves the same chunks.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, QuerySet

from metrics.codec import CodecError
from metrics.counters import COLUMNS, Buckets, Reading, columns, empty_buckets, join, measure, order, splice, unroll
from metrics.models import (
    DAY_MS,
    HOUR_MS,
    KEPT,
    Chunk,
    Event,
    Heartbeat,
    Interface,
    day_of,
    day_start,
    from_ms,
    to_ms,
    week_of,
)
from metrics.readings import Columns, sealed_readings
from servers.models import Snapshot
from servers.transactions import retried

logger = logging.getLogger(__name__)

MERGE_AFTER = timedelta(days=2)  # a week is merged when it has been over for this long
BATCH = 200
PAUSE_SECONDS = 0.002  # for those who wait to write: without it the next part takes the turn before they wake up
TOGETHER = 8  # interfaces whose readings are in memory: the more, the fewer queries
AT_ONCE = 250_000  # characters of the log: others wait for a transaction, and it needs its room on the disk twice


def tick(*, now: datetime) -> dict[str, int]:
    """Seal, merge and prune all that is due at `now`. Return how many rows each did.

    Where something stored is damaged, it says so in the log, and goes on with the other servers.
    """
    due = Heartbeat.objects.filter(collected_at__lt=_horizon(now)).order_by("server_id")
    servers = due.values_list("server_id", flat=True).distinct()
    sealed = sum(_unless_damaged(seal, server_id, now=now) for server_id in servers)
    return {"sealed": sealed, "merged": merge(now=now), "pruned": prune(now=now)}


def seal(server_id: str, *, now: datetime) -> int:
    """Move the server's heartbeats of completed hours into chunks. Return how many."""
    total = 0
    while count := _seal_a_part(server_id, _horizon(now)):
        total += count
        time.sleep(PAUSE_SECONDS)
    return total


def merge(*, now: datetime) -> int:
    """Join the day chunks of weeks that are over. Return how many day chunks became part of a week."""
    over = week_of((now - MERGE_AFTER).date())
    days = Chunk.objects.filter(days=1, start__lt=over).order_by("start", "interface")
    merged = damaged = 0
    while due := list(days.values_list("interface__server_id", "interface_id", "start")[damaged : damaged + BATCH]):
        weeks = Counter((server_id, interface, week_of(start)) for server_id, interface, start in due)
        for week in sorted(weeks):
            joined = _unless_damaged(_merge_a_week, *week)
            merged += joined
            damaged += 0 if joined else weeks[week]
    return merged


def _unless_damaged(work: Callable[..., int], *of: Any, **more: Any) -> int:
    try:
        return work(*of, **more)
    except CodecError as error:
        logger.error("Left as it is: %s", error)
        return 0


def prune(*, now: datetime) -> int:
    """Drop what is past its retention: readings, of which the hours stay, hours, events, container links that are gone.

    Return how many chunks, interfaces and events that were.
    """
    pruned = 0
    over = Chunk.objects.filter(KEPT, start__lte=_past(now, settings.RETENTION_READINGS_DAYS)).order_by("start")
    while batch := _by(over.values_list("interface_id", "interface__server_id", "start")[:BATCH]):
        pruned += sum(_drop_readings(of, server_id, starts) for (of, server_id), starts in batch.items())
    if settings.RETENTION_HOURS_DAYS:
        over = Chunk.objects.filter(readings=None, start__lte=_past(now, settings.RETENTION_HOURS_DAYS))
        while batch := _by(over.values_list("interface_id", "interface__server_id", "start")[:BATCH]):
            pruned += sum(_drop_hours(of, server_id, starts) for (of, server_id), starts in batch.items())
    gone = Interface.objects.gone_veths(before=now - timedelta(days=settings.RETENTION_VETH_DAYS))
    while veths := list(gone.values_list("pk", flat=True)[:BATCH]):
        pruned += _drop(Interface, pk__in=veths)
    events = Event.objects.filter(number__lt=Event.first_number(now - timedelta(days=settings.RETENTION_EVENTS_DAYS)))
    while batch := _by(events.order_by("number").values_list("server_id", "number")[:BATCH]):
        pruned += sum(_drop(Event, server=of, number__in=numbers) for (of,), numbers in batch.items())
    return pruned


def _by(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Any]]:
    """Return the last column of the rows by the others: one statement then needs one shard."""
    found: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for *of, last in sorted(rows):
        found[tuple(of)].append(last)
    return found


@retried
def _drop_readings(interface: int, server_id: str, starts: list[date]) -> int:
    _forget(server_id)
    return Chunk.objects.filter(interface=interface, start__in=starts).update(readings=None)


@retried
def _drop_hours(interface: int, server_id: str, starts: list[date]) -> int:
    _forget(server_id)
    return Chunk.objects.filter(interface=interface, start__in=starts).delete()[0]


def _forget(server_id: str) -> None:
    """Have nothing remembered that was read of the server's chunks."""
    Snapshot.objects.filter(server=server_id).update(
        revision=F("revision") + 1, sealed_revision=F("sealed_revision") + 1
    )


@retried
def _drop(model: type[models.Model], **of: Any) -> int:
    return model._default_manager.filter(**of).delete()[0]


def _past(now: datetime, days: int) -> date:
    """Return the newest start of a chunk that is past a retention of `days` with all its days."""
    return (now - timedelta(days=days + 7)).date()


def _count_up(server_id: str) -> None:
    Snapshot.objects.filter(server=server_id).update(sealed_revision=F("sealed_revision") + 1)


def _horizon(now: datetime) -> datetime:
    """Return the end of the last completed hour."""
    return from_ms(to_ms(now) // HOUR_MS * HOUR_MS)


def _lock(server_id: str) -> None:
    Snapshot.objects.select_for_update().filter(server=server_id).first()


@retried
def _seal_a_part(server_id: str, horizon: datetime) -> int:
    """Seal the oldest hours of the log, up to `horizon`: of one day, and not too many of a backlog at once."""
    _lock(server_id)
    log = Heartbeat.objects.filter(server=server_id, collected_at__lt=horizon).order_by("collected_at")
    oldest = log.first()
    if oldest is None:
        return 0
    _count_up(server_id)
    day = oldest.collected_at.date()
    part = _hours_of(log.filter(collected_at__lt=from_ms(day_start(day) + DAY_MS)))
    readings: dict[str, list[Reading]] = defaultdict(list)
    for heartbeat in part:
        for name, reading in heartbeat.unpack():
            readings[name].append(reading)
    interfaces = list(Interface.objects.filter(server=server_id, name__in=readings))
    for at in range(0, len(interfaces), TOGETHER):
        some = interfaces[at : at + TOGETHER]
        add({interface: columns(order(readings[interface.name])) for interface in some}, day)
    return log.filter(collected_at__lte=part[-1].collected_at).order_by().delete()[0]


def _hours_of(log: QuerySet[Heartbeat]) -> list[Heartbeat]:
    """Return the heartbeats of as many whole hours as are sealed at once, at least one."""
    part: list[Heartbeat] = []
    characters, hour = 0, None
    for heartbeat in log.iterator():
        if characters > AT_ONCE and hour != to_ms(heartbeat.collected_at) // HOUR_MS:
            break
        part.append(heartbeat)
        characters += len(heartbeat.readings)
        hour = to_ms(heartbeat.collected_at) // HOUR_MS
    return part


def add(readings: Mapping[Interface, Columns], day: date) -> None:
    """Put readings of one UTC day into the interfaces' chunks, and recompute the hours they touch. Repeatable.

    A reading changes what passed since its predecessor and until its successor, which may lie in other chunks.
    """
    chunks = Chunk.objects.holding([interface.pk for interface in readings], day)
    # The others are past their retention.
    kept = {interface: of for interface, of in readings.items() if chunks[interface.pk].readings is not None}
    for interface, of in kept.items():
        chunk = chunks[interface.pk]
        chunk.set_readings(join(chunk.get_readings(), of))
    around = _read({each.pk: (of["at"][0] - 1, of["at"][-1] + 1) for each, of in kept.items()}, chunks, ())
    windows = {pk: _hours_of_all(of["at"]) for pk, of in around.items()}
    for pk, whole in _read(windows, chunks).items():
        start, end = windows[pk]
        hours = measure(unroll(whole), list(range(start, end + 1, HOUR_MS)))
        for changed in _put_hours(pk, chunks[pk], start, hours):
            changed.save(force_insert=changed._state.adding)
    for interface, of in kept.items():
        newest = from_ms(of["at"][-1])
        interface.sealed_until = max(newest, interface.sealed_until or newest)
        interface.last_seen_at = max(interface.sealed_until, interface.last_seen_at)
    Interface.objects.bulk_update(kept, ["sealed_until", "last_seen_at"])


def _read(
    windows: Mapping[int, tuple[int, int]], chunks: Mapping[int, Chunk], wanted: Sequence[str] = COLUMNS
) -> dict[int, Columns]:
    """Return the sealed readings of each interface in its window (ms): those of the same window are read at once.

    `chunks` take the place of those in the database.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for interface, window in windows.items():
        groups[window].append(interface)
    found: dict[int, Columns] = {}
    for window, group in groups.items():
        found |= sealed_readings(group, *window, wanted, changed=[chunks[interface] for interface in group])
    return found


def _hours_of_all(at: Sequence[int]) -> tuple[int, int]:
    """Return from when to when (ms) the whole hours are, at least one, that hold all these instants."""
    start, end = at[0] // HOUR_MS * HOUR_MS, -(-at[-1] // HOUR_MS) * HOUR_MS
    return start, max(end, start + HOUR_MS)


def _put_hours(interface: int, chunk: Chunk, start: int, hours: Buckets) -> list[Chunk]:
    """Replace the hours from `start` on, in whichever chunks they lie. Return these chunks, changed and unsaved."""
    chunks = {chunk.start: chunk}
    position = start
    end = start + len(hours.marks) * HOUR_MS
    while position < end:
        holder = _holder(chunks, position) or Chunk.objects.holding([interface], day_of(position))[interface]
        chunks[holder.start] = holder
        stop = min(holder.end_ms, end)
        if holder.readings is None:
            position = holder.end_ms  # past its retention: its hours can no longer be computed, and stand
            continue
        holder.set_hours(
            splice(
                holder.get_hours(),
                (position - holder.start_ms) // HOUR_MS,
                hours,
                (position - start) // HOUR_MS,
                (stop - start) // HOUR_MS,
            )
        )
        position = stop
    return list(chunks.values())


def _holder(chunks: dict[date, Chunk], position: int) -> Chunk | None:
    return next((chunk for chunk in chunks.values() if chunk.start_ms <= position < chunk.end_ms), None)


@retried
def _merge_a_week(server_id: str, interface: int, week: date) -> int:
    _lock(server_id)
    parts = list(Chunk.objects.filter(interface=interface, start__range=(week, week + timedelta(days=6))))
    if all(part.days == 7 for part in parts):
        return 0
    _count_up(server_id)
    whole = Chunk(interface_id=interface, start=week, days=7)
    whole.set_readings(join(*(part.get_readings() for part in parts)))
    if any(part.readings is None for part in parts):
        whole.readings, whole.last_reading = None, parts[-1].last_reading
    hours = empty_buckets(7 * 24)
    for part in sorted(parts, key=lambda part: -part.days):
        hours = splice(hours, (part.start - week).days * 24, part.get_hours(), 0, 24 * part.days)
    whole.set_hours(hours)
    Chunk.objects.filter(interface=interface, start__range=(week, week + timedelta(days=6))).delete()
    whole.save(force_insert=True)
    return sum(part.days == 1 for part in parts)
