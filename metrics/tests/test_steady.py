"""Since when heartbeats go on plainly, and what of the log is read then. That it is exact, test_exactness.py tells."""

import random
from datetime import timedelta

import pytest

from metrics import memory, seal, steady
from metrics.increases import bytes_between, increases
from metrics.ingest import Report, ingest_batch
from metrics.models import Heartbeat, Interface, to_ms
from metrics.passed import passed
from servers.models import Server, Snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture
def beat(store, interface):
    """Store a heartbeat so many seconds after instant 0, whose eth0 has received as many bytes."""

    def send(*seconds, **changes):
        for second in seconds:
            of_interface = {name: changes.pop(name) for name in ("is_up", "ifindex", "rx_bytes") if name in changes}
            readings = [interface(**{"rx_bytes": second, **of_interface})]
            store(second, **{"network_interfaces": readings, **changes})

    return send


@pytest.fixture
def since(now):
    """Return after how many seconds heartbeats go on plainly."""

    def ask():
        return (Snapshot.objects.get().steady_since - now).total_seconds()

    return ask


def test_the_first_heartbeat_goes_on_from_none(beat, since):
    beat(60)
    assert since() == 60


def test_heartbeats_that_only_count_up_go_on_plainly(beat, since):
    beat(60, 120, 180, 330)
    assert since() == 60


@pytest.mark.parametrize(
    "changes",
    [
        {"rx_bytes": 3},
        {"ifindex": 77},
        {"is_up": False},
        {"boot_id": "boot-2", "uptime": 20.0, "sent_uptime": 20.0},
        {"network_interfaces": ...},
        {"network_interfaces": []},
    ],
)
def test_what_is_more_than_a_difference_begins_anew(beat, since, changes):
    beat(60, 120)
    beat(180, **changes)
    assert since() == 180


def test_silence_begins_anew(beat, since):
    beat(60, 120, 271)
    assert since() == 271


def test_an_interface_that_comes_begins_anew(beat, since, store, interface):
    beat(60, 120)
    store(180, network_interfaces=[interface(rx_bytes=180), interface("wg0")])
    assert since() == 180


def test_what_comes_late_leaves_all_before_it_open(beat, since, store, interface):
    beat(60, 180, 240)
    store(120, late=130, network_interfaces=[interface(rx_bytes=120)])
    assert since() == 240
    beat(300)
    assert since() == 240


def test_the_same_heartbeat_again_changes_nothing(beat, since):
    beat(60, 120, 120)
    assert since() == 60


def test_a_boot_that_the_hub_places_before_what_it_knows_leaves_all_of_that_open(beat, since, now):
    beat(3600)
    beat(0, now=now, boot_id="boot-2", uptime=20.0, sent_uptime=20.0)  # the hub's clock has been set back
    assert Snapshot.objects.get().collected_at == now
    assert since() == 3600
    beat(60, boot_id="boot-2", uptime=80.0, sent_uptime=80.0)
    assert since() == 3600


def test_a_heartbeat_that_makes_a_row_for_an_interface_begins_anew(beat, since, store, interface, now):
    beat(60, 120)
    Interface.objects.all().delete()
    beat(180)  # nothing new is said of it, so that nobody looks for its row
    assert since() == 60
    store(240, network_interfaces=[interface(rx_bytes=240, speed_mbps=1000)])
    assert Interface.objects.exists()
    assert since() == 240


def test_after_a_heartbeat_without_interfaces_none_goes_on(beat, since):
    """What was read before it had another interval, or another boot."""
    beat(0, 60)
    beat(120, interval=600, network_interfaces=...)
    assert since() == 120
    beat(260)
    assert since() == 260
    beat(320)
    assert since() == 260


SERVERS = ("nas", "pi", "router")


@pytest.fixture
def fleet(now, interface):
    """Servers that have reported each minute of two hours, of which the first is sealed; a byte a second."""
    for server in SERVERS:
        reports = [
            Report(
                server, "any", now + timedelta(minutes=minute), boot_id="one", uptime=10**6 + 60.0 * minute,
                sent_uptime=10.0**6, network_interfaces=[interface(rx_bytes=10**6 + 60 * minute, tx_bytes=0)],
            )
            for minute in range(-119, 1)
        ]  # fmt: skip
        ingest_batch(reports[:1], may_register=True, now=now)  # the interface is new
        ingest_batch(reports[1:], may_register=True, now=now)
    seal.tick(now=now)
    return list(Interface.objects.with_revision())


