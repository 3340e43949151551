"""Sealing, merging and pruning are repeatable: twice, at once or cut off anywhere, they leave the same chunks."""

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from metrics.counters import GAP
from metrics.history import usage
from metrics.increases import increases
from metrics.models import HOUR_MS, Chunk, Heartbeat, Interface, to_ms
from metrics.periods import parse_step
from metrics.seal import _seal_a_part, merge, prune, seal, tick

pytestmark = pytest.mark.django_db

KILLS = int(os.environ.get("KILLS", "8"))
ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)  # instant 0 of `store`, a Sunday
MINUTE, HOUR, DAY = 60, 3600, 86400
LATER = NOW + timedelta(days=60)


@pytest.fixture
def count(store: Callable[..., Any], interface: Callable[..., Any]) -> Callable[..., None]:
    """Store a heartbeat of `nas` at each instant (seconds), at which eth0 has counted `rx_bytes`: a byte a second."""

    def send(*seconds: int, rx_bytes: int | None = None, **changes: Any) -> None:
        for second in seconds:
            counted = 10**6 + second if rx_bytes is None else rx_bytes
            store(second, network_interfaces=[interface(rx_bytes=counted)], **changes)

    return send


def contents() -> dict[tuple[str, date], Any]:
    """What the chunks hold, unpacked; boots by the order in which they were first seen."""
    found, boots = {}, []
    for chunk in Chunk.objects.select_related("interface").order_by("start", "interface__name"):
        readings = chunk.get_readings()
        boots += sorted(set(readings["boot"]) - set(boots))
        readings["boot"] = [boots.index(boot) for boot in readings["boot"]]
        found[chunk.interface.name, chunk.start] = (chunk.days, readings, chunk.get_hours())
    return found


def hours(start: datetime = NOW, count: int = 3) -> list[int]:
    """Bytes of eth0 in each UTC hour, from the one that `start` lies in."""
    first = to_ms(start) // HOUR_MS * HOUR_MS
    instants = [first + index * HOUR_MS for index in range(count + 1)]
    (eth0,) = increases([Interface.objects.get(name="eth0")], instants).values()
    return eth0.sums["rx_bytes"]


def settled() -> list[int]:
    """The hours of the chunks alone, all in one list."""
    return [value for chunk in Chunk.objects.order_by("start") for value in chunk.get_hours().sums["rx_bytes"] if value]


# Seal


def test_a_backlog_is_sealed_in_parts_of_whole_hours_that_come_to_the_same(count, monkeypatch: pytest.MonkeyPatch):
    backlog = [*range(0, 5 * HOUR, 10 * MINUTE), 4 * DAY]
    count(*backlog)
    seal("nas", now=LATER)
    whole = contents()
    Chunk.objects.all().delete()
    Interface.objects.update(sealed_until=None)
    Heartbeat.objects.all().delete()
    count(*backlog)
    monkeypatch.setattr("metrics.seal.AT_ONCE", 1)
    parts = []
    while sealed := _seal_a_part("nas", LATER):
        parts.append(sealed)
    assert parts == [3, 6, 6, 6, 6, 3, 1]
    assert contents() == whole


def test_completed_hours_are_sealed_and_the_running_one_waits(count):
    count(*range(0, 2 * HOUR, 10 * MINUTE))  # from 06:30
    assert seal("nas", now=NOW + timedelta(hours=1, minutes=50)) == 9
    assert Heartbeat.objects.count() == 3
    (chunk,) = Chunk.objects.all()
    assert (chunk.start, chunk.days, chunk.count) == (date(2026, 3, 1), 1, 9)
    assert (chunk.first_at, chunk.last_at) == (NOW, NOW + timedelta(minutes=80))


def test_an_hour_that_is_not_over_is_left_alone(count):
    count(0, 60)
    assert seal("nas", now=NOW + timedelta(minutes=29)) == 0
    assert not Chunk.objects.exists()


def test_sealing_twice_changes_nothing(count):
    count(*range(0, 3 * HOUR, 600))
    seal("nas", now=LATER)
    before = contents()
    assert seal("nas", now=LATER) == 0
    assert contents() == before


