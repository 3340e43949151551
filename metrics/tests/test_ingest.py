from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from django.db import connection

from metrics.ingest import Outcome, Receipt, TooNew, TooOld, UnknownServer, ingest
from metrics.models import Heartbeat, Interface
from metrics.serializers import parse_heartbeat
from servers.models import Boot, Server, Snapshot

ACCEPTED = Receipt(Outcome.ACCEPTED)
DUPLICATE = Receipt(Outcome.DUPLICATE)
BOOTLESS = {"boot_id": ..., "uptime": ..., "sent_uptime": ...}
BACKLOG = {"sent_uptime": ...}  # an agent sends none for a heartbeat of an earlier boot


def seconds(*instants: datetime, now: datetime) -> list[float]:
    return [(instant - now).total_seconds() for instant in instants]


def stored(now: datetime) -> list[float]:
    return seconds(*Heartbeat.objects.order_by("collected_at").values_list("collected_at", flat=True), now=now)


def rates(name: str = "eth0") -> tuple[float | None, float | None]:
    interface = Snapshot.objects.get().interface(name)
    return interface["rx_rate"], interface["tx_rate"]


# Stored once


def test_a_heartbeat_of_an_unknown_server_registers_it_once(store):
    assert store(0) == Receipt(Outcome.ACCEPTED, server_registered=True)
    assert store(60) == ACCEPTED
    assert Server.objects.get().hostname == "nas.home.arpa"


def test_an_unknown_server_without_the_right_to_register_stores_nothing(db: None, heartbeat, now):
    with pytest.raises(UnknownServer):
        ingest(parse_heartbeat(heartbeat()), may_register=False, now=now)
    assert not Server.objects.exists()
    assert not Heartbeat.objects.exists()


def test_a_known_server_that_never_spoke_is_not_registered_again(server: Server, store):
    assert store(0) == ACCEPTED
    assert Snapshot.objects.get().server == server


def test_the_same_heartbeat_twice_is_a_duplicate_and_stored_once(store):
    store(0)
    assert store(0) == DUPLICATE
    assert Heartbeat.objects.count() == 1


def test_a_duplicate_changes_nothing_but_when_the_server_was_seen(store, interface, now):
    store(0, network_interfaces=[interface(rx_bytes=5)])
    before = Snapshot.objects.values().get()
    store(0, late=10, hostname="other", network_interfaces=[interface(rx_bytes=7)])
    assert Snapshot.objects.values().get() == {**before, "last_seen_at": now + timedelta(seconds=10)}
    assert Server.objects.get().hostname == "nas.home.arpa"


def test_a_duplicate_of_an_older_heartbeat_is_one_too(store):
    for instant in (0, 60, 120):
        store(instant)
    assert store(60, late=90) == DUPLICATE
    assert Heartbeat.objects.count() == 3


def test_two_servers_with_one_boot_id_are_kept_apart(store):
    store(0)
    assert store(0, server_id="clone") == Receipt(Outcome.ACCEPTED, server_registered=True)
    assert sorted(Heartbeat.objects.values_list("server_id", flat=True)) == ["clone", "nas"]


def test_readings_are_stored_as_they_were_sent(store, interface):
    store(0, network_interfaces=[interface("eth0", 2**63 - 1, 5), interface("=1+1", rx_errors=3, speed_mbps=1000)])
    readings = dict(Heartbeat.objects.get().unpack())
    assert list(readings) == ["eth0", "=1+1"]
    assert readings["eth0"].counters == (2**63 - 1, 5, 0, 0, -1, -1, -1, -1)
    assert (readings["=1+1"].rx_errors, readings["=1+1"].speed) == (3, 1000)


# Placed in time


def test_heartbeats_out_of_order_are_placed_where_they_belong(store, now):
    for instant, late in ((120, 0), (0, 150), (60, 100)):
        store(instant, late)
    assert stored(now) == [0, 60, 120]


def test_a_heartbeat_is_placed_by_its_boot_and_uptime(store, now):
    store(0)
    store(60, late=5, sent_uptime=1060.0)  # five seconds on the way
    assert stored(now) == [0, 60]


