"""What waits in the log, without what no sum needs: enough to tell what passed many servers between some instants.

Of heartbeats that go on plainly one from the other (`Snapshot.steady_since` tells from when on they do) only those next
to the instants asked about are read: the ones between them change how fast bytes passed, not how many. So a fleet's
hour in the log is read from a few rows a server, whatever it holds.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, reduce
from itertools import accumulate
from operator import attrgetter, or_
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Count, F, Max, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from metrics.counters import Reading
from metrics.models import EPOCH, Heartbeat, Interface, from_ms, to_ms
from metrics.readings import AROUND_MS, Log, Logs, Waiting, limit_after
from metrics.streaming import AT_ONCE
from servers.models import Snapshot

MOST_INSTANTS = 4  # of which the neighbours are looked for
MOST_OTHERS = 40_000  # heartbeats that may be anything, as of 300 servers an hour after an outage
MOST_LATE = 1000  # of one server, or where some came late: of these the window tells which are needed
APART_MS = 300_000  # instants further apart than this are read by two looks at the index
OTHER, NEAR, AROUND, BEYOND = range(4)  # why a heartbeat is read
NO_GAP_MS = 2**40  # the interval of a reading that may follow on several that are left out


class Standing(NamedTuple):
    """One server as of one instant: how often something changed, and was sealed, and what waits in the log.

    `others` heartbeats of these may be anything: those up to `since` (ms). `next_to` are the instants (ms) of the later
    ones before and after each that was asked about and is past what is sealed, `beyond` those of any next to all that
    is around the instants; None where there are none.
    """

    revision: int
    sealed: int
    waiting: Waiting | None
    since: int | None
    others: int
    next_to: tuple[tuple[int | None, int | None], ...]
    beyond: tuple[int | None, int | None]
    is_late: bool  # something waits that is older than what is sealed
    is_over: bool  # all that was asked about is: it is sealed, and whatever waits does not change it

    @property
    def is_behind(self) -> bool:
        """Tell whether nothing that goes on plainly from now on changes the answer."""
        return self.since is not None and all(after is not None for _, after in self.next_to)


@dataclass(frozen=True)
class Standings:
    """How some servers stand, asked at once."""

    of: dict[str, Standing]
    names: Mapping[str, Collection[str]]  # of the interfaces that are asked about, by server
    instants: Collection[int]  # that were asked about, ms
    edges: Collection[int]  # those of them, or beside them, of which the neighbours are looked for
    version: int  # another one where what passed between the instants may be another

    @cached_property
    def sealed(self) -> dict[str, int]:
        return {server: standing.sealed for server, standing in self.of.items()}

    @cached_property
    def waiting(self) -> dict[str, Waiting]:
        return {server: standing.waiting for server, standing in self.of.items() if standing.waiting is not None}

    @property
    def logs(self) -> Logs:
        """Return logs with the readings next to the instants, and all that may be anything: enough for sums.

        Whatever has left the log before is in the chunks as of `sealed`. Servers are left out for which all is over; of
        which nothing is known of how their heartbeats go on; or too many heartbeats may be anything.
        """
        return self._read_at_once[0]

    @property
    def whole_logs(self) -> Logs:
        """Return logs of servers that `logs` leaves out, with all readings around the instants and next to these.

        Left out is where an interface is in none of the readings next to them: it may be in others.
        """
        return self._read_at_once[1]

    @property
    def all_logs(self) -> Logs:
        return {**self.whole_logs, **self.logs}

    @cached_property
    def _read_at_once(self) -> tuple[Logs, Logs]:
        waiting = self.waiting
        thin = _with_few_others({server: of for server, of in self.of.items() if self._is_thin(of)})
        wanted = {server: _wanted(of) for server, of in thin.items()}
        long = {server: of for server, of in self.of.items() if not of.is_over and server not in thin}
        found = _read(thin, wanted, long, self.instants, self.names)
        logs = {server: Log(None, None, set(), {}) for server in self.of.keys() - waiting.keys()}
        for server, of in thin.items():
            others, near = found.others[server], found.near[server]
            # Where some have left the log since, or come late, the rest does not tell.
            if len(others) == of.others and len(near) == len(wanted[server]):
                logs[server] = _log(waiting[server], others, near, self.names[server])
        whole = {server: Log(*waiting[server], found.around[server]) for server in long.keys() & found.around.keys()}
        return logs, {server: log for server, log in whole.items() if self._is_whole(server, log)}

    def know(self, interfaces: Iterable[Interface], instants: Collection[int]) -> bool:
        """Tell whether these tell, too, what passed some of their interfaces between these instants (ms)."""
        waiting = {interface.server_id for interface in interfaces} & self.waiting.keys()
        if waiting and not self.are_around(instants):
            return False
        unknown = {server for server in waiting if not self._have_all(instants, self.waiting[server])}
        return not unknown or unknown <= self.whole_logs.keys()

    def are_around(self, instants: Collection[int]) -> bool:
        """Tell whether all of these instants (ms) lie among those that were asked about."""
        return min(self.instants) <= min(instants) and max(instants) <= max(self.instants)

    def _is_whole(self, server: str, log: Log) -> bool:
        start, end = min(self.instants), max(self.instants)
        before, after = self.of[server].beyond
        lines = [log.readings.get(name, []) for name in self.names[server]]
        has_before = before is None or all(line and line[0].at <= start for line in lines)
        return has_before and (after is None or all(line and end <= line[-1].at for line in lines))

    def _have_all(self, instants: Collection[int], of: Waiting) -> bool:
        """Tell whether the neighbours of all instants are looked for, but for those up to an edge before the log.

        These are sealed, or between the newest sealed reading and the first that waits, which is next to that edge.
        """
        missing = [instant for instant in instants if instant not in self.edges]
        return not missing or any(max(missing) <= edge <= of.first_at for edge in self.edges)

    def _is_thin(self, of: Standing) -> bool:
        if of.waiting is None or of.since is None or of.is_over:
            return False
        return self._have_all(self.instants, of.waiting)


def standings_of(interfaces: Iterable[Interface], instants: Sequence[int], beside: Sequence[int] = ()) -> Standings:
    """Return how the interfaces' servers stand, to tell what passed between any of the `instants` (ms).

    They know of the last few of those `beside`, too.
    """
    of_each: dict[str, list[datetime]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)
    for interface in interfaces:
        names[interface.server_id].add(interface.name)
        of_each[interface.server_id].append(interface.sealed_until or EPOCH)
    sealed_until = {server: to_ms(max(newest)) for server, newest in of_each.items()}
    final_until = {server: limit_after(to_ms(min(newest))) for server, newest in of_each.items()}
    edges = sorted(set(instants))[-MOST_INSTANTS:]
    further = sorted(set(beside).difference(edges))
    edges = sorted({*edges, *further[len(further) - MOST_INSTANTS + len(edges) :]})
    open_edges = [edge for edge in edges if edge > min(sealed_until.values(), default=0)]  # the others are sealed
    standings = dict.fromkeys(
        sealed_until, Standing(0, 0, None, None, 0, (), (None, None), is_late=False, is_over=True)
    )
    version = 0
    for server, sealed, revision, since, first, last, oldest_boot, newest_boot, others, *near in _ask(
        sealed_until, open_edges, _around(instants)
    ):
        waiting = Waiting(to_ms(first), to_ms(last), {oldest_boot, newest_boot}) if first is not None else None
        near_ms = list(map(_to_ms, near))
        beyond, *pairs = zip(near_ms[::2], near_ms[1::2], strict=True)
        next_to = tuple(pair for edge, pair in zip(open_edges, pairs, strict=True) if edge > sealed_until[server])
        is_late = waiting is not None and waiting.first_at < sealed_until[server]
        is_over = waiting is None or (not is_late and max(instants) <= final_until[server])
        standings[server] = Standing(
            revision + sealed, sealed, waiting, _to_ms(since), others, next_to, beyond, is_late=is_late, is_over=is_over
        )
        goes_on = None if waiting is None or standings[server].is_behind else revision
        version ^= hash((server, sealed, since, others, next_to, goes_on))
    return Standings(standings, names, set(instants), set(edges), version)


def _around(instants: Collection[int]) -> tuple[int, int]:
    return min(instants) - AROUND_MS, max(instants) + AROUND_MS


def _ask(servers: Collection[str], edges: Sequence[int], around: tuple[int, int]) -> Any:
    looks = by_seeks(edges, around) if connection.vendor == "sqlite" else by_sums(edges, around)
    of_servers = Snapshot.objects.filter(server__in=servers).order_by()
    return of_servers.values_list("server_id", "sealed_revision", "revision", "steady_since").annotate(**looks)


def by_sums(edges: Sequence[int], around: tuple[int, int]) -> dict[str, Any]:
    """Return how the logs of servers stand, as annotations of their snapshots: from one look at each heartbeat.

    These are the first and the last that waits, the lowest and the highest boot, how many may be anything, the ones
    next to all that is `around` (ms) a window, and of those that go on plainly the ones before and after each edge.
    """
    log = "server__heartbeats__"
    at = f"{log}collected_at"
    is_plain = Q(**{f"{at}__gt": F("steady_since")})
    looks: dict[str, Any] = {
        "first": Min(at),
        "last": Max(at),
        "oldest_boot": Min(f"{log}boot_number"),
        "newest_boot": Max(f"{log}boot_number"),
        "others": Count(at, filter=Q(**{f"{at}__lte": F("steady_since")})),
        "before": Max(at, filter=Q(**{f"{at}__lt": from_ms(around[0])})),
        "after": Min(at, filter=Q(**{f"{at}__gt": from_ms(around[1])})),
    }
    for number, edge in enumerate(map(from_ms, edges)):
        looks[f"before_{number}"] = Max(at, filter=is_plain & Q(**{f"{at}__lte": edge}))
        looks[f"after_{number}"] = Min(at, filter=is_plain & Q(**{f"{at}__gte": edge}))
    return looks


def by_seeks(edges: Sequence[int], around: tuple[int, int]) -> dict[str, Any]:
    """Return what `by_sums` does, from looks into indexes.

    Of an hour of a fleet in the log that takes an eighth of the time. Citus knows no such subqueries.
    """
    log = Heartbeat.objects.filter(server=OuterRef("server"))
    plain = log.filter(collected_at__gt=OuterRef("steady_since"))
    others = log.filter(collected_at__lte=OuterRef("steady_since")).order_by()
    looks: dict[str, Any] = {
        "first": _first(log, "collected_at"),
        "last": _first(log, "-collected_at"),
        "oldest_boot": _first(log, "boot_number"),
        "newest_boot": _first(log, "-boot_number"),
        "others": Coalesce(Subquery(others.values("server").annotate(count=Count("*")).values("count")), 0),
        "before": _first(log.filter(collected_at__lt=from_ms(around[0])), "-collected_at"),
        "after": _first(log.filter(collected_at__gt=from_ms(around[1])), "collected_at"),
    }
    for number, edge in enumerate(map(from_ms, edges)):
        looks[f"before_{number}"] = _first(plain.filter(collected_at__lte=edge), "-collected_at")
        looks[f"after_{number}"] = _first(plain.filter(collected_at__gte=edge), "collected_at")
    return looks


def _first(log: QuerySet[Heartbeat], order: str) -> Subquery:
    return Subquery(log.order_by(order).values(order.lstrip("-"))[:1])


def _to_ms(instant: Any) -> int | None:
    return to_ms(instant) if instant is not None else None


def _with_few_others(thin: Mapping[str, Standing]) -> dict[str, Standing]:
    """Return those of which all heartbeats that may be anything are read, whenever they were."""
    late = {server: of for server, of in thin.items() if of.is_late}
    in_time = {server: of for server, of in thin.items() if not of.is_late and of.others <= MOST_LATE}
    return {**_with_fewest(in_time, MOST_OTHERS), **_with_fewest(late, MOST_LATE)}


def _with_fewest(standings: Mapping[str, Standing], most: int) -> dict[str, Standing]:
    fewest = sorted(standings, key=lambda server: standings[server].others)
    together = accumulate(standings[server].others for server in fewest)
    return {server: standings[server] for server, count in zip(fewest, together, strict=True) if count <= most}


def _wanted(of: Standing) -> set[int]:
    """Return the instants of the heartbeats that are to be read from the log."""
    return {at for pair in of.next_to for at in pair if at is not None}


class _Found(NamedTuple):
    """Of some logs the heartbeats that may be anything and those next to instants, of others all readings around these.

    By server; readings by interface.
    """

    others: dict[str, list[Heartbeat]]
    near: dict[str, list[Heartbeat]]
    around: dict[str, dict[str, list[Reading]]]


def _read(
    thin: Mapping[str, Standing],
    wanted: Mapping[str, set[int]],
    long: Mapping[str, Standing],
    instants: Collection[int],
    names: Mapping[str, Collection[str]],
) -> _Found:
    """Return, read at once, what is wanted of the `thin` logs, and of the `long` ones the readings of these names.

    Of a server of which something was sealed since, no heartbeats that may be anything, and nothing of a long log.
    """
    of_each = Heartbeat.objects.defer("received_at").order_by()
    log: QuerySet[Any] = of_each.annotate(sealed=F("server__snapshot__sealed_revision"))
    before = log.filter(
        server__in=[server for server, of in thin.items() if of.others],
        collected_at__lte=F("server__snapshot__steady_since"),
    )
    beyond = {server: {at for at in of.beyond if at is not None} for server, of in long.items()}
    around = log.filter(server__in=long, collected_at__range=tuple(map(from_ms, _around(instants))))
    parts = [(_near(log, wanted), NEAR), (around, AROUND), (_near(log, beyond), BEYOND)]
    rows = before.annotate(why=Value(OTHER)).union(*(of.annotate(why=Value(why)) for of, why in parts), all=True)
    found = _Found(defaultdict(list), defaultdict(list), defaultdict(lambda: defaultdict(list)))
    for heartbeat in rows.iterator(AT_ONCE) if long else rows:
        server, at, why = heartbeat.server_id, to_ms(heartbeat.collected_at), heartbeat.why
        if why == AROUND or (why == BEYOND and at in beyond[server]):
            if heartbeat.sealed == long[server].sealed:
                of_server = found.around[server]
                for name, reading in heartbeat.unpack(names[server]):
                    of_server[name].append(reading)
        elif why == NEAR and at in wanted[server]:
            found.near[server].append(heartbeat)
        elif why == OTHER and heartbeat.sealed == thin[server].sealed and at <= (thin[server].since or 0):
            found.others[server].append(heartbeat)
    for of_server in found.around.values():
        for line in of_server.values():
            line.sort(key=attrgetter("at"))
    return found


def _near(log: QuerySet[Any], wanted: Mapping[str, set[int]]) -> QuerySet[Any]:
    """Return the heartbeats about these instants (ms), which are close to a few."""
    windows: list[list[int]] = []
    for instant in sorted(set().union(*wanted.values())):
        if not windows or instant > windows[-1][1] + APART_MS:
            windows.append([instant, instant])
        windows[-1][1] = instant
    if not windows:
        return log.none()
    near = reduce(or_, (Q(collected_at__range=tuple(map(from_ms, window))) for window in windows))
    return log.filter(near, server__in=[server for server, instants in wanted.items() if instants])


def _log(waiting: Waiting, others: list[Heartbeat], near: list[Heartbeat], names: Collection[str]) -> Log:
    readings: dict[str, list[Reading]] = defaultdict(list)
    for heartbeat in sorted(others, key=attrgetter("collected_at")):
        for name, reading in heartbeat.unpack(names):
            readings[name].append(reading)
    for heartbeat in sorted(near, key=attrgetter("collected_at")):
        heartbeat.interval_ms = NO_GAP_MS
        for name, reading in heartbeat.unpack(names):
            readings[name].append(reading)
    return Log(*waiting, dict(readings))
