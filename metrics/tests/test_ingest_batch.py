"""Many heartbeats in one transaction: the same as one after another, and sealed ones are known again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics import seal
from metrics.ingest import Receipt, Report, TooOld, UnknownServer, ingest, ingest_batch
from metrics.models import Chunk, Event, Heartbeat, Interface
from servers.models import Boot, Server, Snapshot

NOW = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def link(name: str = "eth0", rx_bytes: int = 0, **changes: Any) -> dict[str, Any]:
    counters = {"rx_bytes": rx_bytes, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0}
    return {"name": name, **counters, "is_up": True, **changes}


def report(minute: int, now: datetime = NOW, **changes: Any) -> Report:
    """What was read `minute` minutes after NOW, of a boot that is then up for 100,000 s more, and is sent at `now`."""
    uptime = 100_000.0 + 60 * minute
    sent = uptime + (now - NOW).total_seconds() - 60 * minute
    fields = {"boot_id": "boot-1", "uptime": uptime, "sent_uptime": sent, "network_interfaces": [link()], **changes}
    return Report("nas", "nas.lan", NOW + timedelta(minutes=minute), **fields)


def store(*reports: Report, now: datetime = NOW + HOUR, may_register: bool = True) -> list[str]:
    results = ingest_batch(reports, may_register=may_register, now=now)
    return [each.outcome.value if isinstance(each, Receipt) else type(each).__name__ for each in results]


def sent(*minutes: int, now: datetime = NOW + HOUR, **changes: Any) -> list[Report]:
    return [report(minute, now, **changes) for minute in minutes]


@pytest.fixture
def retention_of_ten_days(settings):
    settings.RETENTION_READINGS_DAYS = 10


def test_a_batch_is_stored_and_the_newest_is_the_latest(db: None):
    first, second = report(0, NOW + HOUR), report(1, NOW + HOUR, network_interfaces=[link(rx_bytes=6000)])
    assert store(first, second) == ["accepted", "accepted"]
    snapshot = Snapshot.objects.get()
    assert snapshot.collected_at == NOW + timedelta(minutes=1)
    assert snapshot.interface("eth0")["rx_rate"] == 100


def test_an_empty_batch_is_nothing(db: None):
    assert store() == []


def test_the_first_of_a_batch_registers_the_server(db: None):
    results = ingest_batch(sent(0, 1), may_register=True, now=NOW + HOUR)
    assert [result.server_registered for result in results] == [True, False]


def test_the_same_heartbeat_twice_in_a_batch_is_stored_once(db: None):
    assert store(*sent(0, 1, 0, 1)) == ["accepted", "accepted", "duplicate", "duplicate"]
    assert Heartbeat.objects.count() == 2


def test_a_batch_again_is_all_duplicates(db: None):
    store(*sent(0, 1, 2))
    assert store(*sent(2, 0, 3, 1)) == ["duplicate", "duplicate", "accepted", "duplicate"]


def test_a_backlog_leaves_the_newer_latest_alone(db: None):
    store(*sent(30))
    assert store(*sent(*range(30))) == ["accepted"] * 30
    assert Snapshot.objects.get().collected_at == NOW + timedelta(minutes=30)


def test_what_is_too_old_is_refused_alone(db: None, retention_of_ten_days):
    old = Report("nas", "nas.lan", NOW - timedelta(days=11))
    assert store(report(0, NOW + HOUR), old, report(1, NOW + HOUR)) == ["accepted", "TooOld", "accepted"]
    assert Heartbeat.objects.count() == 2


def test_a_batch_of_which_all_is_too_old_leaves_nothing(db: None, retention_of_ten_days):
    old = Report("nas", "nas.lan", NOW - timedelta(days=11), boot_id="old", uptime=5.0)
    assert isinstance(ingest_batch([old], may_register=True, now=NOW)[0], Receipt)  # placed at receipt: no clock
    Boot.objects.update(started_at=NOW - timedelta(days=11))
    assert store(old, now=NOW) == [TooOld.__name__]
    assert Heartbeat.objects.count() == 1


def test_several_servers_in_a_batch_are_kept_apart(db: None):
    ours, other = report(0, NOW + HOUR), Report("pi", "pi.lan", NOW, network_interfaces=[link("wlan0")])
    assert store(ours, other, ours) == ["accepted", "accepted", "duplicate"]
    assert set(Interface.objects.values_list("server_id", "name")) == {("nas", "eth0"), ("pi", "wlan0")}


def test_an_unknown_server_is_refused_and_the_known_one_stored(server: Server):
    other = Report("pi", "pi.lan", NOW)
    assert store(other, report(0, NOW + HOUR), may_register=False) == [UnknownServer.__name__, "accepted"]
    assert list(Server.objects.values_list("id", flat=True)) == ["nas"]


def test_a_boot_that_moves_within_a_batch_still_knows_its_heartbeats(db: None):
    late = report(2, NOW + HOUR, sent_uptime=100_000.0 + 3600 - 40)  # the start is 40 s later than was thought
    assert store(*sent(0, 1), late) == ["accepted"] * 3
    assert store(*sent(0, 1, 2)) == ["duplicate"] * 3


def test_new_interfaces_of_a_batch_are_made_once_with_the_best_speed(db: None):
    speeds = [[link(speed_mbps=100)], [link(speed_mbps=1000), link("eth1")], [link(speed_mbps=10)]]
    store(*(report(minute, NOW + HOUR, network_interfaces=links) for minute, links in enumerate(speeds)))
    first, second = Interface.objects.order_by("name")
    assert (first.speed_mbps, first.best_speed_mbps, first.first_seen_at) == (10, 1000, NOW)
    assert second.first_seen_at == NOW + timedelta(minutes=1)


@pytest.mark.parametrize("count", [2, 60])
def test_a_batch_takes_as_many_queries_as_one_heartbeat(db: None, count: int):
    store(*sent(0))
    with CaptureQueriesContext(connection) as one:
        store(*sent(1))
    with CaptureQueriesContext(connection) as many:
        store(*sent(*range(2, 2 + count)))
    assert len(many) == len(one)


LINKS = [[], [link()], [link("eth1", 7, mac="a")], [link(rx_bytes=9000, speed_mbps=10), link("eth1")]]


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.sampled_from(LINKS)), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_does_what_its_heartbeats_do_one_after_another(db: None, steps):
    now = NOW + HOUR
    minutes = accumulate(minutes for minutes, _, _ in steps)
    reports = [
        report(
            minute,
            now,
            boot_id=boot,
            network_interfaces=links,
            os_info={"kernel": boot} if boot == "b" else None,
            interval=50.0 + minute,
        )
        for minute, (_, boot, links) in zip(minutes, steps, strict=True)
    ]
    together = left_by(lambda: ingest_batch(reports, may_register=True, now=now))
    alone = left_by(lambda: [ingest(each, may_register=True, now=now) for each in reports])
    assert together == alone


def left_by(work) -> Any:
    """Return what `work` answers and leaves in the database, and take it back."""
    with transaction.atomic():
        answer = work()
        boots = dict(Boot.objects.values_list("pk", "boot_id"))
        log = [(boots[each.boot_number], each.uptime_ms, each.readings) for each in Heartbeat.objects.all()]
        snapshots = list(Snapshot.objects.values())
        for snapshot in snapshots:
            snapshot["boot_id"] = boots[snapshot["boot_id"]]
        interfaces = [{**row, "id": None} for row in Interface.objects.order_by("name").values()]
        events = list(Event.objects.order_by("number").values_list("kind", "interface", "at", "before", "after"))
        servers = [{**row, "created_at": None} for row in Server.objects.values()]
        transaction.set_rollback(True)
    return answer, log, snapshots, interfaces, servers, events


# Sealed ones


def test_a_sealed_heartbeat_sent_again_is_a_duplicate(db: None):
    store(*sent(0, 1, 40))
    seal.tick(now=NOW + HOUR)
    assert Heartbeat.objects.count() == 1
    assert store(*sent(0, 1, 2, 40)) == ["duplicate", "duplicate", "accepted", "duplicate"]


def test_a_heartbeat_of_a_merged_week_sent_again_is_a_duplicate(db: None):
    store(*sent(0))
    seal.tick(now=NOW + timedelta(days=14))
    assert Chunk.objects.get().days == 7
    later = NOW + timedelta(days=14)
    assert store(*sent(0, 1, now=later), now=later) == ["duplicate", "accepted"]


def test_a_sealed_heartbeat_is_known_though_its_boots_start_has_moved(db: None):
    store(*sent(0, 1))
    seal.tick(now=NOW + HOUR)
    moved = NOW + HOUR + timedelta(seconds=40)
    assert store(*sent(70, now=NOW + 2 * HOUR), now=moved + HOUR) == ["accepted"]
    assert store(*sent(0, 1, now=NOW + 2 * HOUR), now=moved + HOUR) == ["duplicate", "duplicate"]


def test_a_sealed_heartbeat_without_boot_is_a_duplicate(db: None):
    bootless = [replace(each, boot_id="", uptime=None, sent_uptime=None) for each in sent(0, 1)]
    store(*bootless)
    seal.tick(now=NOW + HOUR)
    assert store(*bootless) == ["duplicate", "duplicate"]


def test_the_same_reading_of_another_boot_is_none(db: None):
    store(*sent(0))
    seal.tick(now=NOW + HOUR)
    assert store(*sent(0, boot_id="boot-2")) == ["accepted"]


def test_a_damaged_chunk_does_not_stop_heartbeats(db: None):
    store(*sent(0))
    seal.tick(now=NOW + HOUR)
    Chunk.objects.update(readings=b"damaged")
    assert store(*sent(0, 1)) == ["accepted", "accepted"]


def test_a_live_heartbeat_looks_at_no_chunk(db: None):
    store(*sent(0, 40))
    seal.tick(now=NOW + HOUR)
    with CaptureQueriesContext(connection) as captured:
        store(*sent(61, 62))
    assert not [query for query in captured.captured_queries if "chunk" in query["sql"]]