def test_a_retry_falls_on_the_same_instant(store, now):
    store(0)
    assert store(0, late=29, sent_uptime=1000.0) == DUPLICATE
    assert stored(now) == [0]


def test_a_start_off_by_less_than_30_s_stays(store, now):
    store(0)
    store(60, late=29.9, sent_uptime=1060.0)
    assert Boot.objects.get().started_at == now - timedelta(seconds=1000)


def test_a_start_off_by_more_than_30_s_moves(store, now):
    store(0)
    store(60, late=30.1, sent_uptime=1060.0)
    assert Boot.objects.get().started_at == now - timedelta(seconds=1000 - 30.1)
    assert stored(now) == [0, 90.1]


def test_a_heartbeat_sent_again_after_the_start_moved_is_a_duplicate(store, now):
    store(0)
    store(60, late=40, sent_uptime=1060.0)
    assert store(0, late=120) == DUPLICATE
    assert stored(now) == [0, 100]


@pytest.mark.parametrize("timestamp", ["2016-03-01T06:30:00Z", "2036-03-01T06:30:00Z"])
def test_a_clock_ten_years_off_does_not_matter_with_boot_and_uptime(store, now, timestamp: str):
    store(0, timestamp=timestamp)
    assert stored(now) == [0]
    off = now - datetime.fromisoformat(timestamp)
    assert Snapshot.objects.get().clock_skew_seconds == off.total_seconds()


def test_skew_is_measured_at_sending_and_not_at_collection(store, now):
    store(0, late=50, timestamp=(now - timedelta(seconds=3)).isoformat())
    assert Snapshot.objects.get().clock_skew_seconds == 3


def test_a_reboot_is_a_boot_of_its_own(store, now):
    store(0)
    store(60, boot_id="boot-2", uptime=10.0, sent_uptime=10.0)
    starts = Boot.objects.order_by("started_at").values_list("started_at", flat=True)
    assert seconds(*starts, now=now) == [-1000, 50]
    assert Snapshot.objects.get().boot.boot_id == "boot-2"


def test_a_boot_that_never_spoke_live_is_placed_by_the_agents_clock_and_marked(store, now):
    store(0, late=3600, **BACKLOG)
    assert stored(now) == [0]
    assert not Boot.objects.get().spoke_live


def test_a_boot_that_never_spoke_live_with_a_hopeless_clock_is_placed_at_receipt(store, now):
    store(0, **BACKLOG, timestamp="1970-01-01T00:00:10Z")
    assert stored(now) == [0]


def test_a_boot_that_speaks_live_at_last_is_placed_by_the_hub(store, now):
    store(0, **BACKLOG, timestamp="2026-02-01T06:30:00Z")
    store(60)
    boot = Boot.objects.get()
    assert boot.spoke_live
    assert boot.started_at == now - timedelta(seconds=1000)


def test_a_boot_that_speaks_live_where_it_was_placed_is_marked_no_more(store, now):
    store(0, **BACKLOG)
    store(60)
    assert Boot.objects.get().spoke_live
    assert stored(now) == [0, 60]


def test_an_agent_without_boot_is_placed_by_its_clock(store, now):
    store(0, late=20, **BOOTLESS)
    assert stored(now) == [0]
    assert not Boot.objects.exists()
    assert Snapshot.objects.get().clock_skew_seconds == 20


def test_an_agent_without_boot_is_stored_once_for_each_timestamp(store, now):
    assert [store(instant, **BOOTLESS).outcome for instant in (0, 60, 0)] == ["accepted", "accepted", "duplicate"]
    assert stored(now) == [0, 60]


@pytest.mark.parametrize(("ahead", "placed"), [(300, 300), (301, 0)])
def test_a_clock_more_than_five_minutes_ahead_is_not_believed(store, now, ahead: int, placed: int):
    store(0, **BOOTLESS, timestamp=(now + timedelta(seconds=ahead)).isoformat())
    assert stored(now) == [placed]


