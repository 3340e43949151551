"""Increases between any instants: out of hours, readings and the log, with one answer whichever it was."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from metrics.counters import COUNTERS, UNKNOWN
from metrics.increases import increases
from metrics.models import Chunk, Interface, to_ms
from metrics.readings import FEW_SERVERS
from metrics.seal import merge, prune, seal, tick
from servers.models import Server

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.fixture
def count(store: Callable[..., Any], interface: Callable[..., Any]) -> Callable[..., None]:
    """Store a heartbeat at each instant (seconds after Sunday, 06:30); eth0 has counted a byte a second."""

    def send(*seconds: int, rx_bytes: int | None = None, **changes: Any) -> None:
        for second in seconds:
            store(
                second,
                network_interfaces=[interface(rx_bytes=10**6 + second if rx_bytes is None else rx_bytes)],
                **changes,
            )

    return send


@pytest.fixture
def passed(now: datetime) -> Callable[..., list[int | None]]:
    """Return the bytes of eth0 between instants (seconds), null where nothing is known."""

    def ask(*seconds: float, name: str = "eth0") -> list[int | None]:
        start = to_ms(now)
        (buckets,) = increases(
            [Interface.objects.get(name=name)], [start + round(at * 1000) for at in seconds]
        ).values()
        return [
            increase if buckets.is_known(index) else None for index, increase in enumerate(buckets.sums["rx_bytes"])
        ]

    return ask


@pytest.fixture
def remembered(now: datetime) -> Callable[..., list[int]]:
    """Return the bytes of eth0 between instants (seconds), of what may be remembered."""

    def ask(*seconds: float) -> list[int]:
        interfaces = list(Interface.objects.with_revision())
        (buckets,) = increases(interfaces, [to_ms(now) + round(at * 1000) for at in seconds]).values()
        return buckets.sums["rx_bytes"]

    return ask


def test_of_no_interface_or_no_bucket_nothing_is_known(count, now):
    count(0, 60)
    assert increases([], [0, 1]) == {}
    (buckets,) = increases(list(Interface.objects.all()), [to_ms(now)]).values()
    assert buckets.marks == []


def test_before_the_first_and_after_the_last_reading_nothing_is_known(count, passed):
    count(0, 60)
    assert passed(-60, 0, 60, 120) == [None, 60, None]


def test_a_reading_belongs_to_its_own_interface_and_server(store, interface, passed):
    for second in (0, 60):
        store(second, network_interfaces=[interface("eth0", rx_bytes=second), interface("eth1", rx_bytes=7 * second)])
        store(second, server_id="pi", network_interfaces=[interface("wlan0", rx_bytes=100 * second)])
    assert [passed(0, 60, name=name) for name in ("eth0", "eth1", "wlan0")] == [[60], [420], [6000]]


@pytest.mark.parametrize(
    "edges",
    [
        [0, 2 * HOUR, 10 * HOUR],
        [1800, 1800 + HOUR, 1800 + 2 * HOUR, 1800 + 3 * HOUR],  # whole hours, of 07:00
        [1, 7 * HOUR + 13, 19 * HOUR + 0.001],
        [-DAY, 6 * HOUR, 12 * HOUR, 3 * DAY],
        [HOUR, HOUR + 1, HOUR + 3],
    ],
)
def test_the_answer_is_the_same_before_and_after_sealing_and_merging(count, passed, now, edges):
    count(*range(0, 20 * HOUR, 700))
    before = passed(*edges)
    seal("nas", now=now + timedelta(hours=11))
    assert passed(*edges) == before
    seal("nas", now=now + timedelta(days=2))
    assert passed(*edges) == before
    merge(now=now + timedelta(days=30))
    assert passed(*edges) == before


def test_days_that_begin_on_the_half_hour_are_the_same_from_hours_as_from_readings(count, passed, now):
    for second in range(0, 7 * DAY, 1800):
        count(second + 600, rx_bytes=second**2)
    midnights = [12 * HOUR + day * DAY for day in range(6)]  # in Asia/Kolkata
    edges = [0, *midnights, midnights[-1] + 7 * HOUR + 1800]
    before = passed(*edges)
    seal("nas", now=now + timedelta(days=9))
    assert passed(*edges) == before


def test_what_waits_in_the_log_counts_beside_what_is_sealed(count, passed, now):
    count(0, HOUR)
    seal("nas", now=now + timedelta(hours=2))
    count(2 * HOUR)
    assert passed(0, 2 * HOUR) == [2 * HOUR]
    assert passed(0, 1800 + HOUR, 2 * HOUR) == [1800 + HOUR, 1800]


def test_what_comes_late_into_the_log_changes_the_hours_that_are_sealed(count, passed, now):
    count(0, 2 * HOUR, 5 * HOUR)
    seal("nas", now=now + timedelta(hours=6))
    count(HOUR, rx_bytes=10**6 + 2 * HOUR)
    assert passed(-1800, HOUR, 5 * HOUR) == [2 * HOUR, 3 * HOUR]


def test_a_reading_that_was_sealed_and_comes_again_counts_once(count, passed, now):
    count(0, HOUR, 2 * HOUR)
    seal("nas", now=now + timedelta(hours=3))
    count(HOUR)
    assert passed(-1800, 5 * HOUR) == [2 * HOUR]


@pytest.mark.parametrize("merged", [False, True])
def test_the_reading_before_a_window_may_be_weeks_back(count, passed, now, merged):
    count(0, 25 * DAY, 25 * DAY + HOUR)
    tick(now=now + timedelta(days=25, hours=2)) if merged else seal("nas", now=now + timedelta(days=60))
    assert passed(25 * DAY - 60, 25 * DAY) == [60]
    assert passed(10 * DAY, 11 * DAY) == [DAY]


def test_the_reading_before_a_week_that_begins_with_a_gap_is_in_the_week_before(count, passed, now):
    count(0, 4 * DAY)  # Sunday and Thursday
    tick(now=now + timedelta(days=60))
    assert Chunk.objects.filter(days=7).count() == 2
    assert passed(3 * DAY, 3 * DAY + 60) == [60]  # Wednesday: the week's own readings all come later


def test_a_window_between_a_sealed_reading_and_one_that_waits(count, passed, now):
    count(0)
    seal("nas", now=now + timedelta(hours=1))
    count(30 * DAY)
    assert passed(10 * DAY, 10 * DAY + 60) == [60]
    assert passed(0, 10 * DAY, 20 * DAY) == [10 * DAY, 10 * DAY]


def test_an_optional_counter_is_unknown_where_it_was_not_reported(store, interface, now):
    for second, errors in ((0, 5), (HOUR, 7), (2 * HOUR, ...), (3 * HOUR, 9)):
        store(second, network_interfaces=[interface(rx_errors=errors) if errors != ... else interface()])
    edges = [to_ms(now + timedelta(hours=hour)) for hour in range(4)]
    for _ in ("before", "after"):
        (buckets,) = increases(list(Interface.objects.all()), edges).values()
        assert buckets.sums["rx_errors"] == [2, UNKNOWN, UNKNOWN]
        seal("nas", now=now + timedelta(days=1))


def test_a_window_of_pruned_hours_counts_them_whole(count, passed, now, settings):
    settings.RETENTION_READINGS_DAYS = 10
    count(*range(0, 3 * HOUR, MINUTE))
    tick(now=now + timedelta(days=30))
    assert Chunk.objects.get().readings is None
    assert passed(-1800, 1800, 1800 + HOUR, 1800 + 2 * HOUR) == [1800, 3600, 3600]
    assert passed(1800, 1800 + HOUR) == [3600]


def test_a_window_over_pruned_and_kept_readings_counts_both(count, passed, now, settings):
    count(*range(0, 20 * DAY, HOUR))
    tick(now=now + timedelta(days=30))
    whole = passed(-1800, 21 * DAY), passed(-1800, DAY - 1800, 12 * DAY, 20 * DAY)
    settings.RETENTION_READINGS_DAYS = 10
    prune(now=now + timedelta(days=30))
    assert {chunk.readings is None for chunk in Chunk.objects.all()} == {True, False}
    assert (passed(-1800, 21 * DAY), passed(-1800, DAY - 1800, 12 * DAY, 20 * DAY)) == whole


def test_months_by_day_take_as_many_queries_as_a_week(count, now, django_assert_max_num_queries):
    count(*range(0, 100 * DAY, DAY), interval=86400)
    tick(now=now + timedelta(days=120))
    midnight, interfaces = to_ms(now) // (DAY * 1000) * DAY * 1000, list(Interface.objects.all())
    for days in (7, 100):
        instants = [midnight + day * DAY * 1000 for day in range(days + 1)]
        with django_assert_max_num_queries(2):
            increases(interfaces, instants, COUNTERS[:2])


# What is remembered


def test_a_new_heartbeat_is_in_the_next_answer(count, passed, remembered):
    count(0, HOUR)
    assert remembered(0, 3 * HOUR) == [HOUR]
    count(2 * HOUR)
    assert remembered(0, 3 * HOUR) == passed(0, 3 * HOUR) == [2 * HOUR]


def test_what_was_remembered_serves_another_window_and_another_state_of_sealing(count, remembered, now):
    count(*range(0, 40 * HOUR, 700))
    whole = remembered(0, 10 * HOUR, 30 * HOUR)
    seal("nas", now=now + timedelta(hours=20))
    assert remembered(0, 10 * HOUR, 30 * HOUR) == whole
    assert remembered(1, 7 * HOUR + 1) == [7 * HOUR]
    merge(now=now + timedelta(days=60))
    assert remembered(60, 120, 180) == [60, 60]


def test_pruning_leaves_no_window_without_its_hours(count, remembered, now, settings):
    settings.RETENTION_READINGS_DAYS = 10
    count(*range(0, 20 * HOUR, MINUTE))
    seal("nas", now=now + timedelta(days=1))
    assert remembered(-1800, 9 * HOUR + 1800) == [9 * HOUR + 1800]
    tick(now=now + timedelta(days=30))
    assert remembered(0, 9 * HOUR) == [900 + 8 * HOUR + 1800]  # of the hour that is cut, a share in proportion


def test_a_chart_of_readings_that_are_pruned_hides_none_that_is_kept(count, remembered, now, settings):
    settings.RETENTION_READINGS_DAYS = 10
    for day in (0, 4, 30):
        count(*range(day * DAY, day * DAY + 2 * HOUR, MINUTE))
    tick(now=now + timedelta(days=31))
    remembered(*range(0, 5 * HOUR, 900))
    assert sum(remembered(*range(30 * DAY, 30 * DAY + HOUR + 1, 900))) == HOUR


# Two boots at once: a cloned machine


@pytest.fixture
def two_boots(count):
    """Boot 1 counts 100 bytes a minute on even minutes, boot 2, which started at instant 0, 7 on odd ones."""

    def send(*minutes: int) -> None:
        for minute in minutes:
            up = 60.0 * minute
            if minute % 2:
                count(60 * minute, rx_bytes=7 * minute, boot_id="boot-2", uptime=up, sent_uptime=up)
            else:
                count(60 * minute, rx_bytes=10**6 + 100 * minute)

    return send


def test_two_boots_at_once_are_added_and_none_is_counted_twice(two_boots, passed, now):
    two_boots(*range(10))
    assert passed(-1800, 1800) == [800 + 9 * 7]
    seal("nas", now=now + timedelta(days=1))
    assert passed(-1800, 1800) == [800 + 9 * 7]


def test_a_clone_that_comes_late_after_sealing_is_added(two_boots, passed, now):
    two_boots(0, 2, 4, 6, 8)
    seal("nas", now=now + timedelta(days=1))
    two_boots(1, 3, 5, 7, 9)
    seal("nas", now=now + timedelta(days=1))
    assert passed(-1800, 1800) == [800 + 9 * 7]


def test_a_window_cut_between_two_boots_sees_both(two_boots, passed):
    two_boots(2, 4, 5, 6)  # boot 2 begins at minute 5
    assert passed(240, 300) == [100 + 35]


def test_a_window_in_which_only_one_of_two_boots_speaks_counts_both(two_boots, passed, now):
    two_boots(0, 1, 2, 4, 6, 7, 8)
    assert passed(240, 360) == [200 + 14]
    seal("nas", now=now + timedelta(days=1))
    assert passed(240, 360) == [200 + 14]


def test_a_window_that_begins_with_one_boot_knows_the_other_boots_reading_before_it(two_boots, passed):
    two_boots(1, 2, 3, 4)
    assert passed(180, 240) == [100]


def test_the_readings_before_two_boots_are_looked_up_for_all_interfaces_at_once(store, interface, now):
    def beat(minute: int, **changes: Any) -> None:
        up = 60.0 * minute
        readings = [interface(f"eth{number}", rx_bytes=10**6 + minute) for number in range(6)]
        store(60 * minute, uptime=up, sent_uptime=up, network_interfaces=readings, **changes)

    for minute in range(1, 60):
        beat(minute, **({"boot_id": "boot-2"} if minute % 30 == 5 else {}))
    beat(25 * 60)
    beat(25 * 60 + 1, boot_id="boot-2")
    tick(now=now + timedelta(days=2))
    start, taken = to_ms(now + timedelta(hours=25, seconds=30)), []
    for interfaces in (list(Interface.objects.all()[:1]), list(Interface.objects.all())):
        with CaptureQueriesContext(connection) as captured:
            found = increases(interfaces, [start, start + 60_000])
        taken.append(len(captured))
        assert {tuple(of.sums["rx_bytes"]) for of in found.values()} == {
            (1,)
        }  # half a minute of 1466 bytes in as many minutes
    assert taken[0] == taken[1]


def test_two_boots_are_sealed_right_over_midnight(count, passed, now):
    evening = 17 * HOUR + 1800 - 120  # 23:58
    count(evening, evening + 60)
    up = {"boot_id": "boot-2", "uptime": 9e4, "sent_uptime": 9e4}
    count(evening + 30, rx_bytes=500, **up)
    count(evening + 180, evening + 240)
    count(evening + 270, rx_bytes=740, **{**up, "uptime": 9e4 + 240, "sent_uptime": 9e4 + 240})
    before = passed(evening + 60, evening + 120, evening + 180)
    seal("nas", now=now + timedelta(days=2))
    assert passed(evening + 60, evening + 120, evening + 180) == before == [60 + 60, 60 + 60]


def test_a_server_that_is_deleted_and_comes_again_is_not_taken_for_the_one_before(
    count, remembered, django_capture_on_commit_callbacks
):
    count(0, 60)
    assert remembered(0, 60) == [60]
    with django_capture_on_commit_callbacks(execute=True):
        Server.objects.get().delete()
    count(0, rx_bytes=0)
    count(60, rx_bytes=7)
    assert remembered(0, 60) == [7]


def test_a_new_day_that_is_sealed_since_the_interfaces_were_read_leaves_no_hole(count, now):
    midnight = 17 * HOUR + HOUR // 2
    count(*range(midnight - HOUR, midnight, 60))
    seal("nas", now=now + timedelta(seconds=midnight))
    for second in range(0, 62 * MINUTE, 60):
        count(midnight + second, rx_bytes=10**6 + midnight + second * second // 60)
    interfaces = list(Interface.objects.with_revision())
    seal("nas", now=now + timedelta(seconds=midnight + HOUR))
    window = [to_ms(now) + 1000 * (midnight + minute * MINUTE) for minute in (20, 30)]
    for known in (interfaces, list(Interface.objects.with_revision())):
        (buckets,) = increases(known, window).values()
        assert buckets.sums["rx_bytes"] == [(30 * 30 - 20 * 20) * 60]


def test_hours_of_many_servers_are_not_kept_over_a_seal(store, interface, now):
    def count(*minutes):
        for minute in minutes:
            for number in range(FEW_SERVERS + 1):
                reading = interface(rx_bytes=60 * minute)
                store(minute * MINUTE, server_id=f"pi-{number}", network_interfaces=[reading])

    def ask(start, end):
        window = [to_ms(now) + 1000 * MINUTE * minute for minute in (start, end)]
        return {
            buckets.sums["rx_bytes"][0]
            for buckets in increases(list(Interface.objects.with_revision()), window).values()
        }

    count(*range(60))
    tick(now=now + timedelta(hours=1))
    count(*range(60, 120))
    assert ask(-210, -30) == {0}
    tick(now=now + timedelta(hours=2))
    assert ask(-30, 150) == {119 * 60}