def test_heartbeats_that_come_again_after_sealing_change_nothing(count):
    count(*range(0, 3 * HOUR, 600))
    seal("nas", now=LATER)
    before = contents()
    count(*range(0, 3 * HOUR, 1200))
    seal("nas", now=LATER)
    assert contents() == before


def test_each_day_and_interface_has_its_chunk(store, interface):
    for second in (0, HOUR, DAY, DAY + HOUR):
        store(second, network_interfaces=[interface("eth0"), interface("eth1")])
    seal("nas", now=LATER)
    assert Chunk.objects.filter(count=2).count() == 4


def test_each_interface_more_takes_one_query_more_which_writes_its_chunk(store, interface):
    asked = []
    for server, count in (("nas", 1), ("router", 8)):
        for second in (0, 60):
            interfaces = [interface(f"eth{number}") for number in range(count)]
            store(second, server_id=server, network_interfaces=interfaces)
        with CaptureQueriesContext(connection) as queries:
            assert seal(server, now=LATER) == 2
        asked.append(len(queries))
    assert asked[1] - asked[0] == 7


def test_the_totals_of_a_chunk_are_those_of_its_hours(count):
    count(*range(0, HOUR, MINUTE))
    count(HOUR, rx_bytes=40, boot_id="boot-2", uptime=20.0, sent_uptime=20.0)
    seal("nas", now=LATER)
    (chunk,) = Chunk.objects.all()
    assert (chunk.rx_bytes, chunk.tx_bytes, chunk.covered_seconds, chunk.resets) == (
        59 * MINUTE + 40,
        0,
        59 * MINUTE,
        1,
    )


def test_a_heartbeat_without_interfaces_is_sealed_away(store):
    store(0, network_interfaces=[])
    store(60, network_interfaces=...)
    assert seal("nas", now=LATER) == 2
    assert not Chunk.objects.exists()


def test_an_interface_remembers_its_newest_sealed_reading(count):
    count(HOUR)
    seal("nas", now=LATER)
    count(0)
    seal("nas", now=LATER)
    assert Interface.objects.get().sealed_until == NOW + timedelta(hours=1)


def test_a_server_that_has_been_silent_for_a_week_is_sealed_too(count):
    count(0, 60, 120)
    done = tick(now=NOW + timedelta(days=7))
    assert done["sealed"] == 3
    assert not Heartbeat.objects.exists()
    assert settled() == [120]


# Late


def in_order_and(late: list[int], count: Callable[..., None], instants: range, *, merged: bool) -> tuple[Any, Any]:
    """What the chunks hold when all came in order, and when `late` came after the others were sealed."""

    def run(*parts: list[int]) -> Any:
        with transaction.atomic():
            for part in parts:
                count(*part)
                seal("nas", now=LATER)
                if merged:
                    merge(now=LATER)
            found = contents()
            transaction.set_rollback(True)
        return found

    return run(list(instants)), run([instant for instant in instants if instant not in late], late)


@pytest.mark.parametrize("merged", [False, True], ids=["into a day", "into a week"])
@pytest.mark.parametrize(
    "late",
    [
        [2 * HOUR],
        [0],
        [59 * HOUR],
        [17 * HOUR, 18 * HOUR],  # around midnight
        [17 * HOUR + 1800, *range(18 * HOUR, 41 * HOUR, 1800)],  # a whole day
        [random.Random(7).randrange(120) * 1800 for _ in range(40)],
    ],
    ids=["in the middle", "the first", "near the end", "midnight", "a day", "many"],
)
def test_a_late_reading_leaves_what_it_would_have_left_in_time(count, late, merged):
    in_order, after_sealing = in_order_and(late, count, range(0, 60 * HOUR, 1800), merged=merged)
    assert after_sealing == in_order