@pytest.mark.parametrize("fields", [BOOTLESS, BACKLOG], ids=["bootless", "backlog"])
def test_readings_older_than_the_retention_are_refused_and_leave_nothing(store, settings, now, fields):
    settings.RETENTION_READINGS_DAYS = 10
    old = {"timestamp": (now - timedelta(days=11)).isoformat()}
    store(0)
    Boot.objects.update(started_at=now - timedelta(days=11, seconds=1000))
    with pytest.raises(TooOld):
        store(0, now=now, **{"uptime": 1001.0, **fields, **old})
    assert Heartbeat.objects.count() == 1


def test_readings_that_are_too_old_register_no_server(store, settings, now):
    settings.RETENTION_READINGS_DAYS = 10
    with pytest.raises(TooOld):
        store(0, **BOOTLESS, timestamp=(now - timedelta(days=11)).isoformat())
    assert not Server.objects.exists()


@pytest.mark.parametrize(("uptime", "placed"), [(1300.0, 300), (1300.001, None), (10.0**10, None)])
def test_an_uptime_still_to_come_of_a_known_boot_is_refused(store, now, uptime: float, placed: int | None):
    store(0)
    if placed is None:
        with pytest.raises(TooNew):
            store(0, **BACKLOG, uptime=uptime)
    else:
        store(0, **BACKLOG, uptime=uptime)
    assert stored(now) == [0] if placed is None else [0, placed]
    assert Boot.objects.get().started_at == now - timedelta(seconds=1000)


def test_a_boot_that_was_placed_too_late_is_squeezed_and_loses_nothing(store, now):
    hopeless = {**BACKLOG, "timestamp": "1970-01-01T00:00:10Z"}
    for uptime in (1000.0, 1200.0, 8200.0, 10_000.0):
        store(0, **hopeless, uptime=uptime)
    assert stored(now) == [0, 200, 200.7, 200.88]


def test_a_boot_that_was_placed_too_late_is_squeezed_for_no_longer_than_the_retention(store, now):
    store(0, **BACKLOG)
    with pytest.raises(TooNew):
        store(0, **BACKLOG, uptime=1001.0 + 400 * 86_400)
    assert stored(now) == [0]


# The snapshot: the latest


def test_the_snapshot_keeps_what_the_agent_says_of_itself(store, golden, now):
    store(0, **{name: golden[name] for name in ("agent_version", "agent_stats", "os_info", "server_guid")})
    snapshot = Snapshot.objects.select_related("server").get()
    assert (snapshot.last_seen_at, snapshot.collected_at, snapshot.uptime_seconds) == (now, now, 1000)
    assert (snapshot.agent_version, snapshot.agent_stats["sent"]) == ("0.1.0", 20159)
    assert snapshot.server.os_info == golden["os_info"]
    assert str(snapshot.server.guid) == golden["server_guid"]


def test_the_newest_stays_in_the_snapshot_when_an_older_one_arrives_late(store, interface, now):
    store(60, network_interfaces=[interface(rx_bytes=7)])
    store(0, late=90, hostname="old", network_interfaces=[interface(rx_bytes=5), interface("gone")])
    snapshot = Snapshot.objects.select_related("server").get()
    assert [(known["name"], known["rx_bytes"]) for known in snapshot.network_interfaces] == [("eth0", 7)]
    assert snapshot.last_seen_at == now + timedelta(seconds=90)
    assert snapshot.server.hostname == "nas.home.arpa"
    assert stored(now) == [0, 60]


def test_an_empty_list_empties_the_snapshot(store):
    store(0)
    store(60, network_interfaces=[])
    assert Snapshot.objects.get().network_interfaces == []


def test_an_absent_list_leaves_the_snapshot(store, now):
    store(0)
    store(60, network_interfaces=...)
    snapshot = Snapshot.objects.get()
    assert [known["name"] for known in snapshot.network_interfaces] == ["eth0"]
    assert (snapshot.collected_at, snapshot.interfaces_at) == (now + timedelta(seconds=60), now)


def test_a_new_hostname_and_interval_are_noted(store):
    store(0)
    store(60, hostname="nas-new", interval=300)
    assert (Server.objects.get().hostname, Server.objects.get().interval) == ("nas-new", 300)


