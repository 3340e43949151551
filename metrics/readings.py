"""The readings of any window, with a neighbour on each side: out of the log, and out of the chunks."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce
from operator import attrgetter, or_
from struct import Struct
from typing import Any, NamedTuple

from django.db.models import F, Max, Min, OuterRef, Q, QuerySet

from metrics import memory
from metrics.counters import (
    COLUMNS,
    CONTEXT,
    COUNTERS,
    NO_BOOT,
    REQUIRED,
    UNKNOWN,
    Reading,
    between,
    columns,
    join,
    order,
)
from metrics.models import (
    EPOCH,
    HOUR_MS,
    Chunk,
    Heartbeat,
    Interface,
    around,
    day_of,
    day_start,
    from_ms,
    unpack_reading,
    week_of,
)
from metrics.streaming import AT_ONCE

Columns = dict[str, list[int]]

ALWAYS = (*CONTEXT, *REQUIRED)  # what the arithmetic needs, whatever is asked for
AROUND_MS = 600_000  # what boots that overlap are looked for in, beside the window
AROUND = timedelta(milliseconds=AROUND_MS)
NEAR = timedelta(days=14)
FEW_SERVERS = 10
FEW_INTERFACES = 20
MOST_NEXT_TO = 200  # interfaces: a look for the neighbours of more takes longer than it saves
ROW = Struct(f"{len(COLUMNS)}q")
SHORT_LOG = 50_000  # heartbeats: what one server delivers in a minute, after weeks without the hub


def reading_of(interface: Mapping[str, Any], at: int, boot: int, started: int, interval_ms: int) -> Reading:
    """Return an interface of a report, as it is on the wire and in the snapshot, as its reading."""
    get = interface.get
    return Reading(
        at,
        boot,
        started,
        interval_ms,
        int(interface["is_up"]),
        get("ifindex", UNKNOWN),
        get("speed_mbps", UNKNOWN),
        *[get(name, UNKNOWN) for name in COUNTERS],
    )


def limit_after(newest: int) -> int:
    """Return up to which hour (ms) the readings up to a sealed one (ms) say all, whatever follows on that."""
    return (newest - AROUND_MS) // HOUR_MS * HOUR_MS


def columns_for(wanted: Collection[str]) -> tuple[str, ...]:
    """Return the columns that answer a question about the `wanted` counters."""
    return tuple(name for name in COLUMNS if name in ALWAYS or name in wanted)


class Waiting(NamedTuple):
    """The heartbeats of one server in the log: from when to when (ms), and the boots, at least when there is one."""

    first_at: int
    last_at: int
    boots: set[int]


@dataclass(frozen=True, slots=True)
class Log:
    """What waits of one server to be sealed: from when to when (ms), the boots, readings by name."""

    first_at: int | None
    last_at: int | None
    boots: set[int]
    readings: Mapping[str, list[Reading]]

    def around(self, name: str, start: int, end: int) -> list[Reading]:
        """Return the readings near the window, and one at least before and after it where there are any."""
        of_name = self.readings.get(name, [])
        at = [reading.at for reading in of_name]
        first = min(bisect_left(at, start - AROUND_MS), max(bisect_right(at, start) - 1, 0))
        last = max(bisect_right(at, end + AROUND_MS), bisect_left(at, end) + 1)
        return of_name[first:last]


Logs = Mapping[str, Log]  # by server; those of the others are read as far as they are needed


def logs_of(interfaces: Sequence[Interface]) -> Logs:
    """Return the logs of the interfaces' servers; none where they are too many, or too long, to read all of them."""
    revisions = {interface.server_id: interface.revision for interface in interfaces}
    if len(revisions) > FEW_SERVERS:
        return {}
    found: dict[str, Log] = {}
    for server, revision in revisions.items():
        if (kept := memory.recall(("log", server), revision)) is not None:
            found[server] = kept
    missing = revisions.keys() - found.keys()
    waiting = Heartbeat.objects.filter(server__in=missing).order_by("collected_at")[: SHORT_LOG + 1]
    read = {server: Logged() for server in missing}
    for number, heartbeat in enumerate(waiting.iterator(AT_ONCE) if missing else ()):
        if number == SHORT_LOG:
            return {}
        read[heartbeat.server_id].add(heartbeat)
    for server, logged in read.items():
        found[server] = Log(logged.first_at, logged.last_at, logged.boots, logged)
        memory.keep(("log", server), revisions[server], found[server], rows=logged.room)
    return found


