"""The only way out: every answer about the past comes from here."""

import hashlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypedDict, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import Count, F, Max, Min, Q, Sum

from metrics import memory
from metrics.counters import (
    BYTES,
    COUNTERS,
    MARKS,
    REQUIRED,
    UNCLEAN,
    UNKNOWN,
    Buckets,
    Chain,
    add_buckets,
    empty_buckets,
    rate,
)
from metrics.final import final_until
from metrics.increases import bytes_between, increases, is_by_hours, unrolled
from metrics.models import EPOCH, Chunk, Heartbeat, Interface, day_of, day_start, from_ms, to_ms, week_of
from metrics.passed import passed
from metrics.percentiles import add_rates, five_minute_rates, percentile
from metrics.periods import DAY, Step, current_period, edges
from metrics.readings import readings
from metrics.steady import Standings, standings_of
from servers.models import Server, Snapshot
from servers.prepared import PreparedGet

SPARKLINE_PERIODS = {
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "12m": timedelta(days=365),
}
SPARKLINE_POINTS = 60
RANKS = (100, 1000)  # that are looked for at once: the fewer, the less is read of those that passed little
WORDS = [[word for mark, word in MARKS.items() if marks & mark] for marks in range(2 ** len(MARKS))]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Series:
    """What passed in consecutive buckets: one list a column, one value a bucket, null where nothing is known.

    Increases in bytes and packets; rates, peaks and lows in bytes per second; `marks` out of reset, wrap, gap, suspect.
    """

    start: list[datetime]
    end: datetime
    rx_bytes: list[int | None]
    tx_bytes: list[int | None]
    rx_packets: list[int | None]
    tx_packets: list[int | None]
    rx_errors: list[int | None]
    tx_errors: list[int | None]
    rx_dropped: list[int | None]
    tx_dropped: list[int | None]
    rx_rate: list[float | None]
    tx_rate: list[float | None]
    rx_peak: list[float | None]
    tx_peak: list[float | None]
    rx_low: list[float | None]
    tx_low: list[float | None]
    covered_seconds: list[float]
    up_seconds: list[float]
    resets: list[int]
    marks: list[list[str]]

    def total(self, name: str) -> int | float | None:
        """Return the sum of a column over the whole window; null where nothing is known."""
        known = [value for value in getattr(self, name) if value is not None]
        return sum(known) if known else None


class UsageRow(NamedTuple):
    """Exact bytes of one interface, or of a server's total (`interface` None), in one calendar period."""

    server_id: str
    interface: str | None
    start: datetime
    end: datetime
    rx_bytes: int | None
    tx_bytes: int | None
    covered_seconds: float
    resets: int
    rx_p95: float | None
    tx_p95: float | None


class TopRow(NamedTuple):
    rank: int
    server_id: str
    interface: str
    rx_bytes: int
    tx_bytes: int


class Passed(NamedTuple):
    """Bytes; null where nothing is known."""

    rx_bytes: int | None
    tx_bytes: int | None


class SparklinePoint(TypedDict):
    """Counters at `timestamp`, and bytes per second since the point before; null after a gap or a reset."""

    timestamp: datetime
    rx_bytes: int
    tx_bytes: int
    rx_rate: float | None
    tx_rate: float | None


def interfaces_of(server_id: str, name: str | None = None) -> list[Interface]:
    """Return the named interface, or those that count in the server's total; all of them when none does by rule."""
    if name is not None:
        interface = _named_interface(server_id, name)
        return [interface] if interface else []
    of_server = Interface.objects.with_revision().select_related("server").filter(server=server_id)
    return list(of_server.in_totals()) or list(of_server)


_named_interface = PreparedGet(
    lambda server, name: (
        Interface.objects.with_revision().select_related("server").order_by().filter(server=server, name=name)
    ),
    values=2,
)


def fleet(servers: Sequence[Server], name: str | None = None, *, by_server: bool) -> list[Interface]:
    """Return the interfaces of the servers, the named ones or all; by server, those that count in its total."""
    found = Interface.objects.with_revision().filter(server__in=servers).order_by("server_id", "name")
    if name is not None:
        return list(found.filter(name=name))
    if not by_server:
        return list(found)
    counted = list(found.in_totals())
    with_total = {interface.server_id for interface in counted}
    others = [server for server in servers if server.pk not in with_total]
    return counted + list(found.filter(server__in=others) if others else ())


