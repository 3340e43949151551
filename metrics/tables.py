"""What an interface passed by day, by month and by hour of the week, as its page shows it."""

from collections import defaultdict
from datetime import datetime, timedelta
from math import ceil, sqrt
from typing import NamedTuple

from django.utils import timezone

from metrics import history
from metrics.models import Interface
from metrics.periods import Step, parse_step

DAYS = timedelta(days=31)
MONTHS = 12
HEAT_WEEKS = 4
HEAT_LEVELS = 6
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HOUR = parse_step("1h")


class PeriodRow(NamedTuple):
    """The exact bytes of a day or a month, and shares in percent: of its time that is covered, and for its bar."""

    start: datetime
    rx_bytes: int | None
    tx_bytes: int | None
    total: int | None
    covered: float
    rx_p95: float | None
    tx_p95: float | None
    resets: int
    rx_bar: float
    tx_bar: float


class HeatCell(NamedTuple):
    """The rate of an hour of the week, both ways together, and its shade from 0 to HEAT_LEVELS: by its square root."""

    hour: int
    rate: float | None
    level: int


def days(interface: Interface, now: datetime) -> list[PeriodRow]:
    return _rows(interface, _midnight(now - DAYS + timedelta(days=1)), now, parse_step("1d"))


def months(interface: Interface, now: datetime) -> list[PeriodRow]:
    first = timezone.localtime(now)
    number = first.year * 12 + first.month - MONTHS
    start = _midnight(first).replace(year=number // 12, month=number % 12 + 1, day=1)
    return _rows(interface, start, now, parse_step("1month"))


def heat(interface: Interface, now: datetime) -> dict[str, list[HeatCell]]:
    """Return, for each day of the week, the rates of its hours: bytes over covered seconds of the last weeks."""
    start = _midnight(now - timedelta(weeks=HEAT_WEEKS))
    series = history.series([interface], start, now, HOUR, timezone.get_current_timezone())
    passed: dict[tuple[int, int], float] = defaultdict(float)
    covered: dict[tuple[int, int], float] = defaultdict(float)
    for at, rx, tx, seconds in zip(series.start, series.rx_rate, series.tx_rate, series.covered_seconds, strict=True):
        local = timezone.localtime(at)
        hour = (local.weekday(), local.hour)
        passed[hour] += ((rx or 0) + (tx or 0)) * seconds
        covered[hour] += seconds
    rates = {hour: passed[hour] / seconds for hour, seconds in covered.items() if seconds}
    highest = max(rates.values(), default=0)
    return {
        name: [_cell(hour, rates.get((day, hour)), highest) for hour in range(24)] for day, name in enumerate(WEEKDAYS)
    }


def _cell(hour: int, rate: float | None, highest: float) -> HeatCell:
    return HeatCell(hour, rate, ceil(HEAT_LEVELS * sqrt(rate / highest)) if rate else 0)


def _rows(interface: Interface, start: datetime, now: datetime, step: Step) -> list[PeriodRow]:
    """Return a row for each period of which something is known, newest first."""
    found = history.usage([interface], start, now, step, timezone.get_current_timezone(), by_server=False)
    known = [row for row in found if row.rx_bytes is not None or row.tx_bytes is not None]
    most = max((max(row.rx_bytes or 0, row.tx_bytes or 0) for row in known), default=0) or 1
    return [
        PeriodRow(
            timezone.localtime(row.start),
            row.rx_bytes,
            row.tx_bytes,
            (row.rx_bytes or 0) + (row.tx_bytes or 0),
            covered=min(100 * row.covered_seconds / (row.end - row.start).total_seconds(), 100),
            rx_p95=row.rx_p95,
            tx_p95=row.tx_p95,
            resets=row.resets,
            rx_bar=round(100 * (row.rx_bytes or 0) / most, 2),
            tx_bar=round(100 * (row.tx_bytes or 0) / most, 2),
        )
        for row in reversed(known)
    ]


def _midnight(at: datetime) -> datetime:
    return timezone.localtime(at).replace(hour=0, minute=0, second=0, microsecond=0)
