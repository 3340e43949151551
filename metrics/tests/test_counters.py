"""Every number here is worked out by hand, or by an oracle that knows nothing of the code."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from metrics.counters import (
    COUNTERS,
    GAP,
    NO_BOOT,
    RESET,
    SUSPECT,
    UNKNOWN,
    WRAP,
    Reading,
    columns,
    is_plain,
    measure,
    order,
    rate,
    step,
    unroll,
)

SECOND = 1000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE


def reading(seconds: float, rx_bytes: int, tx_bytes: int = 0, **changes: Any) -> Reading:
    """A reading of boot 1, which started 100 s before instant 0, each minute, of a link whose speed is not known."""
    values = {
        "at": round(seconds * SECOND), "boot": 1, "started": -100 * SECOND, "interval": MINUTE, "link": 1, "ifindex": 2,
        "speed": UNKNOWN, "rx_bytes": rx_bytes, "tx_bytes": tx_bytes, "rx_packets": 0, "tx_packets": 0,
    }  # fmt: skip
    return Reading(**{**values, **changes})


def rx(a: Reading, b: Reading) -> tuple[int, int]:
    passed = step(a, b)
    return passed.increases[0], passed.marks


def measured(readings: list[Reading], *edges: float):
    return measure(unroll(columns(order(readings))), [round(edge * SECOND) for edge in edges])


# One step


def test_a_step_is_plain_when_a_third_reading_in_between_adds_nothing():
    first, last = reading(0, 1000), reading(120, 1500)
    for middle in (reading(60, 1000), reading(60, 1500), reading(1, 1200), reading(60, 1200, speed=10)):
        assert is_plain(first, middle)
        assert is_plain(middle, last)
        assert rx(first, last)[0] == rx(first, middle)[0] + rx(middle, last)[0] == 500


def test_a_step_is_plain_only_if_nothing_but_the_counters_changed_and_they_went_up_in_time():
    before = reading(0, 1000, rx_packets=7)
    others = {"boot": 2}, {"boot": NO_BOOT}, {"ifindex": 3}, {"ifindex": UNKNOWN}, {"link": 0}, {"rx_packets": 6}
    assert is_plain(before, reading(150, 1000, rx_packets=7))
    assert not any(is_plain(before, reading(60, 1000, **{"rx_packets": 7, **other})) for other in others)
    assert not is_plain(before, reading(60, 999, rx_packets=7))
    assert not is_plain(before, reading(150.001, 1000, rx_packets=7))
    assert not is_plain(before, before)


def test_the_same_boot_and_interface_is_the_difference():
    assert rx(reading(0, 1000), reading(60, 1500)) == (500, 0)


def test_nothing_passed_is_zero():
    assert rx(reading(0, 1000), reading(60, 1000)) == (0, 0)


def test_every_counter_has_its_own_increase():
    a = reading(0, 1, 2, rx_packets=3, tx_packets=4, rx_errors=5, tx_errors=6, rx_dropped=7, tx_dropped=8)
    b = reading(60, 11, 22, rx_packets=33, tx_packets=44, rx_errors=55, tx_errors=66, rx_dropped=77, tx_dropped=88)
    assert step(a, b).increases == (10, 20, 30, 40, 50, 60, 70, 80)


def test_64_bit_counters_stay_exact():
    assert rx(reading(0, 2**63 - 2), reading(60, 2**63 - 1)) == (1, 0)


def test_a_reboot_is_a_reset_to_what_the_new_counter_has_seen():
    assert rx(reading(0, 1000), reading(60, 40, boot=2)) == (40, RESET)


def test_a_reboot_is_a_reset_even_where_the_new_counter_is_higher():
    assert rx(reading(0, 1000), reading(60, 9000, boot=2)) == (9000, RESET)


def test_a_re_created_interface_is_a_reset():
    assert rx(reading(0, 1000), reading(60, 9000, ifindex=7)) == (9000, RESET)


def test_an_ifindex_that_one_side_does_not_report_is_no_reset():
    assert rx(reading(0, 1000), reading(60, 1500, ifindex=UNKNOWN)) == (500, 0)


def test_a_boot_that_one_side_does_not_report_is_no_reset():
    assert rx(reading(0, 1000), reading(60, 1500, boot=NO_BOOT)) == (500, 0)


def test_a_counter_that_fell_is_a_reset():
    assert rx(reading(0, 1000), reading(60, 40)) == (40, RESET)


def test_a_counter_that_fell_to_zero_is_a_reset_of_nothing():
    assert rx(reading(0, 1000), reading(60, 0)) == (0, RESET)


def test_one_counter_that_fell_leaves_the_other_as_it_is():
    assert step(reading(0, 1000, 1000), reading(60, 40, 1200)).increases[:2] == (40, 200)


def test_a_32_bit_wrap_on_a_link_fast_enough():
    assert rx(reading(0, 2**32 - 100, speed=1000), reading(60, 50, speed=1000)) == (150, WRAP)


def test_a_wrap_just_as_large_as_the_link_allows():
    # 1 Mbit/s for 60 s is 7,500,000 bytes; a tenth more is 8,250,000.
    assert rx(reading(0, 2**32 - 8_250_000, speed=1), reading(60, 0, speed=1)) == (8_250_000, WRAP)


def test_a_wrap_larger_than_the_link_allows_is_a_reset():
    assert rx(reading(0, 2**32 - 8_250_000, speed=1), reading(60, 1, speed=1)) == (1, RESET)


def test_no_wrap_where_the_speed_is_not_known():
    assert rx(reading(0, 2**32 - 100), reading(60, 50)) == (50, RESET)


def test_no_wrap_of_a_counter_beyond_32_bits():
    assert rx(reading(0, 2**32, speed=100_000), reading(60, 50, speed=100_000)) == (50, RESET)


def test_a_wrap_within_ten_minutes():
    slow = {"speed": 1000, "interval": 10 * MINUTE}
    assert rx(reading(0, 2**32 - 100, **slow), reading(600, 50, **slow)) == (150, WRAP)


def test_no_wrap_after_more_than_ten_minutes():
    slow = {"speed": 1000, "interval": 10 * MINUTE}
    assert rx(reading(0, 2**32 - 100, **slow), reading(600.001, 50, **slow)) == (50, RESET)


def test_packets_that_reset_beside_bytes_make_it_a_reset_and_not_a_wrap():
    a = reading(0, 2**32 - 100, rx_packets=5_000_000, speed=1000)
    b = reading(60, 50, rx_packets=10, speed=1000)
    assert step(a, b) == ((50, 0, 10, 0, 0, 0, 0, 0), RESET)


def test_packets_that_count_on_beside_bytes_let_them_wrap():
    a = reading(0, 2**32 - 100, rx_packets=5_000_000, speed=1000)
    b = reading(60, 50, rx_packets=5_000_002, speed=1000)
    assert step(a, b) == ((150, 0, 2, 0, 0, 0, 0, 0), WRAP)


def test_a_machine_rolled_back_within_a_boot_repeats_what_was_counted():
    # Up 160 s at the first reading; then set back to 130 s of the same boot.
    a, b = reading(60, 1000), reading(120, 700, started=-10 * SECOND)
    assert rx(a, b) == (0, RESET)


def test_a_boot_that_is_named_for_the_first_time_is_not_rolled_back():
    a, b = reading(10**6, 1000, boot=NO_BOOT, started=0), reading(10**6 + 60, 700, started=10**6 * SECOND)
    assert rx(a, b) == (700, RESET)


def test_errors_that_fell_are_reset_without_a_mark():
    passed = step(reading(0, 1000, rx_errors=9), reading(60, 1500, rx_errors=2))
    assert passed.increases == (500, 0, 0, 0, 2, 0, 0, 0)
    assert passed.marks == 0


def test_a_counter_that_one_side_does_not_report_has_no_increase():
    assert step(reading(0, 0, rx_errors=UNKNOWN), reading(60, 0, rx_errors=5)).increases[4] == 0
    assert step(reading(0, 0, rx_errors=5), reading(60, 0, rx_errors=UNKNOWN)).increases[4] == 0


def test_two_and_a_half_intervals_are_no_gap():
    assert rx(reading(0, 1000), reading(150, 1500)) == (500, 0)


def test_longer_than_two_and_a_half_intervals_is_a_gap_with_the_exact_total():
    assert rx(reading(0, 1000), reading(150.001, 1500)) == (500, GAP)


def test_a_gap_is_measured_by_the_slower_of_both_intervals():
    assert rx(reading(0, 1000), reading(300, 1500, interval=5 * MINUTE)) == (500, 0)


def test_more_than_the_link_can_carry_is_kept_and_marked_suspect():
    assert rx(reading(0, 0, speed=1), reading(60, 8_250_000, speed=1)) == (8_250_000, 0)
    assert rx(reading(0, 0, speed=1), reading(60, 8_250_001, speed=1)) == (8_250_001, SUSPECT)


def test_nothing_is_suspect_where_the_speed_is_not_known():
    assert rx(reading(0, 0), reading(60, 2**62)) == (2**62, 0)


def test_a_rate_is_bytes_per_second():
    assert rate(1500, 60_000) == 25.0
    assert rate(1, 3000) == 0.333


def test_a_rate_over_no_time_is_unknown():
    assert rate(1500, 0) is None
    assert rate(1500, -1) is None


# Many readings


def test_the_first_reading_of_an_interface_adds_nothing():
    buckets = measured([reading(30, 10**12)], 0, 60)
    assert buckets.sums["rx_bytes"] == [0]
    assert not buckets.is_known(0)


def test_no_readings_are_unknown():
    assert unroll(columns([])) == []
    assert not measured([], 0, 60).is_known(0)


def test_between_two_readings_bytes_pass_in_proportion_to_time():
    assert measured([reading(0, 0), reading(60, 100)], 0, 20, 40, 60).sums["rx_bytes"] == [33, 33, 34]


def test_nothing_is_extrapolated_before_the_first_or_past_the_last_reading():
    buckets = measured([reading(0, 0), reading(60, 100)], -60, 0, 60, 120)
    assert buckets.sums["rx_bytes"] == [0, 100, 0]
    assert buckets.sums["covered_ms"] == [0, MINUTE, 0]
    assert [buckets.is_known(index) for index in range(3)] == [False, True, False]


def test_a_gap_keeps_its_total_covers_no_time_and_marks_every_bucket_it_spans():
    buckets = measured([reading(0, 0), reading(300, 1000)], 0, 100, 200, 300)
    assert buckets.sums["rx_bytes"] == [333, 333, 334]
    assert buckets.sums["covered_ms"] == [0, 0, 0]
    assert buckets.marks == [GAP, GAP, GAP]


def test_what_passed_in_a_gap_is_told_apart():
    buckets = measured([reading(0, 0), reading(60, 100), reading(360, 700)], 0, 360)
    assert buckets.sums["rx_bytes"] == [700]
    assert buckets.sums["rx_uncovered"] == [600]


def test_a_reset_is_counted_once_in_the_bucket_where_it_ends():
    buckets = measured([reading(0, 1000), reading(60, 40, boot=2), reading(120, 50, boot=2)], 0, 30, 90, 120)
    assert buckets.sums["rx_bytes"] == [20, 25, 5]
    assert buckets.sums["resets"] == [0, 1, 0]
    assert buckets.marks == [RESET, RESET, 0]


def test_a_wrap_is_in_the_total():
    readings = [reading(second, 2**32 - 100 + second if second < 60 else 50, speed=1000) for second in (0, 30, 60)]
    buckets = measured(readings, 0, 60)
    assert buckets.sums["rx_bytes"] == [150]
    assert buckets.marks == [WRAP]


def test_a_peak_is_the_highest_clean_rate():
    readings = [reading(0, 0), reading(60, 600), reading(120, 6600), reading(180, 7200), reading(900, 10**9)]
    assert measured(readings, 0, 60, 180).peaks["rx_peak"] == [10, 100]
    assert measured(readings, 0, 900).peaks["rx_peak"] == [100]


def test_a_low_is_the_lowest_clean_rate():
    readings = [reading(0, 0), reading(60, 600), reading(120, 6600), reading(180, 7200), reading(900, 7200)]
    assert measured(readings, 0, 60, 120, 180).lows["rx_low"] == [10, 100, 10]
    assert measured(readings, 60, 900).lows["rx_low"] == [10]


def test_there_is_no_low_where_nothing_is_clean():
    assert measured([reading(0, 0), reading(900, 7200)], 0, 900).lows["rx_low"] == [UNKNOWN]


def test_time_with_the_link_down_is_covered_but_not_up():
    buckets = measured([reading(0, 0), reading(60, 0, link=0), reading(120, 0)], 0, 120)
    assert buckets.sums["covered_ms"] == [2 * MINUTE]
    assert buckets.sums["up_ms"] == [MINUTE]


def test_a_counter_that_was_never_reported_is_unknown_and_not_zero():
    buckets = measured([reading(0, 0), reading(60, 100)], 0, 60)
    assert buckets.sums["rx_errors"] == [UNKNOWN]


def test_a_counter_reported_later_is_known_only_from_then():
    readings = [reading(0, 0), reading(60, 0, rx_errors=3), reading(120, 0, rx_errors=5)]
    assert measured(readings, 0, 60, 120).sums["rx_errors"] == [UNKNOWN, 2]


def test_a_counter_is_unknown_where_there_are_no_readings():
    readings = [reading(0, 0, rx_errors=3), reading(60, 0, rx_errors=5)]
    assert measured(readings, -60, 0, 60, 120).sums["rx_errors"] == [UNKNOWN, 2, UNKNOWN]


def test_order_is_by_time_and_each_instant_of_a_boot_is_once():
    late, early = reading(60, 2), reading(0, 1)
    assert order([late, early, late]) == [early, late]
    assert len(order([early, reading(0, 1, boot=2)])) == 2


def test_overlapping_boots_make_two_chains_which_are_added():
    # Boot 1: 100 to 300. Boot 2, a clone: 10 seen since it started, then 15 more. 200 + 10 + 15.
    readings = [reading(0, 100), reading(60, 10, boot=2), reading(120, 300), reading(180, 25, boot=2)]
    assert len(unroll(columns(readings))) == 2
    buckets = measured(readings, 0, 180)
    assert buckets.sums["rx_bytes"] == [225]
    assert buckets.sums["resets"] == [1]


def test_boots_one_after_another_make_one_chain():
    readings = [reading(0, 100), reading(60, 200), reading(120, 5, boot=2), reading(180, 7, boot=2)]
    assert len(unroll(columns(readings))) == 1
    assert measured(readings, 0, 180).sums["rx_bytes"] == [107]


def test_an_agent_that_names_no_boot_for_a_while_speaks_of_the_one_that_runs():
    readings = [reading(0, 100), reading(60, 150, boot=NO_BOOT), reading(120, 300)]
    assert measured(readings, 0, 120).sums["rx_bytes"] == [200]


def test_only_the_wanted_counters_are_measured():
    (chain,) = unroll(columns([reading(0, 0, 0), reading(60, 5, 7)]), ("tx_bytes",))
    assert measure([chain], [0, MINUTE], ("tx_bytes",)).sums["tx_bytes"] == [7]


# Any readings: compared with an oracle that walks them one by one

counters = st.integers(0, 2**34)
steps = st.tuples(
    st.integers(1, 400_000),  # ms since the reading before
    counters,
    counters,
    st.booleans(),  # a reboot
    st.booleans(),  # the interface re-created
)


@st.composite
def histories(draw: st.DrawFn) -> list[Reading]:
    at, boot, ifindex = draw(st.integers(0, DAY)), 1, 2
    readings = []
    for elapsed, rx_bytes, tx_bytes, rebooted, recreated in draw(st.lists(steps, min_size=1, max_size=30)):
        at, boot, ifindex = at + elapsed, boot + rebooted, ifindex + recreated
        readings.append(reading(at / 1000, rx_bytes, tx_bytes, boot=boot, ifindex=ifindex))
    return readings


def unrolled(readings: list[Reading], instant: int) -> int:
    """C(t), walked: no links have a speed here, so no decrease is a wrap."""
    total = 0
    for a, b in pairwise(readings):
        same = (a.boot, a.ifindex) == (b.boot, b.ifindex) and b.rx_bytes >= a.rx_bytes
        increase = b.rx_bytes - a.rx_bytes if same else b.rx_bytes
        passed = min(max(instant - a.at, 0), b.at - a.at)
        total += increase * passed // (b.at - a.at)
    return total


@given(histories(), st.lists(st.integers(-DAY, 2 * DAY), min_size=2, max_size=12, unique=True))
def test_every_bucket_is_a_difference_of_the_unrolled_counter(readings: list[Reading], edges: list[int]):
    edges.sort()
    expected = [unrolled(readings, end) - unrolled(readings, start) for start, end in pairwise(edges)]
    assert measure(unroll(columns(readings)), edges).sums["rx_bytes"] == expected


@given(histories(), st.lists(st.integers(-DAY, 2 * DAY), max_size=20, unique=True))
def test_the_parts_of_any_partition_add_up_to_the_whole(readings: list[Reading], cuts: list[int]):
    start, end = -2 * DAY, 3 * DAY
    chains = unroll(columns(readings))
    parts = measure(chains, [start, *sorted(cuts), end])
    whole = measure(chains, [start, end])
    for name in (*COUNTERS[:4], "rx_uncovered", "tx_uncovered", "covered_ms", "up_ms", "resets"):
        assert sum(parts.sums[name]) == whole.sums[name][0]


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_in_which_readings_arrive_changes_nothing(readings: list[Reading], random: Any):
    shuffled = readings * 2
    random.shuffle(shuffled)
    assert order(shuffled) == readings


@given(histories())
def test_the_unrolled_counter_never_decreases(readings: list[Reading]):
    (chain,) = unroll(columns(readings))
    for totals in chain.total.values():
        assert totals == sorted(totals)
