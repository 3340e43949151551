"""Which time a page looks at, as its address says."""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.http import HttpRequest
from django.utils import timezone

from metrics import history
from metrics.models import EPOCH
from metrics.periods import PeriodError, parse_instant

PERIODS = {name: history.SPARKLINE_PERIODS[name] for name in ("1h", "6h", "24h", "7d", "30d", "12m")}
DEFAULT_PERIOD = "24h"
A_DAY = timedelta(days=1)


class Window(NamedTuple):
    """A `period` up to now, or, where that is empty, any other time."""

    period: str
    start: datetime
    end: datetime


def window(request: HttpRequest, now: datetime) -> Window:
    """Return the window that the address asks for: `start` and `end`, or a `period`; the usual one if it is no good."""
    start, end = _instants(request, now) or (now, now)
    if start < min(end, now):
        return Window("", start, min(end, now))
    period = request.GET.get("period", "")
    return of_period(period if period in PERIODS else DEFAULT_PERIOD, now)


def of_period(period: str, now: datetime) -> Window:
    return Window(period, _start(period, now), now)


def whole_hours(seen: Window, now: datetime) -> Window:
    """Return a window of a day or more as one of whole hours, but for one that is not over: no hour is cut for it.

    A period ends with the last whole hour: what is sealed by then need not be read again.
    """
    if seen.period and PERIODS[seen.period] >= A_DAY:
        end = _hour(seen.end)
        return Window(seen.period, end - PERIODS[seen.period], end)
    if seen.end - seen.start <= A_DAY:
        return seen
    end = _hour(seen.end + timedelta(hours=1) - timedelta.resolution)
    return Window("", _hour(seen.start), end if end <= now else seen.end)


def _hour(instant: datetime) -> datetime:
    """Return when the hour began that an instant lies in: hours are those of UTC, as they are stored."""
    return EPOCH + (instant - EPOCH) // timedelta(hours=1) * timedelta(hours=1)


def _start(period: str, now: datetime) -> datetime:
    """Return where a period begins: a long one on a whole hour, which needs no reading of its own."""
    start = now - PERIODS[period]
    return _hour(start) if PERIODS[period] > A_DAY else start


def _instants(request: HttpRequest, now: datetime) -> tuple[datetime, datetime] | None:
    """Return `start` and `end`, with their zones, or `from` and `to`, as a form's fields give local times."""
    try:
        if "start" in request.GET:
            return parse_instant(request.GET["start"], now=now), parse_instant(request.GET.get("end", ""), now=now)
        local = [timezone.make_aware(datetime.fromisoformat(request.GET[name])) for name in ("from", "to")]
        return parse_instant(local[0].isoformat(), now=now), parse_instant(local[1].isoformat(), now=now)
    except (PeriodError, KeyError, ValueError, OverflowError):
        return None
