"""The pages that are not about one row: the overview, who passed most, and what the storage holds."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Q, Sum
from django.http import HttpRequest
from django.utils import timezone

from metrics import charts, history
from metrics.figures import figures, sum_of_known
from metrics.models import KEPT, Chunk, Event, Heartbeat, Interface
from metrics.periods import edges, sensible_step
from metrics.rows import ServerRow, by_trouble, charted, counted_of, server_row, with_counted
from metrics.steady import Standings
from metrics.windows import PERIODS, Window, of_period, whole_hours, window
from servers.models import Server, State

TOP_SHOWN = 20
STACKED = 6
EVENTS_SINCE = timedelta(days=1)
NOTABLE_EVENTS = ("link_down", "speed_below_best", "flapped", "vanished", "reset", "reboot", "clone")
UNDOES = {
    "link_up": "link_down", "link_unknown": "link_down", "speed_changed": "speed_below_best", "appeared": "vanished",
}  # fmt: skip


class Tile(NamedTuple):
    """A server, and what happened to it that nothing has undone since, the newest first."""

    row: ServerRow
    open_events: list[Event]


class TopLine(NamedTuple):
    """An interface that passed much, with its share, in percent, of the most that one passed either way."""

    server: Server
    interface: Interface
    rx_bytes: int
    tx_bytes: int
    total: int
    rx_bar: float
    tx_bar: float


class ServerLine(NamedTuple):
    server: Server
    rx_bytes: int | None
    tx_bytes: int | None


class Storage(NamedTuple):
    """Bytes on disk, readings in them, and what that comes to; None where it cannot be told."""

    database_bytes: int
    sealed_readings: int
    waiting_heartbeats: int
    bytes_per_reading: float | None
    free_bytes: int
    bytes_per_day: float | None
    days_until_full: float | None


def overview(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """Return a tile for each server, trouble first."""
    servers = list(Server.objects.with_snapshot().prefetch_related(with_counted()))
    known = figures({server.pk: counted_of(server) for server in servers}, now=now)
    events = _open_events(now)
    rows = by_trouble((server_row(server, counted_of(server), now, known) for server in servers), events)
    return {
        "tiles": [Tile(row, events.get(row.server.pk, [])) for row in rows],
        "online": sum(row.state == State.ONLINE for row in rows),
        "rx_rate": sum_of_known(row.rx_rate for row in rows),
        "tx_rate": sum_of_known(row.tx_rate for row in rows),
    }


def _open_events(now: datetime) -> dict[str, list[Event]]:
    """Return the notable events of the last day that nothing has undone since, by server, of those alike the last."""
    kinds = [*NOTABLE_EVENTS, *UNDOES]
    recent = Event.objects.filter(number__gte=Event.first_number(now - EVENTS_SINCE), kind__in=kinds).order_by("number")
    are_open: dict[tuple[str, str, str], Event] = {}
    for event in recent:
        undone = UNDOES.get(event.kind, event.kind)
        are_open.pop((event.server_id, event.interface, undone), None)
        if event.kind in NOTABLE_EVENTS:
            are_open[event.server_id, event.interface, event.kind] = event
    by_server: dict[str, list[Event]] = {}
    for event in reversed(are_open.values()):
        by_server.setdefault(event.server_id, []).append(event)
    return by_server


def top(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """Return the interfaces and servers that passed most in the asked window."""
    asked = window(request, now)
    seen = whole_hours(asked, now)
    is_changed = seen != asked
    return {
        **_top(seen), "is_rounded": is_changed and not seen.period, "is_to_the_hour": is_changed and bool(seen.period)
    }  # fmt: skip


def read_ahead(period: str, now: datetime) -> None:
    """Have remembered what the top page of a period needs: most of that stays until another hour is sealed."""
    _top(whole_hours(of_period(period, now), now), ahead=True)


def _top(seen: Window, *, ahead: bool = False) -> dict[str, Any]:
    interfaces = history.whole_fleet()
    instants = edges(seen.start, seen.end, sensible_step(seen.start, seen.end), timezone.get_current_timezone())
    as_of = history.standings(interfaces, seen.start, seen.end, instants)
    ranking = history.top(interfaces, seen.start, seen.end, limit=len(interfaces), ahead=ahead, as_of=as_of)
    by_name = {(row.server_id, row.name): row for row in interfaces}
    first = max((max(row.rx_bytes, row.tx_bytes) for row in ranking), default=0) or 1
    lines = [
        TopLine(
            by_name[row.server_id, row.interface].server,
            by_name[row.server_id, row.interface],
            row.rx_bytes,
            row.tx_bytes,
            row.rx_bytes + row.tx_bytes,
            rx_bar=round(100 * row.rx_bytes / first, 2),
            tx_bar=round(100 * row.tx_bytes / first, 2),
        )
        for row in ranking[:TOP_SHOWN]
    ]
    return {
        "window": seen,
        "periods": PERIODS,
        "lines": lines,
        "more": len(ranking) - len(lines),
        "has_servers": bool(interfaces) or Server.objects.exists(),
        "per_server": _per_server(ranking, {row.server_id: row.server for row in interfaces}),
        "stack": _stack([line.interface for line in lines[:STACKED]], instants, as_of),
    }


def storage(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """Return what the hub holds, what it costs, and how long the disk lasts."""
    return {
        "storage": _storage(now),
        "retention": [
            ("Readings", settings.RETENTION_READINGS_DAYS, "HOMELAB_RETENTION_READINGS_DAYS"),
            ("Hours", settings.RETENTION_HOURS_DAYS, "HOMELAB_RETENTION_HOURS_DAYS"),
            ("Events", settings.RETENTION_EVENTS_DAYS, "HOMELAB_RETENTION_EVENTS_DAYS"),
        ],
        "data_dir": settings.DATA_DIR,
        "vendor": connection.vendor,
    }


def _per_server(ranking: Sequence[history.TopRow], servers: Mapping[str, Server]) -> list[ServerLine]:
    sums: dict[str, list[int]] = {}
    for row in ranking:
        of_server = sums.setdefault(row.server_id, [0, 0])
        of_server[0] += row.rx_bytes
        of_server[1] += row.tx_bytes
    ranked = sorted(sums.items(), key=lambda item: -sum(item[1]))
    return [ServerLine(servers[server], rx, tx) for server, (rx, tx) in ranked]


def _stack(interfaces: list[Interface], instants: list[datetime], as_of: Standings) -> charts.Stack | None:
    if not interfaces:
        return None
    groups = {interface.pk: [interface] for interface in interfaces}
    found = history.sums_between(groups, instants, as_of)
    lines = [charted(found[interface.pk]) for interface in interfaces]
    both = [[_both(rx, tx) for rx, tx in zip(line.rx, line.tx, strict=True)] for line in lines]
    return charts.stack(lines[0].starts, lines[0].end, both, zone=timezone.get_current_timezone())


def _both(rx: float | None, tx: float | None) -> float | None:
    return None if rx is None and tx is None else (rx or 0) + (tx or 0)


def _storage(now: datetime) -> Storage:
    size = _database_bytes()
    sealed = Chunk.objects.filter(KEPT).aggregate(
        kept=Sum("count"), recent=Sum("count", filter=Q(start__gte=(now - timedelta(days=14)).date()))
    )
    readings = sealed["kept"] or 0
    each = size / readings if readings else None
    per_day = each * (sealed["recent"] or 0) / 14 if each else None
    free = shutil.disk_usage(settings.DATA_DIR).free
    return Storage(
        size,
        readings,
        Heartbeat.objects.count(),
        each,
        free,
        per_day,
        free / per_day if per_day else None,
    )


def _database_bytes() -> int:
    if connection.vendor == "sqlite":
        name = Path(settings.DATABASES["default"]["NAME"])
        files = (name.with_name(name.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return cursor.fetchone()[0]
