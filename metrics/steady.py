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
from metrics.readings import Log, Logs, Waiting
from servers.models import Snapshot

MOST_INSTANTS = 4  # of which the neighbours are looked for
MOST_OTHERS = 1000  # heartbeats that may be anything: of the other servers, they are read as far as they are needed
APART_MS = 300_000  # instants further apart than this are read by two looks at the index
NO_GAP_MS = 2**40  # the interval of a reading that may follow on several that are left out


class Standing(NamedTuple):
    """One server as of one instant: how often something changed, and was sealed, and what waits in the log.

    `others` heartbeats of these may be anything: those up to `since` (ms). `next_to` are the instants (ms) of the later
    ones before and after each that was asked about and is past what is sealed; None where there are none.
    """

    revision: int
    sealed: int
    waiting: Waiting | None
    since: int | None
    others: int
    next_to: tuple[tuple[int | None, int | None], ...]

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

    @cached_property
    def logs(self) -> Logs:
        """Return logs with the readings next to the instants, and all that may be anything: enough for sums.

        Whatever has left the log before is in the chunks as of `sealed`. Of servers that are left out nothing is known
        of how their heartbeats go on, or they are too many that may be anything.
        """
        waiting = self.waiting
        logs = {server: Log(None, None, set(), {}) for server in self.of.keys() - waiting.keys()}
        thin = _with_few_others({server: of for server, of in self.of.items() if self._is_thin(of)})
        wanted = {server: _wanted(of) for server, of in thin.items()}
        others, near = _read(thin, wanted)
        for server, of in thin.items():
            # Where some have left the log since, or come late, the rest does not tell.
            if len(others.get(server, [])) == of.others and len(near[server]) == len(wanted[server]):
                logs[server] = _log(waiting[server], others.get(server, []), near[server], self.names[server])
        return logs

    def know(self, interfaces: Iterable[Interface], instants: Collection[int]) -> bool:
        """Tell whether these tell, too, what passed some of their interfaces between these instants (ms)."""
        waiting = [self.waiting.get(server) for server in {interface.server_id for interface in interfaces}]
        return all(of is None or self._have_all(instants, of) for of in waiting)

    def _have_all(self, instants: Collection[int], of: Waiting) -> bool:
        """Tell whether the neighbours of all instants are looked for, but for those up to an edge before the log.

        These are sealed, or between the newest sealed reading and the first that waits, which is next to that edge.
        """
        missing = [instant for instant in instants if instant not in self.edges]
        return not missing or any(max(missing) <= edge <= of.first_at for edge in self.edges)

    def _is_thin(self, of: Standing) -> bool:
        return of.waiting is not None and of.since is not None and self._have_all(self.instants, of.waiting)


def standings_of(interfaces: Iterable[Interface], instants: Sequence[int], beside: Sequence[int] = ()) -> Standings:
    """Return how the interfaces' servers stand, to tell what passed between any of the `instants` (ms).

    They know of the last few of those `beside`, too.
    """
    newest: dict[str, datetime] = {}
    names: dict[str, set[str]] = defaultdict(set)
    for interface in interfaces:
        names[interface.server_id].add(interface.name)
        newest[interface.server_id] = max(interface.sealed_until or EPOCH, newest.get(interface.server_id, EPOCH))
    sealed_until = {server: to_ms(at) for server, at in newest.items()}
    edges = sorted(set(instants))[-MOST_INSTANTS:]
    further = sorted(set(beside).difference(edges))
    edges = sorted({*edges, *further[len(further) - MOST_INSTANTS + len(edges) :]})
    open_edges = [edge for edge in edges if edge > min(sealed_until.values(), default=0)]  # the others are sealed
    standings = dict.fromkeys(sealed_until, Standing(0, 0, None, None, 0, ()))
    version = 0
    for server, sealed, revision, since, first, last, oldest_boot, newest_boot, others, *around in _ask(
        sealed_until, open_edges
    ):
        waiting = Waiting(to_ms(first), to_ms(last), {oldest_boot, newest_boot}) if first is not None else None
        before_and_after = list(map(_to_ms, around))
        pairs = zip(open_edges, before_and_after[::2], before_and_after[1::2], strict=True)
        next_to = tuple((before, after) for edge, before, after in pairs if edge > sealed_until[server])
        standings[server] = Standing(revision + sealed, sealed, waiting, _to_ms(since), others, next_to)
        goes_on = None if waiting is None or standings[server].is_behind else revision
        version ^= hash((server, sealed, since, others, next_to, goes_on))
    return Standings(standings, names, set(instants), set(edges), version)


def _ask(servers: Collection[str], edges: Sequence[int]) -> Any:
    looks = by_seeks(edges) if connection.vendor == "sqlite" else by_sums(edges)
    of_servers = Snapshot.objects.filter(server__in=servers).order_by()
    return of_servers.values_list("server_id", "sealed_revision", "revision", "steady_since").annotate(**looks)


def by_sums(edges: Sequence[int]) -> dict[str, Any]:
    """Return how the logs of servers stand, as annotations of their snapshots: from one look at each heartbeat.

    These are the first and the last that waits, the lowest and the highest boot, how many may be anything, and of those
    that go on plainly the ones before and after each edge (ms).
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
    }
    for number, edge in enumerate(map(from_ms, edges)):
        looks[f"before_{number}"] = Max(at, filter=is_plain & Q(**{f"{at}__lte": edge}))
        looks[f"after_{number}"] = Min(at, filter=is_plain & Q(**{f"{at}__gte": edge}))
    return looks


def by_seeks(edges: Sequence[int]) -> dict[str, Any]:
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
    fewest = sorted(thin, key=lambda server: thin[server].others)
    together = accumulate(thin[server].others for server in fewest)
    return {server: thin[server] for server, count in zip(fewest, together, strict=True) if count <= MOST_OTHERS}


def _wanted(of: Standing) -> set[int]:
    """Return the instants of the heartbeats that are to be read from the log."""
    return {at for pair in of.next_to for at in pair if at is not None}


def _read(
    thin: Mapping[str, Standing], wanted: Mapping[str, set[int]]
) -> tuple[dict[str, list[Heartbeat]], dict[str, list[Heartbeat]]]:
    """Return, by server, the heartbeats that may be anything, and those of the wanted instants (ms), read at once.

    Of a server of which something was sealed since, none of the first.
    """
    of_each = Heartbeat.objects.defer("received_at").order_by()
    log: QuerySet[Any] = of_each.annotate(sealed=F("server__snapshot__sealed_revision"))
    before = log.filter(
        server__in=[server for server, of in thin.items() if of.others],
        collected_at__lte=F("server__snapshot__steady_since"),
    )
    others: dict[str, list[Heartbeat]] = defaultdict(list)
    near: dict[str, list[Heartbeat]] = defaultdict(list)
    next_to = _near(log, wanted).annotate(is_near=Value(1))
    for heartbeat in before.annotate(is_near=Value(0)).union(next_to, all=True):
        of, at = thin[heartbeat.server_id], to_ms(heartbeat.collected_at)
        if heartbeat.is_near:
            if at in wanted[heartbeat.server_id]:
                near[heartbeat.server_id].append(heartbeat)
        elif heartbeat.sealed == of.sealed and at <= (of.since or 0):
            others[heartbeat.server_id].append(heartbeat)
    return others, near


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
