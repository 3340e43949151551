"""Windows, steps and zones as people write them, and where the buckets of a zone begin."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.models import to_ms
from metrics.periods import (
    RAW,
    PeriodError,
    Step,
    current_period,
    edges,
    has_more_than,
    parse_instant,
    parse_step,
    parse_window,
    parse_zone,
    sensible_step,
)
from metrics.tests import oracle

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


# Where the buckets begin


def local(start: str, end: str, step: str, zone: str, *, anchor_day: int = 1) -> list[str]:
    """The edges as the zone's clocks show them, between two of its own local times."""
    there = ZoneInfo(zone)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=there).astimezone(UTC) for text in (start, end))
    return [
        f"{at.astimezone(there):%m-%d %H:%M}"
        for at in edges(first, last, parse_step(step), there, anchor_day=anchor_day)
    ]


def hours_between(start: str, end: str, step: str, zone: str) -> list[float]:
    there = ZoneInfo(zone)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=there).astimezone(UTC) for text in (start, end))
    return [
        (after - before) / timedelta(hours=1) for before, after in pairwise(edges(first, last, parse_step(step), there))
    ]


def test_the_window_cuts_the_first_and_the_last_bucket():
    assert local("2026-03-01T10:20", "2026-03-01T13:05", "1h", "UTC") == [
        "03-01 10:20", "03-01 11:00", "03-01 12:00", "03-01 13:00", "03-01 13:05",
    ]  # fmt: skip


def test_a_window_on_the_boundaries_has_no_empty_buckets():
    assert local("2026-03-01T10:00", "2026-03-01T12:00", "1h", "UTC") == ["03-01 10:00", "03-01 11:00", "03-01 12:00"]


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"])
def test_hours_and_days_are_whole_where_the_offset_is_not(zone: str):
    assert local("2026-01-10T22:30", "2026-01-11T01:00", "1h", zone)[1:3] == ["01-10 23:00", "01-11 00:00"]
    assert local("2026-01-10T22:30", "2026-01-11T01:00", "1d", zone)[1:-1] == ["01-11 00:00"]


def test_days_have_23_and_25_hours_when_the_clocks_change():
    assert hours_between("2026-03-28", "2026-03-31", "1d", "Europe/Berlin") == [24, 23, 24]
    assert hours_between("2026-10-24", "2026-10-27", "1d", "Europe/Berlin") == [24, 25, 24]
    assert hours_between("2026-03-07", "2026-03-10", "1d", "America/St_Johns") == [24, 23, 24]


def test_hours_stay_whole_when_the_clocks_change():
    assert hours_between("2026-03-29", "2026-03-30", "1h", "Europe/Berlin") == [1] * 23
    assert hours_between("2026-10-25", "2026-10-26", "1h", "Europe/Berlin") == [1] * 25
    assert hours_between("2026-10-25", "2026-10-26", "5h", "Europe/Berlin") == [5] * 5


def test_odd_steps_begin_again_at_midnight():
    assert local("2026-03-01T19:00", "2026-03-02T06:00", "5h", "UTC") == [
        "03-01 19:00", "03-01 20:00", "03-02 00:00", "03-02 05:00", "03-02 06:00",
    ]  # fmt: skip
    assert local("2026-03-01T23:50", "2026-03-02T00:10", "7m", "UTC")[1:4] == [
        "03-01 23:55",
        "03-02 00:00",
        "03-02 00:07",
    ]
    assert local("2026-03-01T22:00", "2026-03-02T02:00", "90m", "UTC")[1:3] == ["03-01 22:30", "03-02 00:00"]