def test_a_late_reading_changes_the_hour_of_the_reading_after_it(count):
    count(0, 2 * HOUR)  # 06:30 and 08:30: 7200 bytes, in proportion 1800, 3600, 1800
    seal("nas", now=LATER)
    assert settled() == [1800, 3600, 1800]
    count(HOUR, rx_bytes=10**6 + 7000)  # nearly all of them before 07:30
    seal("nas", now=LATER)
    assert settled() == [3500, 3500 + 100, 100]


def test_a_late_reading_changes_the_first_hour_of_the_next_week(count):
    count(17 * HOUR, 18 * HOUR)  # Sunday 23:30 and Monday 00:30
    seal("nas", now=LATER)
    merge(now=LATER)
    assert settled() == [1800, 1800]
    count(17 * HOUR + 1200, rx_bytes=10**6 + 17 * HOUR)  # nothing before 23:50
    seal("nas", now=LATER)
    assert settled() == [900, 2700]
    assert set(Chunk.objects.values_list("days", flat=True)) == {7}


def test_a_reading_before_all_others_gives_the_first_one_a_predecessor(count):
    count(HOUR)
    seal("nas", now=LATER)
    assert settled() == []
    count(0)
    seal("nas", now=LATER)
    assert settled() == [1800, 1800]


# Gaps


def test_a_gap_over_weeks_is_shared_out_over_all_its_hours(count):
    count(0, 30 * DAY)
    seal("nas", now=LATER)
    assert sum(settled()) == 30 * DAY
    assert len(settled()) == 30 * 24 + 1
    assert {mark for chunk in Chunk.objects.all() for mark in chunk.get_hours().marks} == {0, GAP}


def test_a_late_reading_in_a_gap_over_merged_weeks_divides_it(count):
    count(0, 30 * DAY)
    seal("nas", now=LATER)
    merge(now=LATER)
    count(15 * DAY, rx_bytes=10**6 + 30 * DAY)
    seal("nas", now=LATER)
    assert sum(settled()) == 30 * DAY
    assert len(settled()) == 15 * 24 + 1  # all of it in the first half


def test_a_week_that_begins_in_a_gap_knows_the_reading_before_it(count):
    count(0, 4 * DAY)  # Sunday, and Thursday of the next week
    seal("nas", now=LATER)
    merge(now=LATER)
    whole = contents()
    count(4 * DAY - HOUR, rx_bytes=10**6 + 4 * DAY)
    seal("nas", now=LATER)
    assert sum(settled()) == 4 * DAY
    assert contents().keys() == whole.keys()


# Merge


def test_a_week_is_merged_two_days_after_it_is_over(count):
    count(*range(18 * HOUR, 18 * HOUR + 7 * DAY, 6 * HOUR))  # Monday 00:30 to Sunday
    seal("nas", now=LATER)
    readings = [reading for chunk in Chunk.objects.all() for reading in chunk.get_readings()["rx_bytes"]]
    before = settled()
    assert merge(now=datetime(2026, 3, 10, 23, 59, tzinfo=UTC)) == 0
    assert merge(now=datetime(2026, 3, 11, 0, 0, tzinfo=UTC)) == 7
    (week,) = Chunk.objects.all()
    assert (week.start, week.days, week.count) == (date(2026, 3, 2), 7, 28)
    assert week.get_readings()["rx_bytes"] == readings
    assert settled() == before
    assert week.rx_bytes == sum(before)


def test_merging_twice_changes_nothing(count):
    count(*range(0, 20 * DAY, 5 * HOUR))
    seal("nas", now=LATER)
    merge(now=LATER)
    before = contents()
    assert merge(now=LATER) == 0
    assert contents() == before


def test_a_week_of_one_day_is_merged_too(count):
    count(0, 60)
    seal("nas", now=LATER)
    assert merge(now=LATER) == 1
    assert [(chunk.start, chunk.days) for chunk in Chunk.objects.all()] == [(date(2026, 2, 23), 7)]


def test_what_comes_late_into_a_merged_week_makes_no_day_chunk(count):
    count(0, 60)
    tick(now=LATER)
    count(-10 * MINUTE)
    tick(now=LATER)
    assert [(chunk.start, chunk.days, chunk.count) for chunk in Chunk.objects.all()] == [(date(2026, 2, 23), 7, 3)]