class Logged(Mapping[str, list[Reading]]):
    """The readings of a log by interface, made when they are asked for: until then each takes 120 bytes."""

    def __init__(self) -> None:
        self.first_at: int | None = None
        self.last_at: int | None = None
        self.boots: set[int] = set()
        self._of: dict[str, bytearray] = defaultdict(bytearray)  # rows

    def add(self, heartbeat: Heartbeat) -> None:
        """Add the next one in time."""
        shared = heartbeat.shared()
        self.last_at, boot, *_ = shared
        if self.first_at is None:
            self.first_at = self.last_at
        self.boots.add(boot)
        for name, *others in heartbeat.rows():
            self._of[name] += ROW.pack(*shared, *others)

    @property
    def room(self) -> int:
        """How many rows of memory it takes."""
        return sum(map(len, self._of.values())) // memory.ROW_BYTES

    def __getitem__(self, name: str) -> list[Reading]:
        if name not in self._of:
            raise KeyError(name)
        return list(map(Reading._make, ROW.iter_unpack(self._of[name])))

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def readings(
    interfaces: Sequence[Interface],
    start: int,
    end: int,
    counters: Collection[str] = COUNTERS,
    *,
    logs: Logs | None = None,
    newest: Mapping[int, Reading] | None = None,
    last_waiting: int | None = None,
    stored: Iterable[Chunk] | None = None,
) -> dict[int, Columns]:
    """Return the readings of each interface, by its id, from `start` to `end` (ms), with a neighbour on each side.

    `newest` are the newest sealed readings of interfaces whose readings are wanted from these on only. They are looked
    up again, unless they are as of when the `logs` were read. What waits for these ends at `last_waiting` (ms).
    `stored` are the chunks, as of then or later, that `sealed_readings` would read.
    """
    newest = newest or {}
    current = logs or {}
    names = columns_for(counters)
    # Before the sealed ones: what is sealed in between is in both.
    logs = logs if logs is not None else logs_of(interfaces)
    logged = {
        each.pk: logs[each.server_id].around(each.name, start, end) for each in interfaces if each.server_id in logs
    }
    if others := [each for each in interfaces if each.pk not in logged]:
        logged |= _logged(others, start, end, newest, last_waiting)
    # Of a few, what is around the window and beside it is read at once, whatever is needed of it.
    is_read = stored is not None or len(interfaces) <= FEW_INTERFACES
    settled = [each for each in interfaces if each.pk in newest or (not is_read and _begins_after_sealed(each, start))]
    known = {each.pk for each in settled if each.server_id in current and each.pk in newest}
    last = newest_sealed([each for each in settled if each.pk not in known]) | {pk: newest[pk] for pk in known}
    found = {}
    for interface in (each.pk for each in settled if each.pk in last):
        reading, of_log = last[interface], logged[interface]
        if is_alone(reading, of_log):
            followed = _only(columns([reading, *order(of_log)]), names)
            found[interface] = _window(followed, max(start, reading.at), end)
    others = [each for each in interfaces if each.pk not in found]
    silent = {each.pk for each in others if each.sealed_until is not None and each.sealed_until < from_ms(end)}
    # What was read before the log would lack what has been sealed since.
    unlogged = [each.pk for each in others if each.server_id not in logs and stored is not None]
    in_time = [each.pk for each in others if each.pk not in unlogged]
    sealed = sealed_readings(in_time, start, end, counters, silent=silent, stored=stored, has_no_hole=True)
    sealed |= sealed_readings(unlogged, start, end, counters, silent=silent) if unlogged else {}
    both = {
        interface: _window(join(of_sealed, columns(order(logged[interface])), names=names), start, end)
        for interface, of_sealed in sealed.items()
        if logged[interface]
    }
    return {**found, **sealed, **_with_earlier_boots(both, start, names)}


