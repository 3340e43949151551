"""Windows, steps and zones as people write them. Where days and months begin is in test_exactness."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from metrics.periods import (
    RAW,
    PeriodError,
    Step,
    current_period,
    has_more_than,
    parse_instant,
    parse_step,
    parse_window,
    parse_zone,
    sensible_step,
)

NOW = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", NOW),
        ("now-90s", datetime(2026, 3, 1, 6, 28, 30, tzinfo=UTC)),
        ("now-1w", datetime(2026, 2, 22, 6, 30, tzinfo=UTC)),
        ("2026-03-01T07:30:00+01:00", NOW),
        ("2026-03-01T06:30Z", NOW),
        ("20260301T063000Z", NOW),
    ],
)
def test_an_instant_is_iso_8601_with_a_zone_or_counts_from_now(text: str, instant: datetime):
    assert parse_instant(text, now=NOW) == instant


@pytest.mark.parametrize(
    "text", ["", "now+1h", "now-0h", "now-1y", "now-999999w", "2026-03-01", "1", "0001-01-01T00:00:00+10:00", "now-٣h"]
)
def test_what_is_no_instant_is_refused(text: str):
    with pytest.raises(PeriodError):
        parse_instant(text, now=NOW)


@pytest.mark.parametrize(
    ("text", "step"),
    [("60s", Step(60)), ("5m", Step(300)), ("2w", Step(1_209_600)), ("3month", Step(0, 3)), ("raw", RAW)],
)
def test_a_step_is_a_number_and_a_unit(text: str, step: Step):
    assert parse_step(text) == step


@pytest.mark.parametrize("text", ["", "m", "0m", "-5m", "1.5h", "1M", "1y", "1201month", "1000000s", "٣h"])
def test_what_is_no_step_is_refused(text: str):
    with pytest.raises(PeriodError):
        parse_step(text)


@pytest.mark.parametrize("text", ["raw", "1month", "x"])
def test_a_window_has_a_fixed_length(text: str):
    with pytest.raises(PeriodError):
        parse_window(text)


@pytest.mark.parametrize("text", ["", "Berlin", "europe/berlin", "/etc/localtime", "..", "Europe", "posixrules"])
def test_a_zone_is_an_iana_name(text: str):
    assert parse_zone("Europe/Berlin") == BERLIN
    with pytest.raises(PeriodError):
        parse_zone(text)


@pytest.mark.parametrize(("hours", "step"), [(1, "1m"), (24, "5m"), (7 * 24, "1h"), (90 * 24, "6h"), (9000, "1d")])
def test_a_sensible_step_makes_at_most_400_points(hours: int, step: str):
    assert str(sensible_step(NOW.fromtimestamp(NOW.timestamp() - hours * 3600, tz=UTC), NOW)) == step


def test_points_are_counted_as_they_are_cut():
    start, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    assert not has_more_than(24, start, end, Step(3600), ZoneInfo("UTC"))
    assert has_more_than(24, start, end, Step(3600), ZoneInfo("Asia/Kathmandu"))  # 23 whole ones and two cut ones
    assert has_more_than(23, start, end, Step(3600), ZoneInfo("UTC"))
    assert not has_more_than(1, start, end, RAW, BERLIN)


def test_the_current_period_begins_at_its_zones_midnight():
    assert current_period(NOW, Step(86_400), BERLIN) == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert current_period(NOW, Step(0, 1), BERLIN) == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert current_period(NOW, Step(0, 1), BERLIN, anchor_day=31) == datetime(2026, 2, 27, 23, tzinfo=UTC)
    assert current_period(NOW, Step(0, 1), ZoneInfo("UTC"), anchor_day=2) == datetime(2026, 2, 2, tzinfo=UTC)