def whole_fleet() -> list[Interface]:
    """Return the interfaces that count in the total of any server, with their servers."""
    found = Interface.objects.with_revision().counted().order_by("server_id", "name")
    names = {"hostname": F("server__hostname"), "display_name": F("server__display_name")}
    interfaces = list(found.only("server_id", "name", "label", "sealed_until").annotate(**names))
    of_server = Interface._meta.get_field("server")
    servers: dict[str, Server] = {}
    for interface in interfaces:  # one object a server: a joined one for each interface takes as long as all the rest
        if interface.server_id not in servers:
            values = [interface.server_id, *(getattr(interface, name) for name in names)]
            servers[interface.server_id] = Server.from_db(found.db, ["id", *names], values)
        of_server.set_cached_value(interface, servers[interface.server_id])
    return interfaces


def series(
    interfaces: Sequence[Interface],
    start: datetime,
    end: datetime,
    step: Step,
    zone: ZoneInfo,
    *,
    counters: Sequence[str] = REQUIRED,
) -> Series:
    """Return what passed the interfaces together from `start` to `end`, in buckets of `step`.

    Each is diffed on its own, then they are summed. The buckets begin at the zone's boundaries; the first and the
    last are cut by the window. A raw step gives one bucket between every two readings.
    """
    return series_by({None: interfaces}, start, end, step, zone, counters=counters)[None]


def series_by(
    groups: Mapping[Key, Sequence[Interface]],
    start: datetime,
    end: datetime,
    step: Step,
    zone: ZoneInfo,
    *,
    counters: Sequence[str] = REQUIRED,
) -> dict[Key, Series]:
    """Return the series of each group of interfaces, as `series` does of one, all of them read at once."""
    if step.seconds or step.months:
        return series_between(groups, edges(start, end, step, zone), counters=counters)
    instants = [from_ms(instant) for instant in _raw_edges(_all_of(groups), to_ms(start), to_ms(end))]
    return series_between(groups, instants, counters=counters)


def series_between(
    groups: Mapping[Key, Sequence[Interface]], instants: Sequence[datetime], *, counters: Sequence[str] = REQUIRED
) -> dict[Key, Series]:
    """Return the series of each group in the buckets between any consecutive instants, all of them read at once."""
    edges_ms = [to_ms(instant) for instant in instants]
    return _series_of(groups, increases(_all_of(groups), edges_ms, counters), edges_ms, counters)


def standings(
    interfaces: Sequence[Interface], start: datetime, end: datetime, instants: Sequence[datetime]
) -> Standings:
    """Return how the interfaces stand, for what `top` and then `sums_between` tell of one window."""
    edges_ms = list(map(to_ms, instants))
    return standings_of(interfaces, [to_ms(start), to_ms(end)], edges_ms if is_by_hours(edges_ms) else ())


def sums_between(
    groups: Mapping[Key, Sequence[Interface]], instants: Sequence[datetime], as_of: Standings | None = None
) -> dict[Key, Series]:
    """Return bytes and rates as `series_between` does, but no peaks and lows: it asks less of the log."""
    edges_ms = [to_ms(instant) for instant in instants]
    interfaces = _all_of(groups)
    key = ("sums", *edges_ms, *((group, interface.pk) for group, of in groups.items() for interface in of))
    revision = memory.revision_of(interfaces)
    found: dict[Key, Series] | None = memory.recall(key, revision)
    if found is None:
        found = _series_of(groups, bytes_between(interfaces, edges_ms, as_of), edges_ms, BYTES)
        memory.keep(key, revision, found, rows=2 * len(edges_ms) * len(groups))
    return found


def _series_of(
    groups: Mapping[Key, Sequence[Interface]],
    measured: dict[int, Buckets],
    edges_ms: list[int],
    counters: Sequence[str],
) -> dict[Key, Series]:
    return {
        key: _series(_sum_of([measured[interface.pk] for interface in group], len(edges_ms) - 1, counters), edges_ms)
        for key, group in groups.items()
    }


