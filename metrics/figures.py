"""What lists show of the past of each interface: its last 24 hours, today and this month.

Lists are long, and these figures change slowly, so they are kept for a minute; but the page of one server, where exact
totals stand beside them, has those of its newest heartbeat. Of many servers that are not known yet they are read in the
background, a few servers at a time, and shown from the next look on. Of very many that begins when the page is out: the
two would only share what one thread can do.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from threading import Lock, Thread
from typing import NamedTuple

from django.db import connection
from django.utils import timezone

from metrics import history
from metrics.charts import Values
from metrics.models import Interface

KEPT = timedelta(seconds=60)
KNOWN_AT_ONCE = 1000  # servers of which totals are kept
AT_ONCE = 10  # servers that a page waits for
MANY = 50  # servers that will not be read while a page waits
PATIENCE_SECONDS = 0.15
LATER_SECONDS = 0.4


class Figure(NamedTuple):
    """Rates of the last 24 hours, hour by hour, and bytes since midnight and since the first of the month."""

    rx_day: tuple[float | None, ...]
    tx_day: tuple[float | None, ...]
    rx_today: float | None
    tx_today: float | None
    rx_month: float | None
    tx_month: float | None


Known = dict[int, Figure]  # by interface

_kept: dict[str, tuple[datetime, Known]] = {}  # by server
_reading = Lock()


def figures(interfaces: Mapping[str, Sequence[Interface]], *, now: datetime, heard_at: datetime | None = None) -> Known:
    """Return what is known of the interfaces, which are given by server; nothing of before they were `heard_at`."""
    old = [server for server, wanted in interfaces.items() if not _is_kept(server, wanted, now, heard_at)]
    if len(old) <= AT_ONCE:
        _read({server: interfaces[server] for server in old}, now, heard_at)
    elif not _reading.locked():
        thread = Thread(target=_read_all, args=({server: interfaces[server] for server in old}, now), daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS if len(old) <= MANY else 0)
    kept = [_kept[server][1] for server in interfaces if server in _kept]
    return {pk: figure for known in kept for pk, figure in known.items()}


@lru_cache(KNOWN_AT_ONCE)
def total(parts: tuple[Figure, ...]) -> Figure | None:
    """Return the figures of several interfaces together; what is unknown of one does not hide the others."""
    if not parts:
        return None
    return Figure(
        tuple(sum_of_known(hour) for hour in zip(*(part.rx_day for part in parts), strict=True)),
        tuple(sum_of_known(hour) for hour in zip(*(part.tx_day for part in parts), strict=True)),
        sum_of_known([part.rx_today for part in parts]),
        sum_of_known([part.tx_today for part in parts]),
        sum_of_known([part.rx_month for part in parts]),
        sum_of_known([part.tx_month for part in parts]),
    )


def forget() -> None:
    _kept.clear()


def _is_kept(server: str, wanted: Sequence[Interface], now: datetime, heard_at: datetime | None) -> bool:
    at, known = _kept.get(server, (None, {}))
    return at is not None and _is_fresh(at, now, heard_at) and all(interface.pk in known for interface in wanted)


def _is_fresh(at: datetime, now: datetime, heard_at: datetime | None) -> bool:
    return now - at <= KEPT and (heard_at is None or heard_at < at)


def _read_all(interfaces: Mapping[str, Sequence[Interface]], now: datetime) -> None:
    if not _reading.acquire(blocking=False):
        return
    try:
        servers = list(interfaces)
        if len(servers) > MANY:
            time.sleep(LATER_SECONDS)
        for at in range(0, len(servers), AT_ONCE):
            _read({server: interfaces[server] for server in servers[at : at + AT_ONCE]}, now)
    finally:
        _reading.release()
        connection.close()


def _read(interfaces: Mapping[str, Sequence[Interface]], now: datetime, heard_at: datetime | None = None) -> None:
    """Read the figures of a few servers at once, from one answer: the buckets of all three begin on an hour."""
    local = timezone.localtime(now)
    today = local.replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    hour = local.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=back) for back in range(23, -1, -1)]
    instants = sorted({month, today, *hours, now})
    groups = {interface.pk: [interface] for group in interfaces.values() for interface in group}
    found = history.sums_between(groups, instants) if groups else {}
    for server, group in interfaces.items():
        read = {row.pk: _figure(found[row.pk], today, month, hours[0]) for row in group}
        at, known = _kept.get(server, (now, {}))
        _kept[server] = (at, {**known, **read}) if _is_fresh(at, now, heard_at) else (now, read)


def _figure(series: history.Series, today: datetime, month: datetime, day: datetime) -> Figure:
    def since(start: datetime, column: Values) -> tuple[float | None, ...]:
        return tuple(value for at, value in zip(series.start, column, strict=True) if at >= start)

    return Figure(
        since(day, series.rx_rate),
        since(day, series.tx_rate),
        sum_of_known(since(today, series.rx_bytes)),
        sum_of_known(since(today, series.tx_bytes)),
        sum_of_known(since(month, series.rx_bytes)),
        sum_of_known(since(month, series.tx_bytes)),
    )


def sum_of_known(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
