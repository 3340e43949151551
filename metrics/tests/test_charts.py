from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from metrics import charts

MINUTE = 60_000
NOON = round(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)


def series(rx, tx=None, *, step=MINUTE, marks=None):
    count = len(rx)
    starts = [NOON + index * step for index in range(count)]
    tx = tx if tx is not None else [0.0] * count
    none = [None] * count
    return charts.Series(starts, NOON + count * step, rx, tx, none, none, none, none, marks or [[]] * count)


def test_a_break_in_what_is_known_breaks_the_line():
    drawn = charts.chart(series([1.0, None, 1.0]), unit="bytes", zone=UTC)
    assert drawn.rx_line.count("M") == 2


def test_nothing_known_draws_nothing():
    drawn = charts.chart(series([None, None], [None, None]), unit="bytes", zone=UTC)
    assert (drawn.rx_line, drawn.tx_area) == ("", "")


def test_rx_is_above_the_axis_and_tx_below_it_on_one_scale():
    drawn = charts.chart(series([2048.0], [1024.0]), unit="bytes", zone=UTC)
    assert drawn.rx_line == "M0.0 0.0L500.0 0.0L1000.0 0.0"
    assert drawn.tx_line == "M0.0 240.0L500.0 240.0L1000.0 240.0"
    assert drawn.axis == 160.0


def test_a_range_reaches_from_the_lowest_to_the_highest_and_from_the_rate_where_no_lowest_is_known():
    above = series([512.0] * 3)._replace(rx_peak=[1024.0, 1024.0, None], rx_low=[0.0, None, None])
    drawn = charts.chart(above, unit="bytes", zone=UTC)
    assert drawn.axis == 192.0
    assert drawn.rx_range == ("M0.0 0.0L166.7 0.0L500.0 0.0L666.7 0.0L666.7 96.0L500.0 96.0L166.7 192.0L0.0 192.0Z")
    assert drawn.tx_range == ""


def test_zeros_have_an_axis_and_a_step_of_one():
    drawn = charts.chart(series([0.0]), unit="bits", zone=UTC)
    assert [tick.text for tick in drawn.ticks] == ["1 bit/s", "0 bit/s", "1 bit/s"]


def test_events_stand_where_they_happened_those_of_one_instant_together():
    events = [charts.Happening(NOON + 3 * MINUTE, "eth1 link down"), charts.Happening(NOON + MINUTE, "reboot")]
    events.append(charts.Happening(NOON + 3 * MINUTE, "eth0 link down"))
    drawn = charts.chart(series([1.0] * 4)._replace(events=events), unit="bytes", zone=UTC)
    assert [(mark.x, mark.kinds) for mark in drawn.events] == [
        (25.0, "reboot"),
        (75.0, "eth0 link down, eth1 link down"),
    ]


def test_a_run_of_the_same_mark_is_marked_once():
    drawn = charts.chart(series([1.0] * 4, marks=[[], ["gap"], ["gap"], ["reset"]]), unit="bytes", zone=UTC)
    assert [(mark.x, mark.kinds) for mark in drawn.marks] == [(25.0, "gap"), (75.0, "reset")]


@pytest.mark.parametrize(
    ("rate", "unit", "text"),
    [
        (None, "bytes", "–"),
        (0, "bytes", "0 B/s"),
        (0.25, "bytes", "0.25 B/s"),
        (1023, "bytes", "1023 B/s"),
        (1024, "bytes", "1 KiB/s"),
        (1536, "bytes", "1.5 KiB/s"),
        (12.3 * 1024**2, "bytes", "12.3 MiB/s"),
        (125_000_000, "bits", "1 Gbit/s"),
        (1_249, "bits", "9.99 kbit/s"),
    ],
)
def test_a_rate_is_written_in_the_unit_that_fits(rate, unit, text):
    assert charts.rate_text(rate, unit) == text


def test_a_value_just_below_the_next_unit_is_not_written_as_1024():
    assert charts.size_text(1024**2 - 1) == "1 MiB"


def test_sizes_reach_from_nothing_to_petabytes():
    assert [charts.size_text(size) for size in (None, 0, 12 * 10**15)] == ["–", "0 B", "10.7 PiB"]


def test_a_speed_is_decimal_and_empty_where_there_is_none():
    assert [charts.speed_text(speed) for speed in (2500, 100, -1, 0, None)] == ["2.5 Gbit/s", "100 Mbit/s", "", "", ""]


def test_counts_are_grouped():
    assert charts.count_text(1234567) == "1\u202f234\u202f567"


@pytest.mark.parametrize("highest", [0, 0.5, 1, 999, 1025, 3e6, 12e15])
@pytest.mark.parametrize("unit", ["bytes", "bits"])
def test_few_steps_reach_the_highest_rate(highest, unit):
    assert charts.tick_step(highest, unit) * charts.MOST_STEPS >= highest


def test_labels_fall_on_round_local_times():
    labels = charts.time_labels(NOON + 7 * MINUTE, NOON + 67 * MINUTE, ZoneInfo("Asia/Kathmandu"))
    assert [text for _, text in labels][:3] == ["18:00", "18:10", "18:20"]


def test_midnight_is_labelled_with_its_date():
    labels = charts.time_labels(NOON, NOON + 24 * 60 * MINUTE, UTC)
    assert "2 Mar" in [text for _, text in labels]


def test_days_are_labelled_at_local_midnight_when_the_clock_changes():
    zone = ZoneInfo("Europe/Berlin")
    start = round(datetime(2026, 3, 27, tzinfo=zone).timestamp() * 1000)
    labels = charts.time_labels(start, start + 5 * 86_400_000, zone)
    assert all(datetime.fromtimestamp(at / 1000, zone).hour == 0 for at, _ in labels)


@pytest.mark.parametrize("days", [0.001, 0.04, 0.25, 1, 7, 30, 365, 3650])
def test_there_are_never_too_many_labels(days):
    labels = charts.time_labels(NOON, NOON + round(days * 86_400_000), UTC)
    assert 1 <= len(labels) <= 13
    assert [at for at, _ in labels] == sorted(at for at, _ in labels)


def test_a_year_is_labelled_by_its_months():
    labels = charts.time_labels(NOON, NOON + 365 * 86_400_000, UTC)
    assert "2027" in [text for _, text in labels]
    assert "Jul" in [text for _, text in labels]


def test_a_spark_shares_its_height_between_the_ways():
    spark = charts.spark([3.0, 3.0], [1.0, None])
    assert spark.axis == 1 + 26 * 0.75
    assert spark.tx.startswith("M0.0 20.5")


def test_a_spark_of_zeros_lies_on_its_axis():
    assert charts.spark([0.0], [0.0]).axis == charts.SPARK_HEIGHT / 2


def test_a_spark_of_many_points_is_drawn_in_few():
    assert charts.spark([1.0] * 288, [None] * 288).rx.count("L") < 52


def test_a_spark_keeps_its_breaks():
    assert charts.spark([1.0] * 96 + [None] * 96 + [1.0] * 96, [0.0] * 288).rx.count("M") == 2