def readings_within(interface: Interface, start: int, end: int) -> Columns:
    """Return the readings of one interface from `start` until before `end` (ms), without neighbours."""
    log = Heartbeat.objects.filter(server=interface.server_id).between(from_ms(start), from_ms(end))
    logged = [reading for heartbeat in log for name, reading in heartbeat.unpack() if name == interface.name]
    chunks = Chunk.objects.filter(interface=interface).around(start, end - 1).defer("hours")
    both = join(*(_kept(chunk, start, end, COLUMNS) for chunk in chunks), columns(order(logged)))
    within = slice(bisect_left(both["at"], start), bisect_left(both["at"], end))
    return {name: values[within] for name, values in both.items()}


def sealed_readings(
    interfaces: Collection[int],
    start: int,
    end: int,
    wanted: Collection[str] = COLUMNS,
    changed: Iterable[Chunk] = (),
    silent: Collection[int] = (),
    stored: Iterable[Chunk] | None = None,
    is_followed: bool = True,
    has_no_hole: bool = False,
) -> dict[int, Columns]:
    """Return the sealed readings of each interface from `start` to `end` (ms), with a neighbour on each side.

    `changed` are chunks that take the place of those in the database; of `silent` interfaces none follows `end`, and
    none is looked for unless the window `is_followed`. `stored` are the chunks of `chunks_around` the window, and
    perhaps others, where they have been read before: if they have no hole, those beyond the window are next to it.
    Where they tell (`with_newest`) that one has a newer reading by now, it is not `silent`.
    """
    names = columns_for(wanted)
    neighbours: list[Chunk] | None = None
    if stored is None and not changed and len(interfaces) <= MOST_NEXT_TO:
        stored = neighbours = _with_neighbours(interfaces, start, end)
    elif stored is None:
        around_it = chunks_around(interfaces, [(start, end)])
        stored = with_newest(around_it) if silent else around_it
    if silent and neighbours is None:
        newest = ((each.interface_id, getattr(each, "newest", None) or EPOCH) for each in stored)
        silent = set(silent) - {pk for pk, at in newest if at >= from_ms(end)}
    by_interface: dict[int, dict[date, Chunk]] = {interface: {} for interface in interfaces}
    unread: set[int] = set()
    for chunk in [*stored, *changed]:
        if chunk.interface_id in by_interface and is_around(chunk.start_ms, chunk.end_ms, start, end):
            by_interface[chunk.interface_id][chunk.start] = chunk
            if not is_read(chunk):
                unread.add(chunk.interface_id)
    found = {
        interface: join(*(_kept(chunks[day], start, end, names) for day in sorted(chunks)), names=names)
        for interface, chunks in by_interface.items()
        if interface not in unread
    }
    begun = {interface for interface, readings in found.items() if readings["at"] and readings["at"][0] <= start}
    ended = {interface for interface, readings in found.items() if readings["at"] and end <= readings["at"][-1]}
    before, after = found.keys() - begun, found.keys() - ended if is_followed else set()
    apart = sealed_readings(sorted(unread), start, end, wanted, silent=silent) if unread else {}
    if neighbours is None:
        known_before, known_after = _beyond(stored, start, end) if has_no_hole else ({}, {})
        neighbours = [*known_before.values(), *known_after.values()]
        unknown_before, unknown_after = before - known_before.keys(), after.difference(known_after, silent)
        missing = unknown_before | unknown_after
        if missing and len(missing) <= FEW_INTERFACES and not changed:
            # A week may have been merged since: what is around the window has to be as of when its neighbours are.
            apart |= sealed_readings(sorted(missing), start, end, wanted)
        else:
            neighbours += _nearest_chunks(unknown_before, _before(start), "readings")
            neighbours += _nearest_chunks(unknown_after, _after(end))
    for chunk in neighbours:
        interface = chunk.interface_id
        if chunk.end_ms <= day_start(day_of(start)) and interface in before:
            found[interface] = join(_last(chunk, names), found[interface], names=names)
        elif day_start(day_of(end)) < chunk.start_ms and interface in after:
            found[interface] = join(found[interface], chunk.get_readings(names), names=names)
    windows = {pk: _window(readings, start, end) for pk, readings in found.items() if pk not in apart}
    return _with_earlier_boots(windows, start, names) | apart


