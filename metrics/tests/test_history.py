"""The sparkline, series, usage, rankings and totals. 6000 bytes in a minute are 100 a second."""

from datetime import timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from metrics.history import SPARKLINE_PERIODS, series, sparkline, top, totals, usage
from metrics.models import Interface
from metrics.percentiles import percentile
from metrics.periods import parse_step
from metrics.seal import tick
from servers.models import Server


@pytest.fixture
def line(now):
    """Ask for a sparkline `seconds` after instant 0, as (seconds, rx_bytes, rx_rate) of each point."""

    def ask(seconds: float, interface: str | None = "eth0", period: str = "1h", server: str = "nas"):
        asked_at = now + timedelta(seconds=seconds)
        points = sparkline(server, period, interface, now=asked_at)
        return [((point["timestamp"] - now).total_seconds(), point["rx_bytes"], point["rx_rate"]) for point in points]

    return ask


@pytest.fixture
def minutes(store, interface):
    """Store a reading of eth0 each minute, with the given counters."""

    def build(*counters: int, **changes):
        for minute, rx_bytes in enumerate(counters):
            store(60 * minute, network_interfaces=[interface(rx_bytes=rx_bytes, **changes)])

    return build


def test_points_are_counters_with_the_rate_since_the_point_before(minutes, line):
    minutes(1000, 7000, 7000, 7600)
    assert line(180) == [(0, 1000, None), (60, 7000, 100.0), (120, 7000, 0.0), (180, 7600, 10.0)]


def test_rx_and_tx_are_told_apart(store, interface, now):
    store(0, network_interfaces=[interface(rx_bytes=0, tx_bytes=50)])
    store(60, network_interfaces=[interface(rx_bytes=6000, tx_bytes=650)])
    point = sparkline("nas", "1h", "eth0", now=now + timedelta(seconds=60))[-1]
    assert (point["rx_bytes"], point["rx_rate"]) == (6000, 100.0)
    assert (point["tx_bytes"], point["tx_rate"]) == (650, 10.0)


def test_points_are_ordered_by_time_whatever_the_order_of_arrival(store, interface, line):
    for seconds in (120, 0, 180, 60):
        store(seconds, 180 - seconds, network_interfaces=[interface(rx_bytes=seconds * 100)])
    assert line(180) == [(0, 0, None), (60, 6000, 100.0), (120, 12000, 100.0), (180, 18000, 100.0)]


def test_only_the_asked_period_is_answered(minutes, line):
    minutes(*range(0, 6000 * 40, 6000))
    thirty = line(39 * 60, period="30m")
    assert thirty[0][0] == 60 * 10
    assert thirty[-1] == (39 * 60, 39 * 6000, 100.0)
    assert len(thirty) == 30


def test_the_first_point_of_a_period_has_its_rate_from_the_reading_before(minutes, line):
    minutes(*range(0, 6000 * 40, 6000))
    assert line(39 * 60, period="30m")[0] == (600, 60_000, 100.0)


def test_readings_after_now_are_not_answered(minutes, line):
    minutes(0, 6000, 12000)
    assert line(60) == [(0, 0, None), (60, 6000, 100.0)]


def test_a_rate_is_unknown_after_a_gap_and_known_again_after_that(store, interface, line):
    for seconds in (0, 60, 300, 360):
        store(seconds, network_interfaces=[interface(rx_bytes=seconds * 100)])
    assert [rate for _, _, rate in line(360)] == [None, 100.0, None, 100.0]


def test_a_rate_is_unknown_after_a_reset_and_known_again_after_that(minutes, line):
    minutes(10_000, 16_000, 500, 6500)
    assert [rate for _, _, rate in line(180)] == [None, 100.0, None, 100.0]


def test_a_rate_is_unknown_after_a_reboot(store, interface, line):
    store(0, network_interfaces=[interface(rx_bytes=500)])
    store(60, boot_id="boot-2", uptime=30.0, sent_uptime=30.0, network_interfaces=[interface(rx_bytes=6500)])
    assert line(60) == [(0, 500, None), (60, 6500, None)]


def test_a_wrap_has_a_rate(minutes, line):
    minutes(2**32 - 1000, 5000, speed_mbps=1000)
    assert line(60)[-1] == (60, 5000, 100.0)


def test_the_rate_after_a_heartbeat_without_interfaces_is_over_both_minutes(store, interface, line):
    store(0, network_interfaces=[interface(rx_bytes=0)])
    store(60, network_interfaces=...)
    store(120, network_interfaces=[interface(rx_bytes=6000)])
    assert line(120) == [(0, 0, None), (120, 6000, 50.0)]


def test_an_unknown_interface_has_no_points(minutes, line):
    minutes(0, 6000)
    assert line(60, "wlan7") == []


def test_a_server_without_readings_has_no_points(server: Server, line):
    assert line(0) == []
    assert line(0, None) == []


def test_two_interfaces_are_not_mixed(store, interface, line):
    for seconds in (0, 60):
        store(seconds, network_interfaces=[interface("eth0", seconds * 100), interface("eth1", seconds * 7)])
    assert line(60, "eth0")[-1] == (60, 6000, 100.0)
    assert line(60, "eth1")[-1] == (60, 420, 7.0)


