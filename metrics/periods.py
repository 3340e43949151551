"""Windows, steps and calendars: where the buckets of an answer begin. Pure: no Django, no clock of its own."""

import re
from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
DAY = 86_400
SENSIBLE = ("1m", "5m", "15m", "1h", "6h", "1d", "1w", "1month")
SENSIBLE_POINTS = 400
MOST_MONTHS = 1200


class PeriodError(ValueError):
    """A window, a step or a day that cannot be; its text says what is expected."""


class Step(NamedTuple):
    """`seconds` of a fixed step, or `months` of a calendar one; both 0 for raw: a bucket between two readings."""

    seconds: int
    months: int = 0

    def __str__(self) -> str:
        if self.months:
            return f"{self.months}month"
        if not self.seconds:
            return "raw"
        unit = max((name for name, size in UNITS.items() if self.seconds % size == 0), key=lambda name: UNITS[name])
        return f"{self.seconds // UNITS[unit]}{unit}"


RAW = Step(0)


def parse_step(text: str) -> Step:
    """Return the step that `60s`, `5m`, `1h`, `1d`, `1w`, `1month` or `raw` says. Raises PeriodError."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})(s|m|h|d|w|month)", text)
    if text == "raw":
        return RAW
    if match is None:
        raise PeriodError("A step is a number and a unit, such as 60s, 5m, 1h, 1d, 1w, 1month; or raw.")
    count, unit = int(match[1]), match[2]
    if unit == "month" and count > MOST_MONTHS:
        raise PeriodError(f"A step has at most {MOST_MONTHS} months.")
    return Step(0, count) if unit == "month" else Step(count * UNITS[unit])


def parse_instant(text: str, *, now: datetime) -> datetime:
    """Return the instant that ISO 8601 with a zone, `now`, or `now-24h` says. Raises PeriodError."""
    match = re.fullmatch(r"now(?:-([1-9][0-9]{0,5})(s|m|h|d|w))?", text)
    instant = None
    try:
        if match is not None:
            return now - timedelta(seconds=int(match[1]) * UNITS[match[2]]) if match[1] else now
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is not None:
            instant = parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    if instant is None or not 1970 <= instant.year < 2200:
        raise PeriodError("An instant is ISO 8601 with its zone, such as 2026-01-31T20:15:00Z, or now-24h.")
    return instant


def parse_window(text: str) -> timedelta:
    """Return the length that `24h` says. Raises PeriodError."""
    step = parse_step(text)
    if not step.seconds:
        raise PeriodError("A window is a number and a unit, such as 30m, 24h, 7d.")
    return timedelta(seconds=step.seconds)


def parse_zone(text: str) -> ZoneInfo:
    """Return the zone that an IANA name such as `Europe/Berlin` says. Raises PeriodError."""
    if text not in _zone_names():
        raise PeriodError("A time zone is an IANA name, such as Europe/Berlin or UTC.")
    return ZoneInfo(text)


def sensible_step(start: datetime, end: datetime) -> Step:
    """Return the smallest of the usual steps that makes at most SENSIBLE_POINTS points."""
    seconds = (end - start).total_seconds()
    for text in SENSIBLE:
        step = parse_step(text)
        if step.months or seconds / step.seconds <= SENSIBLE_POINTS:
            return step
    return step


def has_more_than(most: int, start: datetime, end: datetime, step: Step, zone: ZoneInfo) -> bool:
    """Tell whether the window has more than `most` buckets; of a raw step nothing is known before it is read."""
    if step == RAW:
        return False
    longest = step.seconds or step.months * 31 * DAY
    return (end - start).total_seconds() > most * longest or len(edges(start, end, step, zone)) - 1 > most


def current_period(now: datetime, step: Step, zone: ZoneInfo, *, anchor_day: int = 1) -> datetime:
    """Return when the day or the month that `now` ends or lies in began."""
    return edges(now - timedelta(days=62), now, step, zone, anchor_day=anchor_day)[-2]


def edges(start: datetime, end: datetime, step: Step, zone: ZoneInfo, *, anchor_day: int = 1) -> list[datetime]:
    """Return where the buckets from `start` to `end` begin and end: `start`, each step's boundaries, `end`.

    Months begin on `anchor_day` of the zone's calendar, or on a month's last day where it is shorter; days at its
    midnight, weeks on Monday. Shorter steps count from midnight, so that a day of 23 or 25 hours keeps whole hours.
    """
    if step.months:
        inner = _months(start, end, step.months, zone, anchor_day)
    elif step.seconds % DAY == 0:
        inner = _days(start, end, step.seconds // DAY, zone)
    else:
        inner = _seconds(start, end, step.seconds, zone)
    within = inner[bisect_right(inner, start) : bisect_left(inner, end)]
    return [start, *dict.fromkeys(within), end]  # once where a zone has left out a day, as Apia did in 2011


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant of a day in the zone."""
    # Where midnight does not exist, the offset before the change (fold=0) gives the instant of the change itself.
    return datetime.combine(day, time(), zone).astimezone(UTC)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def _months(start: datetime, end: datetime, months: int, zone: ZoneInfo, anchor_day: int) -> list[datetime]:
    first = start.astimezone(zone)
    last = end.astimezone(zone)
    begin = (first.year * 12 + first.month - 2) // months * months
    stop = last.year * 12 + last.month + 1
    return [midnight(_day_of_month(number, anchor_day), zone) for number in range(begin, stop, months)]


def _day_of_month(number: int, anchor_day: int) -> date:
    year, month = divmod(number, 12)
    following = date(year + (month == 11), (month + 1) % 12 + 1, 1)
    return date(year, month + 1, min(anchor_day, (following - timedelta(days=1)).day))


def _days(start: datetime, end: datetime, days: int, zone: ZoneInfo) -> list[datetime]:
    first = start.astimezone(zone).date()
    count = (end.astimezone(zone).date() - first).days
    # Ordinal 1 is a Monday, so that steps of weeks begin on one.
    return [
        midnight(day, zone)
        for day in (first + timedelta(days=offset) for offset in range(count + 1))
        if (day.toordinal() - 1) % days == 0
    ]


def _seconds(start: datetime, end: datetime, seconds: int, zone: ZoneInfo) -> list[datetime]:
    inner: list[datetime] = []
    day = start.astimezone(zone).date()
    while (begin := midnight(day, zone)) < end:
        day += timedelta(days=1)
        until = min(midnight(day, zone), end)
        skipped = max((start - begin) // timedelta(seconds=seconds), 0)
        position = begin + timedelta(seconds=skipped * seconds)
        while position < until:
            inner.append(position)
            position += timedelta(seconds=seconds)
    return inner