def chunks_around(interfaces: Collection[int], windows: Iterable[tuple[int, int]]) -> QuerySet[Chunk]:
    """Return the chunks, without their hours, in which the readings of some windows (ms) lie."""
    days = {_days_around(*window) for window in windows}
    of_all = Chunk.objects.filter(interface__in=interfaces).defer("hours").order_by("start")
    return of_all.filter(reduce(or_, (around(*of_window) for of_window in sorted(days))))


def chunks_of_groups(groups: Iterable[tuple[Collection[int], tuple[int, int]]]) -> QuerySet[Chunk]:
    """Return what `chunks_around` does of several groups of interfaces, each with a window (ms) of its own."""
    near = (Q(interface__in=interfaces) & around(*_days_around(*window)) for interfaces, window in groups)
    return Chunk.objects.filter(reduce(or_, near)).defer("hours").order_by("start")


def _days_around(start: int, end: int) -> tuple[int, int]:
    return day_start(day_of(start - AROUND_MS)), day_start(day_of(end + AROUND_MS))


def with_newest(chunks: QuerySet[Chunk]) -> QuerySet[Any]:
    """Annotate the newest sealed reading of each chunk's interface."""
    return chunks.annotate(newest=F("interface__sealed_until"))


def with_newer(chunks: QuerySet[Any]) -> QuerySet[Any]:
    """Annotate whether the interface of each chunk has a newer sealed reading than the chunk."""
    return chunks.annotate(has_newer=Q(interface__sealed_until__gt=F("last_at")))


def is_read(chunk: Chunk) -> bool:
    """Tell whether the readings were read with the chunk, or there are none."""
    return "readings" in chunk.__dict__


def is_around(starts: int, ends: int, start: int, end: int) -> bool:
    """Tell whether a chunk, whose days are from `starts` to `ends`, is one of those around a window (all ms)."""
    return starts <= end + AROUND_MS and start - AROUND_MS < ends


def _with_earlier_boots(found: dict[int, Columns], start: int, names: Sequence[str]) -> dict[int, Columns]:
    """Return the readings that a window from `start` needs, and before them the predecessors that lie further back.

    Where two boots overlap in time (a cloned machine, a boot placed by its agent's own clock), the neighbour of a
    reading is not its predecessor: that is the last one of its own boot.
    """
    wanted: dict[int, dict[int, int]] = defaultdict(dict)
    for interface, readings in found.items():
        at, boots, started = readings["at"], readings["boot"], readings["started"]
        for boot in set(boots) - {NO_BOOT} if len(set(boots)) > 1 else ():
            first = boots.index(boot)
            if first and at[first] > start and at[first - 1] > started[first]:
                wanted[interface][boot] = started[first]
    earlier = _last_of_boots(wanted, {interface: found[interface]["at"][0] for interface in wanted}, names)
    return found | {pk: join(*of_boots, found[pk], names=names) for pk, of_boots in earlier.items()}


def _window(readings: Columns, start: int, end: int) -> Columns:
    """Return what `between` does and, where boots overlap in time, the neighbours of each boot's own."""
    at, boots = readings["at"], readings["boot"]
    near = range(bisect_left(at, start - AROUND_MS), bisect_right(at, end + AROUND_MS))
    overlapping = set(boots[near.start : near.stop])
    if len(overlapping) < 2:
        return between(readings, start, end)
    first, last = max(bisect_right(at, start) - 1, 0), min(bisect_left(at, end), len(at) - 1)
    before = {boots[row]: row for row in range(near.start, first)}
    after = {boot: boots.index(boot, last + 1) for boot in overlapping & set(boots[last + 1 :])}
    own = {row for boot, row in (*before.items(), *after.items()) if boot != NO_BOOT}
    rows = sorted(own.union(range(first, last + 1)))
    return {name: [values[row] for row in rows] for name, values in readings.items()}