def test_two_servers_are_not_mixed(store, interface, line):
    for seconds in (0, 60):
        store(seconds, network_interfaces=[interface(rx_bytes=seconds * 100)])
        store(seconds, server_id="pi", network_interfaces=[interface(rx_bytes=seconds * 7)])
    assert line(60, server="nas")[-1] == (60, 6000, 100.0)
    assert line(60, server="pi")[-1] == (60, 420, 7.0)


@pytest.mark.parametrize("period", SPARKLINE_PERIODS)
def test_every_period_has_at_most_sixty_points_and_loses_no_byte(store, interface, now, period: str):
    length = SPARKLINE_PERIODS[period] / timedelta(seconds=1)
    pitch = length / 150
    for number in range(151):
        seconds = number * pitch
        reading = interface(rx_bytes=int(seconds) * 100)
        times = {"uptime": 1000.0 + seconds, "sent_uptime": 1000.0 + seconds, "interval": min(pitch, 86_400)}
        store(seconds, **times, network_interfaces=[reading])
    points = sparkline("nas", period, "eth0", now=now + timedelta(seconds=length))
    assert 50 <= len(points) <= 60
    for before, point in pairwise(points):
        elapsed = (point["timestamp"] - before["timestamp"]).total_seconds()
        assert point["rx_rate"] == pytest.approx((point["rx_bytes"] - before["rx_bytes"]) / elapsed, abs=0.001)
        assert point["rx_rate"] == pytest.approx(100, abs=1)


# The server's total


@pytest.fixture
def two(store):
    """Store two readings a minute apart, of the interfaces that `of(seconds)` returns."""

    def build(of):
        for seconds in (0, 60):
            store(seconds, network_interfaces=of(seconds))

    return build


def test_the_total_is_the_sum_of_interfaces_that_do_not_ride_on_another(two, interface, line):
    two(
        lambda seconds: [
            interface("eth0", seconds * 100, kind="physical"),
            interface("wlan0", seconds * 10, kind="wifi"),
            interface("docker0", seconds * 1000, kind="bridge"),
            interface("veth1", seconds * 1000, kind="veth", master="docker0"),
            interface("tailscale0", seconds * 1000, kind="tun"),
            interface("wg0", seconds * 1000, kind="wireguard"),
            interface("eth1", seconds * 1000, kind="physical", master="bond0"),
        ]
    )
    assert line(60, None) == [(0, 0, None), (60, 6600, 110.0)]


def test_the_total_counts_all_where_all_ride_on_another(two, interface, line):
    two(lambda seconds: [interface("tun0", seconds * 100, kind="tun"), interface("veth0", seconds, kind="veth")])
    assert line(60, None)[-1] == (60, 6060, 101.0)


def test_a_person_decides_what_counts_in_the_total(two, interface, line):
    two(lambda seconds: [interface("eth0", seconds * 100), interface("wg0", seconds * 7, kind="wireguard")])
    Interface.objects.filter(name="eth0").update(counts_in_total=False)
    Interface.objects.filter(name="wg0").update(counts_in_total=True)
    assert line(60, None)[-1] == (60, 420, 7.0)


def test_a_kind_that_a_person_has_set_counts_rather_than_the_reported_one(two, interface, line):
    two(lambda seconds: [interface("eth0", seconds * 100), interface("wg0", seconds * 7, kind="wireguard")])
    Interface.objects.filter(name="eth0").update(chosen_kind="tun")
    Interface.objects.filter(name="wg0").update(chosen_kind="physical")
    assert line(60, None)[-1] == (60, 420, 7.0)


def test_each_interface_is_diffed_before_the_sum(store, interface, line):
    store(0, network_interfaces=[interface("eth0", 10**12), interface("eth1", 0)])
    store(60, network_interfaces=[interface("eth0", 0), interface("eth1", 6000)])  # eth0 was reset
    store(120, network_interfaces=[interface("eth0", 600), interface("eth1", 12_000)])
    assert line(120, None)[-1] == (120, 12_600, 110.0)


def test_an_interface_that_appears_adds_no_burst_to_the_total(store, interface, line):
    store(0, network_interfaces=[interface("eth0", 0)])
    store(60, network_interfaces=[interface("eth0", 6000), interface("usb0", 10**12)])
    assert line(60, None)[-1][2] == 100.0


@pytest.mark.parametrize("period", ["1h", "24h", "7d"])
def test_the_sparkline_is_the_same_after_sealing(store, interface, line, now, period: str):
    for minute in range(0, 8 * 60, 4):
        store(60 * minute, network_interfaces=[interface(rx_bytes=minute**3)])
    before = line(8 * 3600, period=period)
    tick(now=now + timedelta(hours=8))
    assert line(8 * 3600, period=period) == before
    tick(now=now + timedelta(days=60))
    assert line(8 * 3600, period=period) == before


# Series, usage, rankings and totals

UTC_ZONE = ZoneInfo("UTC")


def all_interfaces() -> list[Interface]:
    return list(Interface.objects.all())