# Prune


def test_pruning_keeps_hours_and_totals(count, settings):
    settings.RETENTION_READINGS_DAYS = 30
    count(*range(0, 3 * HOUR, MINUTE))
    tick(now=NOW + timedelta(days=20))
    before, rows = hours(), monthly()
    assert prune(now=LATER) == 1
    assert Chunk.objects.get().get_readings()["at"] == []
    assert (hours(), monthly()) == (before, rows)
    assert prune(now=LATER) == 0


def test_a_pruned_hour_is_told_alone_as_among_others(count, settings):
    settings.RETENTION_READINGS_DAYS = 30
    count(*range(0, 3 * HOUR, MINUTE))
    tick(now=LATER)
    assert hours(NOW + timedelta(hours=1), 1) == [3600]


def test_readings_within_their_retention_are_kept(count, settings):
    settings.RETENTION_READINGS_DAYS = 30
    count(0, 60)
    assert tick(now=NOW + timedelta(days=30))["pruned"] == 0
    assert Chunk.objects.get().get_readings()["rx_bytes"] == [10**6, 10**6 + 60]


def test_what_follows_a_pruned_chunk_still_knows_the_reading_before_it(count, settings):
    count(0)
    tick(now=NOW + timedelta(days=20))
    settings.RETENTION_READINGS_DAYS = 30
    prune(now=LATER)
    count(20 * HOUR)
    seal("nas", now=LATER)
    assert sum(hours(NOW + timedelta(hours=18), 3)) == 2 * HOUR + 1800  # since Monday 00:00; before it is pruned


def test_what_follows_a_pruned_chunk_leaves_its_hours_as_they_are(count, settings):
    settings.RETENTION_READINGS_DAYS = 30
    count(*range(0, 3 * HOUR, MINUTE))
    tick(now=LATER)
    before = hours(count=4)
    count(20 * HOUR)
    seal("nas", now=LATER)
    assert hours(count=4) == before


def monthly() -> list[Any]:
    start = NOW - timedelta(minutes=30)  # on the hour: of an hour that is cut, a pruned one says only a share
    found = usage(list(Interface.objects.all()), start, LATER, parse_step("1month"), ZoneInfo("UTC"), by_server=False)
    return [(row.start, row.rx_bytes, row.covered_seconds, row.resets) for row in found]


# Interfaces that come and go


def test_two_hundred_veths_an_hour_leave_one_chunk_each_and_slow_no_later_tick(store, interface):
    def of_an_hour(hour: int) -> int:
        veths = [interface(f"veth{hour}-{number}", rx_bytes=hour, kind="veth") for number in range(200)]
        store(hour * HOUR, network_interfaces=[interface("eth0", rx_bytes=hour), *veths])
        store(hour * HOUR + 60, network_interfaces=[interface("eth0", rx_bytes=hour), *veths])
        with CaptureQueriesContext(connection) as captured:
            tick(now=NOW + timedelta(hours=hour + 1))
        return len(captured)

    first, *_, last = [of_an_hour(hour) for hour in range(4)]
    assert last <= first + 20
    assert Chunk.objects.exclude(interface__name="eth0").count() == 4 * 200
    assert Chunk.objects.filter(interface__name="eth0").count() == 1
    store(5 * HOUR, network_interfaces=[interface("eth0")])
    with CaptureQueriesContext(connection) as captured:
        tick(now=NOW + timedelta(hours=6))
    assert len(captured) < 40


# Cut off, and at once


class CutOff(Exception):
    pass