@pytest.fixture
def unpacked(monkeypatch):
    """The heartbeats that are unpacked."""
    found = []
    unpack = Heartbeat.unpack
    monkeypatch.setattr(
        Heartbeat, "unpack", lambda heartbeat, wanted=None: (found.append(heartbeat), unpack(heartbeat))[1]
    )
    return found


def test_of_a_log_that_goes_on_plainly_up_to_now_the_newest_of_each_server_is_unpacked(fleet, unpacked, now):
    window = to_ms(now - timedelta(hours=1)), to_ms(now + timedelta(seconds=30))
    assert set(passed(fleet, *window).values()) == {(3600, 0)}
    assert {heartbeat.collected_at for heartbeat in unpacked} == {now}
    assert len(unpacked) == len(SERVERS)


def test_of_a_log_that_goes_on_plainly_the_neighbours_of_each_instant_are_unpacked(fleet, unpacked, now):
    window = to_ms(now - timedelta(minutes=80)), to_ms(now - timedelta(seconds=310))
    assert set(passed(fleet, *window).values()) == {(80 * 60 - 310, 0)}
    assert len(unpacked) == 2 * len(SERVERS)


def test_hours_within_the_log_are_told_by_their_neighbours(fleet, unpacked, now):
    instants = [to_ms(now + timedelta(minutes=minutes)) for minutes in (-90, -30, 30)]
    found = bytes_between(fleet, instants)
    assert {tuple(of.sums["rx_bytes"]) for of in found.values()} == {(3600, 1800)}
    assert {tuple(of.sums["covered_ms"]) for of in found.values()} == {(3_600_000, 1_800_000)}
    assert len(unpacked) == 2 * len(SERVERS)  # the one on the hour is next to it on both sides; and the newest


def test_what_may_be_anything_is_unpacked_with_it(fleet, unpacked, now, interface):
    report = Report(
        "nas", "any", now + timedelta(minutes=1), boot_id="two", uptime=20.0, sent_uptime=20.0,
        network_interfaces=[interface(rx_bytes=500, tx_bytes=0)],
    )  # fmt: skip
    ingest_batch([report], may_register=True, now=now + timedelta(minutes=1))
    instants = [to_ms(now + timedelta(minutes=minutes)) for minutes in (-30, 30)]
    fleet = list(Interface.objects.with_revision())
    found = bytes_between(fleet, instants)
    assert sorted(of.sums["rx_bytes"][0] for of in found.values()) == [1800, 1800, 1800 + 500]
    assert {pk: of.sums["resets"] for pk, of in found.items()} == {
        pk: of.sums["resets"] for pk, of in increases(fleet, instants).items()
    }


def test_what_is_sealed_while_it_is_read_is_not_lost(fleet, now, monkeypatch):
    instants = [to_ms(now + timedelta(minutes=minutes)) for minutes in (-90, -35, 30)]
    read = steady._read

    def seal_first(*wanted):
        seal.tick(now=now + timedelta(hours=1))
        return read(*wanted)

    monkeypatch.setattr(steady, "_read", seal_first)
    found = bytes_between(fleet, instants)
    assert {tuple(of.sums["rx_bytes"]) for of in found.values()} == {(3300, 2100)}


def test_what_was_sealed_and_what_came_in_its_place_are_not_taken_for_each_other(fleet, now, interface, monkeypatch):
    def beat(minutes, rx_bytes, **changes):
        at = now + timedelta(minutes=minutes)
        values = {"boot_id": "one", "uptime": 10**6 + 60.0 * minutes, "sent_uptime": 10**6 + 60.0 * minutes, **changes}
        readings = [interface(rx_bytes=rx_bytes, tx_bytes=0)]
        ingest_batch([Report("nas", "any", at, network_interfaces=readings, **values)], may_register=True, now=at)

    seal.tick(now=now + timedelta(hours=1))
    instants = [to_ms(now + timedelta(minutes=minutes)) for minutes in (-90, -30, 150)]
    fleet = list(Interface.objects.with_revision())
    bytes_between(fleet, instants)  # which keeps the hours that are sealed
    beat(20, 50)  # the counter began anew
    read = steady._read

    def seal_first(*wanted):
        seal.tick(now=now + timedelta(hours=1))
        beat(100, 10**6 + 500)
        return read(*wanted)

    monkeypatch.setattr(steady, "_read", seal_first)
    found = bytes_between(fleet, instants)
    known = {of.sums["rx_bytes"][1] for pk, of in found.items() if fleet[0].pk == pk}
    assert known <= {1800 + 50, 1800 + 10**6 + 500}  # as of before, or as of after