@pytest.mark.parametrize(
    ("zone", "day", "first", "hours"),
    [
        ("America/Sao_Paulo", "2018-11-04", "11-04 01:00", 23),
        ("Asia/Beirut", "2026-03-29", "03-29 01:00", 23),
        ("America/Havana", "2026-03-08", "03-08 01:00", 23),
        ("America/Havana", "2026-11-01", "11-01 00:00", 25),
    ],
)
def test_a_day_begins_at_its_first_instant_where_midnight_is_missing_or_comes_twice(
    zone: str, day: str, first: str, hours: int
):
    noon = datetime.fromisoformat(day).replace(hour=12, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = edges(noon - timedelta(days=1), noon + timedelta(days=1), Step(86_400), ZoneInfo(zone))
    assert f"{found[1].astimezone(ZoneInfo(zone)):%m-%d %H:%M}" == first
    assert found[2] - found[1] == timedelta(hours=hours)
    assert found[1].timestamp() * 1000 in oracle.days(zone, to_ms(found[0]), to_ms(found[-1]))


def test_a_day_that_the_calendar_left_out_makes_no_bucket():
    assert local("2011-12-29T12:00", "2011-12-31T12:00", "1d", "Pacific/Apia") == [
        "12-29 12:00", "12-31 00:00", "12-31 12:00",
    ]  # fmt: skip


def test_weeks_begin_on_monday():
    assert local("2026-03-01T12:00", "2026-03-17T00:00", "1w", "Europe/Berlin")[1:-1] == [
        "03-02 00:00", "03-09 00:00", "03-16 00:00",
    ]  # fmt: skip


def test_months_begin_on_the_first():
    assert local("2026-01-15T00:00", "2026-04-15T00:00", "1month", "Asia/Kolkata")[1:-1] == [
        "02-01 00:00", "03-01 00:00", "04-01 00:00",
    ]  # fmt: skip


def test_a_billing_month_begins_on_the_last_day_of_a_month_that_is_shorter():
    found = local("2028-01-15T00:00", "2028-06-15T00:00", "1month", "Europe/Berlin", anchor_day=31)
    assert found[1:-1] == ["01-31 00:00", "02-29 00:00", "03-31 00:00", "04-30 00:00", "05-31 00:00"]


def test_quarters_and_years_are_steps_of_months():
    assert local("2026-02-01T00:00", "2026-11-01T00:00", "3month", "UTC")[1:-1] == [
        "04-01 00:00", "07-01 00:00", "10-01 00:00",
    ]  # fmt: skip
    assert local("2025-06-01T00:00", "2027-06-01T00:00", "12month", "UTC")[1:-1] == ["01-01 00:00", "01-01 00:00"]


ZONES = ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin", "Asia/Beirut", "Pacific/Chatham"]
instants = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(instants, st.integers(1, 90 * 24 * 60), st.sampled_from(ZONES))
def test_days_begin_where_the_date_changes(start: datetime, minutes: int, zone: str):
    start = start.replace(microsecond=0)
    end = start + timedelta(minutes=minutes)
    found = [to_ms(at) for at in edges(start, end, Step(86_400), ZoneInfo(zone))]
    inner = [at for at in oracle.days(zone, to_ms(start), to_ms(end)) if at != to_ms(start)]
    assert found == [to_ms(start), *inner, to_ms(end)]


@given(instants, st.integers(1, 200), st.sampled_from(ZONES), st.integers(1, 31))
def test_months_begin_on_the_anchor_day(start: datetime, days: int, zone: str, anchor_day: int):
    start = start.replace(microsecond=0)
    end = start + timedelta(days=days)
    found = [to_ms(at) for at in edges(start, end, Step(0, 1), ZoneInfo(zone), anchor_day=anchor_day)]
    inner = [at for at in oracle.months(zone, to_ms(start), to_ms(end), anchor_day) if at != to_ms(start)]
    assert found == [to_ms(start), *inner, to_ms(end)]


@given(instants, st.integers(1, 10 * 24 * 3600), st.sampled_from(ZONES), st.integers(1, 200))
def test_shorter_steps_are_whole_but_at_midnight(start: datetime, seconds: int, zone: str, minutes: int):
    end = start + timedelta(seconds=seconds)
    found = edges(start, end, Step(minutes * 60), ZoneInfo(zone))
    assert (found[0], found[-1]) == (start, end)
    midnights = edges(start, end, Step(86_400), ZoneInfo(zone))
    assert set(midnights) <= set(found)
    for before, after in pairwise(found):
        assert timedelta(0) < after - before <= timedelta(minutes=minutes)
        assert after - before == timedelta(minutes=minutes) or {before, after} & set(midnights)