def _last_of_boots(
    wanted: dict[int, dict[int, int]], before: Mapping[int, int], names: Sequence[str]
) -> dict[int, list[Columns]]:
    """Return the last reading of each boot earlier than `before` (ms), by interface; none of one that has none.

    `wanted` says when each boot started. A chunk of each interface is read at once, from the latest back.
    """
    found: dict[int, list[Columns]] = defaultdict(list)
    days = {interface: day_of(before[interface]) for interface in wanted}
    while wanted:
        chunks = [
            chunk
            for day in set(days.values())
            for chunk in _nearest_chunks(
                {interface for interface in wanted if days[interface] == day},
                (Q(start__lte=day), Q(start__gte=day - NEAR), Max("start")),
            )
        ]
        left: dict[int, dict[int, int]] = {}
        for chunk in chunks:
            interface, readings = chunk.interface_id, chunk.get_readings(names)
            for boot, started in wanted[interface].items():
                if chunk.last_at is None or chunk.last_at < from_ms(started):
                    continue  # so are all before it
                earlier = readings["boot"][: bisect_left(readings["at"], before[interface])]
                rows = [row for row, of in enumerate(earlier) if of == boot]
                if rows:
                    found[interface].append({name: [values[rows[-1]]] for name, values in readings.items()})
                else:
                    left.setdefault(interface, {})[boot] = started
        days = {chunk.interface_id: chunk.start - timedelta(days=1) for chunk in chunks if chunk.interface_id in left}
        wanted = left
    return found


def _logged(
    interfaces: Sequence[Interface], start: int, end: int, newest: Collection[int], last_waiting: int | None
) -> dict[int, list[Reading]]:
    """Return the unsealed readings from `start` to `end`, and at least one before and one after where there are any.

    Of interfaces in `newest` none is before, and none after `last_waiting`.
    """
    wanted: dict[str, dict[str, int]] = defaultdict(dict)
    for interface in interfaces:
        wanted[interface.server_id][interface.name] = interface.pk
    found: dict[int, list[Reading]] = {interface.pk: [] for interface in interfaces}
    log = Heartbeat.objects.filter(server__in=wanted).order_by()
    since, until = from_ms(start) - AROUND, from_ms(end) + AROUND
    for heartbeat in log.between(since, until):
        ids = wanted[heartbeat.server_id]
        for name, reading in heartbeat.unpack():
            if name in ids:
                found[ids[name]].append(reading)
    others = [interface for interface in interfaces if interface.pk not in newest]
    unbound_before = _missing(others, found, lambda reading: reading.at <= start)
    has_all = last_waiting is not None and last_waiting <= end + AROUND_MS
    unbound_after = _missing(others if has_all else interfaces, found, lambda reading: reading.at >= end)
    if unbound_before or unbound_after:
        _add_neighbours(found, log, interfaces, unbound_before, unbound_after, (since, until, from_ms(end)))
    return found