def test_a_series_has_increases_rates_peaks_and_marks(minutes, now):
    minutes(1000, 7000, 7000, 7600, 100)
    told = series(all_interfaces(), now, now + timedelta(minutes=4), parse_step("2m"), UTC_ZONE)
    assert told.start == [now, now + timedelta(minutes=2)]
    assert (told.rx_bytes, told.rx_rate, told.rx_peak) == ([6000, 700], [50.0, 10.0], [100, 10])
    assert (told.covered_seconds, told.resets, told.marks) == ([120, 60], [0, 1], [[], ["reset"]])
    assert (told.total("rx_bytes"), told.total("rx_errors")) == (6700, None)


def test_a_raw_series_has_a_bucket_between_every_two_readings(minutes, now):
    minutes(0, 60, 180)
    told = series(all_interfaces(), now, now + timedelta(minutes=2), parse_step("raw"), UTC_ZONE)
    assert (told.start, told.rx_bytes) == ([now, now + timedelta(minutes=1)], [60, 120])


def test_time_is_covered_once_by_two_interfaces_and_has_no_common_peak(two, interface, now):
    two(lambda seconds: [interface("eth0", seconds * 100), interface("eth1", seconds * 7)])
    told = series(all_interfaces(), now, now + timedelta(minutes=1), parse_step("1m"), UTC_ZONE)
    assert (told.rx_bytes, told.rx_rate, told.rx_peak, told.covered_seconds) == ([6420], [107.0], [None], [60])


def test_what_passed_in_a_gap_is_in_the_total_and_not_in_the_rate(store, interface, now):
    for seconds, rx_bytes in ((0, 0), (60, 6000), (1260, 1_000_000)):
        store(seconds, network_interfaces=[interface(rx_bytes=rx_bytes)])
    told = series(all_interfaces(), now, now + timedelta(minutes=21), parse_step("1h"), UTC_ZONE)
    assert (told.rx_bytes, told.rx_rate, told.covered_seconds, told.marks) == ([1_000_000], [100.0], [60], [["gap"]])


def test_usage_is_cut_at_the_midnight_of_the_zone(store, interface, now):
    for hour in range(0, 40, 2):
        store(3600 * hour, interval=7200, network_interfaces=[interface(rx_bytes=hour)])
    rows = usage(
        all_interfaces(), now, now + timedelta(hours=38), parse_step("1d"), ZoneInfo("Asia/Kolkata"), by_server=False
    )
    assert [row.rx_bytes for row in rows] == [12, 24, 2]  # from 12:00, of a day, and to 02:00 there
    assert [f"{row.start:%d %H:%M}" for row in rows] == ["01 06:30", "01 18:30", "02 18:30"]


def test_the_95th_percentile_is_of_five_minute_rates(store, interface, now):
    counted = 0
    for slot in range(21):
        store(300 * slot, interval=300, network_interfaces=[interface(rx_bytes=counted)])
        counted += 300 * (slot + 1)  # 1, 2, ... 20 bytes a second
    (row,) = usage(all_interfaces(), now, now + timedelta(minutes=100), parse_step("1d"), UTC_ZONE, by_server=False)
    assert (row.rx_bytes, row.rx_p95, row.tx_p95) == (300 * 210, 19, 0)


@pytest.mark.parametrize(("count", "of"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_the_percentile_is_the_nearest_rank(count: int, of: int):
    assert percentile(range(count, 0, -1)) == of


def test_no_samples_have_no_percentile():
    assert percentile([]) is None


def test_a_ranking_leaves_out_what_is_unknown_and_breaks_ties_by_name(two, interface, now):
    two(lambda seconds: [interface("eth1", 5 * seconds), interface("eth0", 0, 5 * seconds), interface("lan", seconds)])
    Interface.objects.create(server_id="nas", name="never")
    rows = top(all_interfaces(), now, now + timedelta(minutes=1), limit=2)
    assert [(row.rank, row.interface, row.rx_bytes, row.tx_bytes) for row in rows] == [
        (1, "eth0", 0, 300),
        (2, "eth1", 300, 0),
    ]


def test_totals_are_of_this_day_this_month_and_all_time_also_after_merging(store, interface, now):
    for day in range(0, 61, 5):
        store(86_400 * day, network_interfaces=[interface(rx_bytes=day)])
    later = now + timedelta(days=60)  # 30 April, 06:30: of a byte a day
    before = totals(all_interfaces(), UTC_ZONE, now=later)
    (of_eth0,) = before.values()
    assert {name: passed.rx_bytes for name, passed in of_eth0.items()} == {"day": 1, "month": 30, "all": 60}
    tick(now=later)
    assert totals(all_interfaces(), UTC_ZONE, now=later) == before


def test_the_totals_of_an_interface_that_was_read_once_are_unknown(store, now):
    store(0)
    for _ in ("waiting", "merged"):
        (of_eth0,) = totals(all_interfaces(), UTC_ZONE, now=now + timedelta(days=60)).values()
        assert set(of_eth0.values()) == {(None, None)}
        tick(now=now + timedelta(days=60))