def test_what_may_be_of_another_time_is_not_kept(now, interface):
    """A late heartbeat that comes after the interfaces were read, and before their servers are asked how they stand."""

    def beat(hours, rx_bytes, boot="one", uptime=10.0**6):
        at = now + timedelta(hours=hours)
        up = uptime + 3600.0 * hours
        report = Report(
            "nas", "any", at, boot_id=boot, uptime=up, sent_uptime=up + (ahead - at).total_seconds(),
            network_interfaces=[interface(rx_bytes=rx_bytes, tx_bytes=0)],
        )  # fmt: skip
        ingest_batch([report], may_register=True, now=ahead)

    ahead = now + timedelta(hours=50)
    beat(0, 1000)
    beat(10, 10, "two", 10.0)
    for hour in range(11, 48):
        beat(hour, 10, "two", 10.0)
    seal.tick(now=ahead)
    window = to_ms(now - timedelta(hours=10)), to_ms(now + timedelta(hours=38))
    beat(3, 1500)
    passed(list(Interface.objects.with_revision()), *window)
    earlier = list(Interface.objects.with_revision())
    beat(4, 9000)
    passed(earlier, *window)
    asked_again = passed(list(Interface.objects.with_revision()), *window)
    memory.forget()
    assert asked_again == passed(list(Interface.objects.with_revision()), *window)
    assert [rx for rx, _ in asked_again.values()] == [8000 + 10]


def test_the_first_heartbeat_past_where_the_hubs_clock_had_been_goes_on_from_another_one(now, interface):
    begin = now.replace(minute=0)

    def beat(minutes, rx_bytes, boot, names):
        at = begin + timedelta(minutes=minutes)
        up = 60.0 * (minutes + (5 if boot == "one" else 1))
        readings = [interface(name, rx_bytes=rx_bytes, tx_bytes=0) for name in names]
        times = {"uptime": up, "sent_uptime": up, "interval": 600}
        report = Report("nas", "any", at, boot_id=boot, network_interfaces=readings, **times)
        ingest_batch([report], may_register=True, now=at)

    beat(299.5, 10**6, "one", ["eth0"])
    for number, minutes in enumerate([*range(100, 300, 10), 300.5, 310]):
        beat(minutes, 10**6 + 60_000 * number, "two", ["eth0", "eth1"])
    seal.seal("nas", now=begin + timedelta(minutes=311))
    for start, end in [(280, 295), (270, 299), (240, 300), (240, 299.25)]:
        window = [to_ms(begin + timedelta(minutes=minutes)) for minutes in (start, end)]
        interfaces = list(Interface.objects.with_revision())
        told = passed(interfaces, *window)
        for one in interfaces:
            (alone,) = increases([one], window).values()
            assert told[one.pk] == (alone.sums["rx_bytes"][0], 0)


@pytest.mark.parametrize("seed", range(5))
def test_seeks_find_what_a_look_at_each_heartbeat_does(seed, now):
    chance = random.Random(seed)
    for number in range(6):
        server = Server.objects.create(id=f"server-{number}", hostname="any")
        since = chance.choice([None, now + timedelta(seconds=chance.randrange(60))])
        Snapshot.objects.create(server=server, steady_since=since, revision=chance.randrange(9), sealed_revision=number)
        Heartbeat.objects.bulk_create(
            Heartbeat(
                server=server, boot_number=chance.randrange(3), uptime_ms=uptime, received_at=now, interval_ms=60_000,
                collected_at=now + timedelta(seconds=chance.randrange(60)),
            )
            for uptime in range(chance.choice([0, 1, 2, 9]))
        )  # fmt: skip
    edges = [to_ms(now) + 1000 * chance.randrange(-5, 65) for _ in range(3)]
    around = min(edges), max(edges)

    def told_by(looks):
        snapshots = Snapshot.objects.order_by("server_id")
        return list(snapshots.values_list("server_id", "revision", "steady_since").annotate(**looks(edges, around)))

    assert told_by(steady.by_seeks) == told_by(steady.by_sums)