def _add_neighbours(
    found: dict[int, list[Reading]],
    log: QuerySet[Heartbeat],
    interfaces: Sequence[Interface],
    unbound_before: dict[str, dict[str, int]],
    unbound_after: dict[str, dict[str, int]],
    window: tuple[datetime, datetime, datetime],
) -> None:
    """Add the nearest readings of the log before and after a window: from when to when it was read, and its end."""
    since, until, end = window
    sealed_until = {interface.pk: interface.sealed_until for interface in interfaces}
    bounds = log.filter(server__in={*unbound_before, *unbound_after}).values_list("server_id")
    missing: dict[tuple[str, datetime], dict[str, int]] = {}
    for server_id, oldest, before, after in bounds.annotate(
        Min("collected_at"),
        before=Max("collected_at", filter=Q(collected_at__lt=since)),
        after=Min("collected_at", filter=Q(collected_at__gt=until)),
    ):
        if before is not None:
            missing[server_id, before] = dict(unbound_before.get(server_id, {}))
        if after is not None:
            # What follows the window is sealed, where nothing that waits is older than that.
            missing[server_id, after] = {
                name: pk
                for name, pk in unbound_after.get(server_id, {}).items()
                if (sealed := sealed_until[pk]) is None or sealed < end or sealed >= oldest
            }
    missing = {nearest: of_server for nearest, of_server in missing.items() if of_server}
    servers, instants = {server_id for server_id, _ in missing}, {at for _, at in missing}
    for heartbeat in log.filter(server__in=servers, collected_at__in=instants):
        _take(found, heartbeat, missing.get((heartbeat.server_id, heartbeat.collected_at), {}))
    # Not in the nearest heartbeat.
    before = {server_id: names for (server_id, at), names in missing.items() if names and at < since}
    after = {server_id: names for (server_id, at), names in missing.items() if names and at > until}
    _add_nearest(found, before, log.filter(collected_at__lt=since).order_by("-collected_at"))
    _add_nearest(found, after, log.filter(collected_at__gt=until).order_by("collected_at"))


def _take(found: dict[int, list[Reading]], heartbeat: Heartbeat, missing: dict[str, int]) -> None:
    for name, reading in heartbeat.unpack() if missing else ():
        if name in missing:
            found[missing.pop(name)].append(reading)


def _begins_after_sealed(interface: Interface, start: int) -> bool:
    return interface.sealed_until is not None and interface.sealed_until <= from_ms(start)


def newest_sealed(interfaces: Sequence[Interface]) -> dict[int, Reading]:
    """Return the newest sealed reading of each interface, by its id; of one that has been sealed since, none."""
    until = {interface.pk: interface.sealed_until for interface in interfaces}
    days = {at.date() for at in until.values() if at is not None}
    holding = Chunk.objects.filter(interface__in=until, start__in={*days, *map(week_of, days)}, count__gt=0).order_by()
    lasts = holding.values_list("interface_id", "last_at", "last_reading", "interface__sealed_until")
    return {
        interface: newest
        for interface, at, last, now_until in lasts
        if at == until[interface] == now_until and (newest := unpack_reading(last)) is not None
    }


def is_alone(newest: Reading, logged: Iterable[Reading]) -> bool:
    """Tell whether all that is logged comes later, and no sealed reading but the newest has a successor there.

    It has where another boot was running then too: the predecessor of that one's next reading lies further back.
    """
    return all(
        of.at > newest.at and (of.boot == newest.boot or (of.boot != NO_BOOT and of.started > newest.at))
        for of in logged
    )


def _only(readings: Columns, names: Sequence[str]) -> Columns:
    return {name: readings[name] for name in names}


def _missing(
    interfaces: Sequence[Interface], found: dict[int, list[Reading]], reaches: Callable[[Reading], bool]
) -> dict[str, dict[str, int]]:
    """Return the interfaces, by server and name, of which no reading found reaches to where it should."""
    missing: dict[str, dict[str, int]] = defaultdict(dict)
    for interface in interfaces:
        if not any(map(reaches, found[interface.pk])):
            missing[interface.server_id][interface.name] = interface.pk
    return missing


def _add_nearest(found: dict[int, list[Reading]], missing: dict[str, dict[str, int]], log: QuerySet[Heartbeat]) -> None:
    """Add the first reading in the log, in its order, of each interface that is missing, by server."""
    for heartbeat in log.filter(server__in=missing).iterator(chunk_size=50) if missing else ():
        _take(found, heartbeat, missing[heartbeat.server_id])
        if not any(missing.values()):
            return


Side = tuple[Q, Q, Max | Min]  # of a window: which chunks are beyond it, which of these are near, and which the nearest


def _before(start: int) -> Side:
    day = day_of(start)
    ended = Q(days=1, start__lt=day) | Q(days=7, start__lte=day - timedelta(days=7))
    return ended, Q(start__gte=day - NEAR), Max("start")