def usage(
    interfaces: Sequence[Interface],
    start: datetime,
    end: datetime,
    step: Step,
    zone: ZoneInfo,
    *,
    by_server: bool,
    anchor_day: int = 1,
    with_percentile: bool = True,
) -> list[UsageRow]:
    """Return the bytes of each calendar period from `start` to `end`, by interface or by server, oldest first.

    By server, the interfaces that count in its total are summed. The 95th percentile is of 5-minute rates, in bytes
    per second; null where there are no readings to take it from.
    """
    instants = [to_ms(instant) for instant in edges(start, end, step, zone, anchor_day=anchor_day)]
    measured = bytes_between(interfaces, instants)
    rates = five_minute_rates(interfaces, instants) if with_percentile else {}
    rows = []
    for group in _groups(interfaces, by_server=by_server):
        buckets = _sum_of([measured[interface.pk] for interface in group], len(instants) - 1, BYTES)
        of_group = add_rates([rates[interface.pk] for interface in group if interface.pk in rates], len(instants) - 1)
        known = _series(buckets, instants)
        for index, since in enumerate(known.start):
            rx, tx = of_group[index] if of_group else ([], [])
            rows.append(
                UsageRow(
                    group[0].server_id,
                    None if by_server else group[0].name,
                    since,
                    from_ms(instants[index + 1]),
                    known.rx_bytes[index],
                    known.tx_bytes[index],
                    known.covered_seconds[index],
                    known.resets[index],
                    percentile(rx),
                    percentile(tx),
                )
            )
    return rows


def fleet_top(start: datetime, end: datetime, *, now: datetime, limit: int = 10) -> list[TopRow]:
    """Return the interfaces of all servers that passed most bytes, both ways together, from `start` to `end`."""
    # Between two heartbeats nothing is known past the newest, so that every end from now on is the same.
    most = next((ranks for ranks in RANKS if limit <= ranks), RANKS[-1])
    key = ("top", start, end if end < now else None, most)
    revision = Snapshot.objects.aggregate(fleet=Sum(F("revision") + F("sealed_revision")))["fleet"]
    ranking: list[TopRow] | None = memory.recall(key, revision)
    if ranking is None:
        interfaces = list(Interface.objects.with_revision().only("server_id", "name", "sealed_until"))
        ranking = top(interfaces, start, end, limit=most)
        memory.keep(key, revision, ranking)
    return ranking[:limit]


def top(
    interfaces: Sequence[Interface],
    start: datetime,
    end: datetime,
    *,
    limit: int = 10,
    ahead: bool = False,
    as_of: Standings | None = None,
) -> list[TopRow]:
    """Return the interfaces that passed most bytes, both ways together, from `start` to `end`; most first.

    What is read `ahead` of the next windows of the same hours need not be read again for these.
    """
    known = passed(interfaces, to_ms(start), to_ms(end), most=limit, ahead=ahead, standings=as_of)
    rows = [(*both, interface) for interface in interfaces if (both := known.get(interface.pk)) is not None]
    rows.sort(key=lambda row: (-row[0] - row[1], row[2].server_id, row[2].name))
    return [
        TopRow(rank, interface.server_id, interface.name, rx, tx)
        for rank, (rx, tx, interface) in enumerate(rows[:limit], 1)
    ]


def totals(interfaces: Sequence[Interface], zone: ZoneInfo, *, now: datetime) -> dict[int, dict[str, Passed]]:
    """Return the bytes of each interface, by its id, of this `day` and `month` in the zone, and of `all` time."""
    if not interfaces:
        return {}
    day, month = (to_ms(current_period(now, step, zone)) for step in (Step(DAY), Step(0, 1)))
    final = min(final_until(interfaces).values()) or _oldest_waiting(interfaces)
    monday = day_start(week_of(day_of(min(month, final))))
    before: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    # Chunks that start before a Monday end by it, so that their own totals say all that passed until then.
    chunks = Chunk.objects.filter(interface__in=interfaces, start__lt=day_of(monday)).order_by()
    for interface, *of_chunk in chunks.values_list("interface_id", "count", *BYTES):
        before[interface].append(tuple(of_chunk))
    instants = sorted({monday, month, day, to_ms(now)})
    measured = bytes_between(interfaces, instants)
    return {
        interface.pk: {
            name: _passed(measured[interface.pk], instants.index(since), older)
            for name, since, older in (
                ("day", day, []),
                ("month", month, []),
                ("all", monday, before[interface.pk]),
            )
        }
        for interface in interfaces
    }


def fingerprint(interfaces: Sequence[Interface], start: datetime, end: datetime) -> str:
    """Return what changes when the answer about a window in the past may change.

    That is when a late reading comes, when readings are pruned, and, for an interface that has been silent since
    `end`, when it speaks again: what passed until `end` depends on the first reading after it.
    """
    key = ("fingerprint", start, end, *(interface.pk for interface in interfaces))
    revision = memory.revision_of(interfaces)
    known: str | None = memory.recall(key, revision)
    if known is None:
        known = _fingerprint(interfaces, start, end)
        memory.keep(key, revision, known)
    return known