def test_what_is_not_said_again_is_not_forgotten(store):
    store(0, os_info={"kernel": "6.1", "version": "12"})
    store(60, os_info={"kernel": "6.2"})
    store(120)
    assert (Server.objects.get().os_kernel, Server.objects.get().os_version) == ("6.2", "12")


# Current rates: 6000 bytes in a minute are 100 a second


def test_the_first_reading_has_no_rate(store):
    store(0)
    assert rates() == (None, None)


def test_rates_are_since_the_reading_before(store, interface):
    store(0, network_interfaces=[interface(rx_bytes=1000, tx_bytes=50)])
    store(60, network_interfaces=[interface(rx_bytes=7000, tx_bytes=50)])
    assert rates() == (100.0, 0.0)


def test_rates_are_per_interface(store, interface):
    store(0, network_interfaces=[interface("eth0"), interface("eth1")])
    store(60, network_interfaces=[interface("eth1", 600), interface("eth0", 6000)])
    assert (rates("eth0"), rates("eth1")) == ((100.0, 0.0), (10.0, 0.0))


@pytest.mark.parametrize(
    "changes",
    [{"seconds": 151}, {"boot_id": "boot-2", "uptime": 5.0, "sent_uptime": 5.0}, {"rx_bytes": 10}, {"ifindex": 9}],
    ids=["gap", "reboot", "reset", "re-created"],
)
def test_rates_are_unknown_after(store, interface, changes):
    store(0, network_interfaces=[interface(rx_bytes=1000, ifindex=2)])
    changes = {"seconds": 60, "rx_bytes": 7000, "ifindex": 2, **changes}
    found = interface(rx_bytes=changes.pop("rx_bytes"), ifindex=changes.pop("ifindex"))
    store(**changes, network_interfaces=[found])
    assert rates() == (None, None)


def test_a_wrap_has_a_rate(store, interface):
    store(0, network_interfaces=[interface(rx_bytes=2**32 - 1000, speed_mbps=1000)])
    store(60, network_interfaces=[interface(rx_bytes=5000, speed_mbps=1000)])
    assert rates() == (100.0, 0.0)


def test_an_interface_that_just_appeared_has_no_rate(store, interface):
    store(0, network_interfaces=[interface("eth0")])
    store(60, network_interfaces=[interface("eth0"), interface("usb0", 6000)])
    assert rates("usb0") == (None, None)


# Interfaces


def test_a_new_name_becomes_an_interface(store, interface, now):
    store(0, network_interfaces=[interface(kind="physical", mac="b8:27:eb:4f:15:95", speed_mbps=1000)])
    found = Interface.objects.get()
    assert (found.name, found.kind, found.mac, found.speed_mbps) == ("eth0", "physical", "b8:27:eb:4f:15:95", 1000)
    assert found.first_seen_at == now


def test_kind_and_speed_are_noted_when_they_change_and_the_best_speed_is_kept(store, interface):
    for instant, speed in ((0, 1000), (60, 2500), (120, 100)):
        store(instant, network_interfaces=[interface(kind="physical", speed_mbps=speed)])
    store(180, network_interfaces=[interface(kind="bond", master="br0")])
    found = Interface.objects.get()
    assert (found.kind, found.master, found.speed_mbps, found.best_speed_mbps) == ("bond", "br0", None, 2500)


def test_an_interface_that_comes_back_is_the_same_row(store, interface):
    for instant, names in ((0, ["eth0"]), (60, []), (120, ["eth0"])):
        store(instant, network_interfaces=[interface(name) for name in names])
    assert Interface.objects.count() == 1


def test_a_late_heartbeat_adds_the_interfaces_only_it_knew(store, interface):
    store(60, network_interfaces=[interface("eth0", kind="physical")])
    store(0, late=90, network_interfaces=[interface("eth0", kind="virtual"), interface("usb0")])
    assert list(Interface.objects.values_list("name", "kind")) == [("eth0", "physical"), ("usb0", "")]


def test_what_a_person_set_on_an_interface_stays(store, interface):
    store(0)
    Interface.objects.update(label="uplink", counts_in_total=False, hidden=True)
    store(60, network_interfaces=[interface(speed_mbps=1000)])
    found = Interface.objects.get()
    assert (found.label, found.counts_in_total, found.hidden, found.speed_mbps) == ("uplink", False, True, 1000)