def _after(end: int) -> Side:
    day = day_of(end)
    return Q(start__gt=day), Q(start__lte=day + NEAR), Min("start")


def _with_neighbours(interfaces: Collection[int], start: int, end: int) -> list[Chunk]:
    """Return the chunks around a window (ms) of a few interfaces, and the nearest on each side, read at once."""
    around_it = chunks_around(interfaces, [(start, end)]).order_by()
    sides = (_nearest(interfaces, *side) for side in (_before(start), _after(end)))
    return list(around_it.union(*sides, all=True))


def starts_before(interfaces: Collection[int], start: int) -> QuerySet[Any]:
    """Return, of each chunk's interface, which is one of these, the start of the last before `start` with readings."""
    return _starts(interfaces, *_before(start))


def starts_after(interfaces: Collection[int], end: int) -> QuerySet[Any]:
    """Return, of each chunk's interface, which is one of these, the start of the first after `end` with readings."""
    return _starts(interfaces, *_after(end))


def _starts(interfaces: Collection[int], beyond: Q, _near: Q, nearest: Max | Min) -> QuerySet[Any]:
    there = Chunk.objects.filter(beyond, count__gt=0, interface__in=interfaces, interface=OuterRef("interface"))
    return there.order_by().values("interface").annotate(nearest=nearest).values("nearest")


def _nearest(interfaces: Collection[int], beyond: Q, near: Q, nearest: Max | Min, *unneeded: str) -> QuerySet[Chunk]:
    """Return, of the chunks of each interface that have readings and are beyond the window, the nearest."""
    there = Chunk.objects.filter(beyond, interface__in=interfaces, count__gt=0).defer("hours", *unneeded).order_by()
    return there.filter(start__in=_starts(interfaces, beyond, near, nearest))


def _beyond(stored: Iterable[Chunk], start: int, end: int) -> tuple[dict[int, Chunk], dict[int, Chunk]]:
    """Return the nearest chunks before and after a window (ms), by interface, of those that are there."""
    before: dict[int, Chunk] = {}
    after: dict[int, Chunk] = {}
    for chunk in sorted(stored, key=attrgetter("start")):
        if chunk.count and chunk.end_ms <= day_start(day_of(start)):
            before[chunk.interface_id] = chunk
        elif chunk.count and day_start(day_of(end)) < chunk.start_ms:
            after.setdefault(chunk.interface_id, chunk)
    return before, {interface: chunk for interface, chunk in after.items() if is_read(chunk)}


def _nearest_chunks(interfaces: Collection[int], side: Side, *unneeded: str) -> list[Chunk]:
    """Return what `_nearest` does: of many interfaces it is first looked for among those that are near."""
    if len(interfaces) <= MOST_NEXT_TO:
        return list(_nearest(interfaces, *side, *unneeded)) if interfaces else []
    beyond, near, nearest = side
    found = list(_nearest(interfaces, beyond & near, near, nearest, *unneeded))
    there = Chunk.objects.filter(beyond, count__gt=0).defer("hours", *unneeded).order_by()
    rest = set(interfaces).difference(chunk.interface_id for chunk in found)
    starts = dict(there.filter(interface__in=rest).values_list("interface_id").annotate(nearest))
    further = there.filter(interface__in=starts, start__in=set(starts.values()))
    return found + [chunk for chunk in further if chunk.start == starts[chunk.interface_id]]


def _kept(chunk: Chunk, start: int, end: int, names: Sequence[str]) -> Columns:
    """Return the chunk's readings that a window needs; past their retention, the last, which what follows still needs.

    Boots that overlap are looked for around the window: where only one is in the chunk, nothing further away matters.
    """
    if chunk.readings is None:
        return _last(chunk, names)
    return chunk.get_readings_around(start - AROUND_MS, end + AROUND_MS, names)


def _last(chunk: Chunk, names: Sequence[str]) -> Columns:
    reading = chunk.get_last_reading()
    of_all = columns([reading] if reading else [])
    return {name: of_all[name] for name in names}