def _fingerprint(interfaces: Sequence[Interface], start: datetime, end: datetime) -> str:
    day = end.astimezone(UTC).date()
    of_all = Chunk.objects.filter(interface__in=interfaces).order_by().values_list("interface_id")
    within = Q(start__gte=start.astimezone(UTC).date() - timedelta(days=6)) & Q(readings__isnull=False)
    until = of_all.filter(start__lte=day).annotate(
        Count("start"), Sum("count"), Max("last_at"), kept=Count("start", filter=within)
    )
    after = dict(of_all.filter(start__gt=day).annotate(Min("first_at")))
    newest = {interface: last_at for interface, _, _, last_at, _ in until}
    following = [_following(newest.get(interface.pk), after.get(interface.pk), end) for interface in interfaces]
    log = Heartbeat.objects.filter(server__in={interface.server_id for interface in interfaces}).order_by()
    if None not in following:
        log = log.filter(collected_at__lte=max(filter(None, following), default=end))
    waiting = log.aggregate(Count("uptime_ms"), Max("received_at"))
    facts = ([interface.pk for interface in interfaces], start, end, sorted(until), sorted(after.items()), waiting)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def sparkline(server_id: str, period: str, interface: str | None, *, now: datetime) -> list[SparklinePoint]:
    """Return at most 60 points of the period before `now`, oldest first.

    Of one interface, or, without one, of all that count in the server's total. No such interface: no points.
    """
    start, end = to_ms(now - SPARKLINE_PERIODS[period]), to_ms(now)
    lines = unrolled(interfaces_of(server_id, interface), start, end, BYTES)
    return _points_of_all(list(lines.values()), start, end)


def _following(newest: datetime | None, after: datetime | None, end: datetime) -> datetime | None:
    """Return an instant up to which the first sealed reading after `end` lies, or None where there is none."""
    return newest if newest is not None and newest > end else after


def _oldest_waiting(interfaces: Sequence[Interface]) -> int:
    log = Heartbeat.objects.filter(server__in={interface.server_id for interface in interfaces}).order_by()
    return to_ms(log.aggregate(oldest=Min("collected_at"))["oldest"] or EPOCH)


def _passed(buckets: Buckets, first: int, older: Sequence[tuple[int, ...]]) -> Passed:
    """Return what passed from bucket `first` on, and in the chunks before it: their count of readings, rx and tx."""
    rest = range(first, len(buckets.marks))
    count, rx, tx = (sum(values) for values in zip((0, 0, 0), *older, strict=True))
    if count < 2 and not any(buckets.is_known(index) for index in rest):
        return Passed(None, None)
    return Passed(rx + sum(buckets.sums["rx_bytes"][first:]), tx + sum(buckets.sums["tx_bytes"][first:]))


def _all_of(groups: Mapping[Key, Sequence[Interface]]) -> list[Interface]:
    return list({interface.pk: interface for group in groups.values() for interface in group}.values())


def _raw_edges(interfaces: Sequence[Interface], start: int, end: int) -> list[int]:
    instants = {start, end}
    for found in readings(interfaces, start, end, BYTES).values():
        instants.update(found["at"][bisect_left(found["at"], start) : bisect_right(found["at"], end)])
    return sorted(instants)


def _sum_of(measured: Sequence[Buckets], count: int, counters: Sequence[str]) -> Buckets:
    """Return the sum of several interfaces; their heartbeats are shared, so time is covered where one of them is."""
    if len(measured) == 1:
        return measured[0]
    total = empty_buckets(count, counters)
    for buckets in measured:
        covered, up = list(total.sums["covered_ms"]), list(total.sums["up_ms"])
        for index in range(count):
            add_buckets(total, index, buckets, index, index + 1)
        total.sums["covered_ms"][:] = map(max, covered, buckets.sums["covered_ms"])
        total.sums["up_ms"][:] = map(max, up, buckets.sums["up_ms"])
    for values in total.peaks.values():
        values[:] = [UNKNOWN] * count  # the highest of a sum is not the sum of the highest
    for values in total.lows.values():
        values[:] = [UNKNOWN] * count
    return total