# What it costs


def statements(captured) -> list[str]:
    words = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    return [query["sql"] for query in captured.captured_queries if not query["sql"].startswith(words)]


@pytest.mark.parametrize("count", [1, 50])
def test_nothing_changed_takes_at_most_four_queries(
    agent, heartbeat, interface, count: int, django_assert_max_num_queries
):
    interfaces = [interface(f"eth{number}") for number in range(count)]
    agent.post("/api/v1/agents/heartbeat", heartbeat(network_interfaces=interfaces), format="json")
    later = heartbeat(uptime=1001.0, sent_uptime=1001.0, network_interfaces=interfaces)
    with django_assert_max_num_queries(6) as captured:  # a savepoint is BEGIN and COMMIT in a test
        assert agent.post("/api/v1/agents/heartbeat", later, format="json").status_code == 200
    assert len(statements(captured)) <= 4


# At once, on the real database


def at_once(count: int, work) -> list:
    barrier = Barrier(count)

    def run(number: int):
        try:
            barrier.wait()
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.django_db(transaction=True)
def test_the_same_heartbeat_sixteen_times_at_once_is_stored_once(heartbeat):
    Server.objects.create(id="nas", hostname="nas")
    report, now = parse_heartbeat(heartbeat()), datetime.now(UTC)
    receipts = at_once(16, lambda _: ingest(report, may_register=False, now=now))
    assert sorted(receipt.outcome for receipt in receipts) == ["accepted"] + ["duplicate"] * 15
    assert Heartbeat.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_registrations_of_one_server_at_once_make_one_server(heartbeat):
    reports = [parse_heartbeat(heartbeat(uptime=up, sent_uptime=up)) for up in (1000.0, 1060.0)]
    now = datetime.now(UTC)
    receipts = at_once(2, lambda number: ingest(reports[number], may_register=True, now=now))
    assert sorted(receipt.server_registered for receipt in receipts) == [False, True]
    assert [receipt.outcome for receipt in receipts] == ["accepted", "accepted"]
    assert (Server.objects.count(), Heartbeat.objects.count()) == (1, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", range(3))
def test_of_heartbeats_at_once_the_newest_is_the_latest(heartbeat, interface, attempt: int):
    Server.objects.create(id="nas", hostname="nas")
    now = datetime.now(UTC)

    def work(number: int) -> Receipt:
        counters = interface(rx_bytes=number)
        body = heartbeat(uptime=1000.0 + number, sent_uptime=1016.0, network_interfaces=[counters])
        return ingest(parse_heartbeat(body), may_register=False, now=now)

    assert {receipt.outcome for receipt in at_once(16, work)} == {"accepted"}
    snapshot = Snapshot.objects.get()
    assert (snapshot.uptime_seconds, snapshot.interface("eth0")["rx_bytes"]) == (1015, 15)
    assert Boot.objects.count() == Interface.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_heartbeats_of_many_servers_at_once_are_all_stored(heartbeat, interface):
    def work(number: int) -> Receipt:
        up = 1000.0 + number
        body = heartbeat(server_id=f"pi-{number % 4}", uptime=up, sent_uptime=up)
        return ingest(parse_heartbeat(body), may_register=True, now=datetime.now(UTC))

    assert {receipt.outcome for receipt in at_once(16, work)} == {"accepted"}
    assert (Server.objects.count(), Heartbeat.objects.count(), Interface.objects.count()) == (4, 16, 4)


def test_a_reboot_that_a_report_without_interfaces_told_of_leaves_the_rate_unknown(store, interface):
    store(0, network_interfaces=[interface(rx_bytes=1000)])
    store(60, boot_id="boot-2", uptime=30.0, sent_uptime=30.0, network_interfaces=...)
    store(120, boot_id="boot-2", uptime=90.0, sent_uptime=90.0, network_interfaces=[interface(rx_bytes=5000)])
    assert Snapshot.objects.get().network_interfaces[0]["rx_rate"] is None