class CutOffAt:
    """Raise instead of executing the n-th statement; 0: execute them all."""

    def __init__(self, statement: int) -> None:
        self.left = statement

    def __call__(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        self.left -= "SAVEPOINT" not in sql
        if self.left == 0 and "SAVEPOINT" not in sql:
            raise CutOff
        return execute(sql, *arguments)


def contents_after(count: Callable[..., None], *parts: list[int], cut_off_at: int) -> tuple[Any, bool]:
    """What the chunks hold after the last part's tick was cut off and run again, and whether it was."""
    with transaction.atomic():
        for part in parts[:-1]:
            count(*part)
            tick(now=LATER)
        count(*parts[-1])
        cut = CutOffAt(cut_off_at)
        with connection.execute_wrapper(cut), suppress(CutOff):
            tick(now=LATER)
        tick(now=LATER)
        found = contents()
        transaction.set_rollback(True)
    return found, cut.left <= 0


SPARSE = [0, 1800, 17 * HOUR, 18 * HOUR]


@pytest.mark.parametrize("parts", [[SPARSE], [SPARSE, [3000, 17 * HOUR + 2400]]], ids=["in time", "late"])
def test_a_tick_cut_off_at_any_statement_and_run_again_leaves_the_same(count, parts):
    whole, _ = contents_after(count, *parts, cut_off_at=0)
    for statement in itertools.count(1):
        found, was_cut_off = contents_after(count, *parts, cut_off_at=statement)
        if not was_cut_off:
            break
        assert found == whole
    assert statement > 25


@pytest.mark.django_db(transaction=True)
def test_two_ticks_at_once_leave_what_one_leaves(count):
    count(*range(0, 12 * DAY, 3 * HOUR))
    barrier = Barrier(2)

    def run(_: int) -> None:
        barrier.wait()
        tick(now=LATER)
        connection.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert not Heartbeat.objects.exists()
    assert sum(settled()) == 12 * DAY - 3 * HOUR
    assert sum(Chunk.objects.values_list("count", flat=True)) == 12 * 8
    assert set(Chunk.objects.values_list("days", flat=True)) == {7}


A_HUB = """
import sys, django
django.setup()
from datetime import UTC, datetime, timedelta
from metrics.ingest import Report, ingest
from metrics.models import Chunk, Heartbeat
from metrics.seal import tick
start, what = datetime(2026, 3, 1, 6, 30, tzinfo=UTC), sys.argv[1]
if what == "fill":
    counters = {"tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "is_up": True}
    for hour in range(24 * 12):
        at = start + timedelta(hours=hour)
        interfaces = [{"name": f"eth{number}", "rx_bytes": 3600 * hour, **counters} for number in range(3)]
        ingest(Report("nas", "nas", at, network_interfaces=interfaces), may_register=True, now=at)
print("ready", flush=True)
if what == "tick":
    tick(now=start + timedelta(days=60))
print(Heartbeat.objects.count(), sum(Chunk.objects.values_list("rx_bytes", flat=True)),
      sum(Chunk.objects.values_list("count", flat=True)))
"""


@pytest.mark.slow
def test_a_tick_killed_at_random_moments_leaves_the_totals_of_one_that_was_not(tmp_path):
    data = {"HOMELAB_DATA_DIR": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path / 'homelab.sqlite3'}"}
    environment = {**os.environ, **data, "DJANGO_SETTINGS_MODULE": "homelab.settings"}

    def hub(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", A_HUB, what]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
    hub("fill").communicate()
    for _ in range(KILLS):
        with hub("tick") as process:
            time.sleep(random.uniform(0, 0.3))
            process.kill()
    said, _ = hub("tick").communicate()
    assert said.split() == ["0", str(3 * 3600 * (24 * 12 - 1)), str(3 * 24 * 12)]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL scans what is small, index or not")
def test_a_tick_finds_what_is_due_among_the_chunks_without_a_look_at_all_of_them(count, settings):
    settings.RETENTION_HOURS_DAYS = 365
    count(*range(0, 3 * HOUR, 10 * MINUTE))
    seal("nas", now=LATER)
    with CaptureQueriesContext(connection) as captured, connection.cursor() as cursor:
        tick(now=LATER)
        looked = [query["sql"] for query in captured if 'FROM "metrics_chunk"' in query["sql"]]
        plans = [cursor.execute(f"EXPLAIN QUERY PLAN {query}").fetchall() for query in looked]
    assert len(plans) >= 3
    assert [step for plan in plans for *_, step in plan if step.startswith("SCAN metrics_chunk")] == []