def _series(buckets: Buckets, instants: Sequence[int]) -> Series:
    count = len(instants) - 1
    known = [buckets.is_known(index) for index in range(count)]
    covered = buckets.sums["covered_ms"]

    def increase(name: str) -> list[int | None]:
        values = buckets.sums.get(name)
        if values is None:
            return [None] * count
        return [value if is_known and value != UNKNOWN else None for value, is_known in zip(values, known, strict=True)]

    def rates(name: str) -> list[float | None]:
        clean = map(int.__sub__, buckets.sums[f"{name}_bytes"], buckets.sums[f"{name}_uncovered"])
        return list(map(rate, clean, covered))

    def peaks(name: str) -> list[float | None]:
        return [
            value if milliseconds and value != UNKNOWN else None
            for value, milliseconds in zip(buckets.peaks[name], covered, strict=True)
        ]

    return Series(
        start=[from_ms(instant) for instant in instants[:-1]],
        end=from_ms(instants[-1]),
        **{name: increase(name) for name in COUNTERS},
        rx_rate=rates("rx"),
        tx_rate=rates("tx"),
        rx_peak=peaks("rx_peak"),
        tx_peak=peaks("tx_peak"),
        rx_low=[low if low != UNKNOWN else None for low in buckets.lows["rx_low"]],
        tx_low=[low if low != UNKNOWN else None for low in buckets.lows["tx_low"]],
        covered_seconds=[milliseconds / 1000 for milliseconds in covered],
        up_seconds=[milliseconds / 1000 for milliseconds in buckets.sums["up_ms"]],
        resets=buckets.sums["resets"],
        marks=[WORDS[marks] for marks in buckets.marks],
    )


def _groups(interfaces: Sequence[Interface], *, by_server: bool) -> list[list[Interface]]:
    if not by_server:
        return [[interface] for interface in interfaces]
    groups: dict[str, list[Interface]] = defaultdict(list)
    for interface in interfaces:
        groups[interface.server_id].append(interface)
    return list(groups.values())


def _points_of_all(lines: Sequence[Sequence[Chain]], start: int, end: int) -> list[SparklinePoint]:
    """Return the sum of the lines, each diffed on its own, at no more than SPARKLINE_POINTS instants."""
    most = max((_count_within(chains, start, end) for chains in lines), default=0)
    pitch = (end - start) // SPARKLINE_POINTS if most > SPARKLINE_POINTS else 1
    points: dict[int, SparklinePoint] = {}
    for chains in lines:
        for cell, point in _points(chains, start, end, pitch).items():
            points[cell] = _add_points(points[cell], point) if cell in points else point
    return [points[cell] for cell in sorted(points)]


def _count_within(chains: Sequence[Chain], start: int, end: int) -> int:
    return sum(bisect_right(chain.at, end) - bisect_right(chain.at, start) for chain in chains)


def _points(chains: Sequence[Chain], start: int, end: int, pitch: int) -> dict[int, SparklinePoint]:
    """Return the last reading of each cell of `pitch` ms, with the rate since the point before."""
    points: dict[int, SparklinePoint] = {}
    for chain in chains:
        first = bisect_right(chain.at, start)
        within = range(first, bisect_right(chain.at, end))
        last_in_cell = {(chain.at[index] - start - 1) // pitch: index for index in within}
        broken = sorted(index for index, marks in chain.marks.items() if marks & UNCLEAN)
        before = first - 1
        for cell, index in last_in_cell.items():
            known = before >= 0 and bisect_right(broken, before) == bisect_right(broken, index)
            points[cell] = _point(chain, before if known else None, index)
            before = index
    return points


def _point(chain: Chain, before: int | None, index: int) -> SparklinePoint:
    rx, tx = (chain.total[name] for name in BYTES)
    elapsed = chain.at[index] - chain.at[before] if before is not None else 0
    return {
        "timestamp": from_ms(chain.at[index]),
        "rx_bytes": chain.counters["rx_bytes"][index],
        "tx_bytes": chain.counters["tx_bytes"][index],
        "rx_rate": rate(rx[index] - rx[before], elapsed) if before is not None else None,
        "tx_rate": rate(tx[index] - tx[before], elapsed) if before is not None else None,
    }


def _add_points(a: SparklinePoint, b: SparklinePoint) -> SparklinePoint:
    return {
        "timestamp": max(a["timestamp"], b["timestamp"]),
        "rx_bytes": a["rx_bytes"] + b["rx_bytes"],
        "tx_bytes": a["tx_bytes"] + b["tx_bytes"],
        "rx_rate": _add(a["rx_rate"], b["rx_rate"]),
        "tx_rate": _add(a["tx_rate"], b["tx_rate"]),
    }


def _add(a: float | None, b: float | None) -> float | None:
    """Add what is known; unknown is not zero."""
    if a is None or b is None:
        return b if a is None else a
    return round(a + b, 3)
