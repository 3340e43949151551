"""The only way out: every answer about the past comes from here."""

from bisect import bisect_right
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TypedDict

from metrics.counters import UNCLEAN, Chain, Reading, columns, order, rate, unroll
from metrics.models import Heartbeat, Interface, from_ms, to_ms
from servers.models import Server

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
SPARKLINE_COUNTERS = ("rx_bytes", "tx_bytes")


class SparklinePoint(TypedDict):
    """Counters at `timestamp`, and bytes per second since the point before; null after a gap or a reset."""

    timestamp: datetime
    rx_bytes: int
    tx_bytes: int
    rx_rate: float | None
    tx_rate: float | None


def sparkline(server: Server, period: str, interface: str | None, *, now: datetime) -> list[SparklinePoint]:
    """Return at most 60 points of the period before `now`, oldest first.

    Of one interface, or, without one, of all that count in the server's total. No such interface: no points.
    """
    start = now - SPARKLINE_PERIODS[period]
    names = [interface] if interface is not None else names_in_total(server)
    lines = [unroll(columns(line), SPARKLINE_COUNTERS) for line in readings(server, names, start, now).values()]
    return _total(lines, to_ms(start), to_ms(now))


def names_in_total(server: Server) -> list[str]:
    """Return the interfaces that count in the server's total; all of them when none does by rule."""
    of_server = Interface.objects.filter(server=server)
    return list(of_server.in_totals().values_list("name", flat=True)) or list(of_server.values_list("name", flat=True))


def readings(server: Server, names: list[str], start: datetime, end: datetime) -> dict[str, list[Reading]]:
    """Return the readings of each interface from `start` to `end` in order, and the one before where there is one."""
    found: dict[str, list[Reading]] = defaultdict(list)
    missing = set(names)
    log = Heartbeat.objects.filter(server=server)
    for heartbeat in log.between(start, end):
        for name, reading in heartbeat.unpack():
            if name in names:
                found[name].append(reading)
    for heartbeat in log.filter(collected_at__lt=start).order_by("-collected_at").iterator(chunk_size=50):
        for name, reading in heartbeat.unpack():
            if name in missing:
                found[name].append(reading)
                missing.discard(name)
        if not missing:
            break
    return {name: order(found[name]) for name in names}


def _total(lines: list[list[Chain]], start: int, end: int) -> list[SparklinePoint]:
    """Return the sum of the lines, each diffed on its own, at no more than SPARKLINE_POINTS instants."""
    most = max((_count_within(chains, start, end) for chains in lines), default=0)
    pitch = (end - start) // SPARKLINE_POINTS if most > SPARKLINE_POINTS else 1
    points: dict[int, SparklinePoint] = {}
    for chains in lines:
        for cell, point in _points(chains, start, end, pitch).items():
            points[cell] = _sum(points[cell], point) if cell in points else point
    return [points[cell] for cell in sorted(points)]


def _count_within(chains: list[Chain], start: int, end: int) -> int:
    return sum(bisect_right(chain.at, end) - bisect_right(chain.at, start) for chain in chains)


def _points(chains: list[Chain], start: int, end: int, pitch: int) -> dict[int, SparklinePoint]:
    """Return the last reading of each cell of `pitch` ms, with the rate since the point before."""
    points: dict[int, SparklinePoint] = {}
    for chain in chains:
        first = bisect_right(chain.at, start)
        last_in_cell = {
            (chain.at[index] - start - 1) // pitch: index for index in range(first, bisect_right(chain.at, end))
        }
        before = first - 1
        unclean = [index for index, marks in chain.marks.items() if marks & UNCLEAN]
        for cell, index in last_in_cell.items():
            known = before >= 0 and not any(before < broken <= index for broken in unclean)
            points[cell] = _point(chain, before if known else None, index)
            before = index
    return points


def _point(chain: Chain, before: int | None, index: int) -> SparklinePoint:
    rx, tx = chain.total["rx_bytes"], chain.total["tx_bytes"]
    elapsed = chain.at[index] - chain.at[before] if before is not None else 0
    return {
        "timestamp": from_ms(chain.at[index]),
        "rx_bytes": chain.counters["rx_bytes"][index],
        "tx_bytes": chain.counters["tx_bytes"][index],
        "rx_rate": rate(rx[index] - rx[before], elapsed) if before is not None else None,
        "tx_rate": rate(tx[index] - tx[before], elapsed) if before is not None else None,
    }


def _sum(a: SparklinePoint, b: SparklinePoint) -> SparklinePoint:
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
