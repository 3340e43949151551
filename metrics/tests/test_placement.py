"""Whichever way clocks are set, the readings of a boot keep their order, and with it their bytes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from django.db import transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from metrics import memory
from metrics.increases import increases
from metrics.ingest import Outcome, Receipt, Report, ingest_batch
from metrics.models import Chunk, Heartbeat, Interface, from_ms, to_ms
from metrics.placement import Line
from metrics.seal import tick
from servers.models import Boot, Snapshot

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = to_ms(datetime(2026, 3, 1, 12, tzinfo=UTC))


# The line


def test_without_bends_an_instant_is_start_and_uptime():
    assert Line(1000).at(60_000) == 61_000


def test_a_later_start_holds_at_once_and_for_what_comes_after():
    line = Line(0).moved(HOUR, after=10 * MINUTE, sent=11 * MINUTE)
    assert [line.at(minute * MINUTE) // MINUTE for minute in (0, 10, 11, 600)] == [0, 10, 71, 660]


def test_an_earlier_start_is_approached_and_never_gone_back_to():
    line = Line(0).moved(-MINUTE, after=10 * MINUTE, sent=10 * MINUTE)
    instants = [line.at(minute * MINUTE) for minute in range(25)]
    assert instants[:11] == [minute * MINUTE for minute in range(11)]
    assert {after - before for before, after in pairwise(instants[10:21])} == {54_000}
    assert instants[20:] == [(minute - 1) * MINUTE for minute in range(20, 25)]


def test_an_earlier_start_is_taken_at_once_where_there_is_room_before_now():
    line = Line(0).moved(-59_000, after=10 * MINUTE, sent=11 * MINUTE)  # one minute of uptime in a second
    assert [line.at(minute * MINUTE) - 10 * MINUTE for minute in (9, 10, 11, 12)] == [-MINUTE, 0, 1000, 61_000]


def test_what_is_squeezed_has_room():
    line = Line(0).squeezed(6000, after=10 * MINUTE, longest=1000 * MINUTE)
    assert [line.at(minute * MINUTE) - 10 * MINUTE for minute in (9, 10, 20, 1010)] == [-MINUTE, 0, 60, 6000]


UPTIMES = st.integers(0, 40 * DAY)
MOVES = st.lists(st.tuples(UPTIMES, st.integers(-2 * DAY, 2 * DAY), st.integers(0, 2 * DAY), st.booleans()), max_size=6)


@given(MOVES, st.lists(UPTIMES.map(lambda uptime: uptime // 100 * 100), unique=True, min_size=2))
def test_of_two_uptimes_the_higher_is_the_later_however_often_the_start_moves(moves, uptimes):
    line = Line(0)
    for after, start, more, is_squeezed in moves:
        before = line
        line = (
            line.squeezed(DAY, after=after, longest=20 * DAY)
            if is_squeezed
            else line.moved(start, after=after, sent=after + more)
        )
        assert all(abs(line.at(uptime) - before.at(uptime)) <= 1 for uptime in uptimes if uptime <= after)  # rounded
    uptimes.sort()
    assert all(line.at(lower) < line.at(higher) for lower, higher in pairwise(uptimes))


# What a hub makes of it


@dataclass
class Machine:
    """An agent with a spool, and a hub whose clock is off by what it is set to."""

    up: int = 1000 * MINUTE
    received: int = 7
    off: int = 0
    spool: list[tuple[int, int]] = field(default_factory=list)
    began_at: int = NOON - 1000 * MINUTE
    boot: str = "boot-1"

    @property
    def now(self) -> datetime:
        return from_ms(self.began_at + self.up + self.off)

    def read(self, after: int, passed: int) -> None:
        self.up += after
        self.received += passed
        self.spool.append((self.up, self.received))

    def send(self, newest_first: bool = True) -> list[str]:
        """Send as agents do: the newest, then the backlog, oldest first."""
        newest = [self.spool.pop()] if newest_first else []
        results = []
        for part in (newest, self.spool):
            reports = [self.report(self.boot, uptime, received, self.up) for uptime, received in part]
            results += ingest_batch(reports, may_register=True, now=self.now) if reports else []
        self.spool = []
        return [type(result).__name__ for result in results]

    def report(self, boot: str, uptime: int, received: int, sent: int | None) -> Report:
        link = {"name": "eth0", "rx_bytes": received, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "is_up": True}
        return Report(
            "nas",
            "nas",
            datetime(1970, 1, 1, tzinfo=UTC),
            boot_id=boot,
            uptime=uptime / 1000,
            sent_uptime=None if sent is None else sent / 1000,
            network_interfaces=[link],
        )


def counted() -> tuple[int, int]:
    """Return the bytes that came in, and the resets, of all there is."""
    interface = Interface.objects.get()
    memory.forget()
    since, until = NOON - 400 * DAY, NOON + 400 * DAY
    buckets = increases([interface], [since, until])[interface.pk]
    return buckets.sums["rx_bytes"][0], buckets.sums["resets"][0]


def test_a_hub_whose_clock_is_set_back_counts_no_byte_twice(db: None):
    machine = Machine()
    for minute in range(12):
        machine.off = -5 * MINUTE if minute >= 6 else 0
        machine.read(MINUTE, 1000)
        machine.send()
    assert counted() == (11_000, 0)


def test_an_agent_whose_clock_runs_fast_counts_no_byte_twice(db: None):
    machine = Machine()
    for second in range(0, 1200, 10):
        machine.off = -second * 1000 // 20
        machine.read(10_000, 100)
        machine.send()
    assert Boot.objects.get().bends  # it was off by more than it may be
    assert counted() == (11_900, 0)


def test_a_hub_that_starts_without_a_clock_is_right_again_with_the_next_heartbeat(db: None):
    machine = Machine()
    machine.read(MINUTE, 1000)
    machine.send()
    machine.read(30 * MINUTE, 1000)
    machine.off = -30 * MINUTE  # the last time that was written to the disk
    machine.send()
    machine.off = 0
    machine.read(MINUTE, 1000)
    machine.send()
    assert to_ms(Heartbeat.objects.latest("collected_at").collected_at) == to_ms(machine.now)
    assert counted() == (2000, 0)


def test_a_boot_that_is_ahead_of_a_clock_set_back_is_not_refused(db: None):
    machine = Machine()
    machine.read(MINUTE, 1000)
    machine.send()
    machine.off = -DAY
    machine.read(MINUTE, 1000)
    assert machine.send() == [Receipt.__name__]
    assert counted() == (1000, 0)


def test_an_uptime_that_cannot_be_is_forgotten_with_the_next(db: None):
    machine = Machine()
    for up in (0, 400 * DAY, MINUTE):
        machine.up = 1000 * MINUTE + up
        machine.began_at = NOON + min(up, MINUTE) - machine.up
        machine.read(0, 1000)
        machine.send()
    assert to_ms(Boot.objects.get().started_at) == machine.began_at
    assert counted() == (2000, 0)


def test_a_new_boot_is_shown_though_the_one_before_is_ahead_of_a_clock_set_back(db: None):
    machine = Machine()
    machine.read(MINUTE, 1000)
    machine.send()
    machine.off = -HOUR
    rebooted = Machine(up=MINUTE, received=5, began_at=to_ms(machine.now) - MINUTE, boot="boot-2")
    rebooted.read(0, 0)
    rebooted.send()
    assert Snapshot.objects.get().boot.boot_id == "boot-2"
    assert Snapshot.objects.get().collected_at == machine.now


def test_a_boot_that_only_its_own_hopeless_clock_tells_of_loses_nothing(db: None):
    """Three days without the hub, then a reboot: the backlog of the earlier boot comes in parts, hours apart."""
    machine = Machine(boot="boot-2")
    machine.read(MINUTE, 1000)
    machine.send()
    earlier = [(10 * MINUTE * number, 1000 * number) for number in range(1, 432)]
    for first in range(0, len(earlier), 50):
        machine.read(40 * MINUTE, 1000)
        machine.send()
        backlog = [machine.report("boot-1", uptime, received, None) for uptime, received in earlier[first : first + 50]]
        results = ingest_batch(backlog, may_register=True, now=machine.now)
        assert {type(result).__name__ for result in results} == {Receipt.__name__}
        tick(now=machine.now)
    assert counted() == (earlier[-1][1] + 9 * 1000, 1)


def test_what_is_sealed_is_known_again_though_the_start_has_moved_by_hours(db: None):
    machine = Machine()
    machine.read(MINUTE, 1000)
    first = machine.spool[:]
    machine.send()
    machine.off = 30 * HOUR
    machine.read(MINUTE, 1000)
    machine.send()
    tick(now=from_ms(to_ms(machine.now) + 3 * HOUR))
    (again,) = ingest_batch([machine.report("boot-1", *first[0], machine.up)], may_register=True, now=machine.now)
    assert again == Receipt(Outcome.DUPLICATE)


ACTIONS = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 90), st.integers(0, 10**9)),
    st.tuples(st.just("away"), st.integers(1, 40), st.integers(0, 10**9)),
    st.tuples(st.just("set"), st.integers(-120, 120), st.booleans()),
    st.tuples(st.just("drift"), st.integers(-40, 40), st.booleans()),
    st.tuples(st.just("tick"), st.just(0), st.just(0)),
)


@pytest.mark.django_db
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTIONS, min_size=3, max_size=25))
@example([("set", 0, False), ("set", -2, False), ("away", 2, 1)])  # no room between the last reading and now
def test_every_byte_counts_once_however_the_hubs_clock_is_set(actions):
    with transaction.atomic():
        machine = Machine()
        machine.read(0, 0)
        machine.send()
        for action, amount, more in actions:
            match action:
                case "read":
                    machine.read(amount * 1000, more)
                    assert set(machine.send()) == {Receipt.__name__}
                case "away":
                    for _ in range(amount):
                        machine.read(MINUTE, more)
                    assert set(machine.send(newest_first=amount % 2 == 0)) == {Receipt.__name__}
                case "set":
                    machine.off = amount * MINUTE
                case "drift":
                    machine.off += amount * 1000
                case "tick":
                    tick(now=machine.now)
            assert counted() == (machine.received - 7, 0)
        tick(now=from_ms(to_ms(machine.now) + 3 * DAY))
        assert not Heartbeat.objects.exists()
        assert counted() == (machine.received - 7, 0)
        transaction.set_rollback(True)


# Two machines under one name


def beat(boot: str, up: int, at: int, **rx_bytes: int) -> None:
    """Have a machine that has been up for so long be heard `at` seconds after NOON."""
    names = [
        {"name": name, "is_up": True, "rx_bytes": value, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0}
        for name, value in rx_bytes.items()
    ]
    report = Report("nas", "nas", from_ms(NOON), boot_id=boot, uptime=up, sent_uptime=up, network_interfaces=names)
    ingest_batch([report], may_register=True, now=from_ms(NOON + at * 1000))


def uptimes_of(boot: str) -> list[int]:
    """Return the uptimes of the boot's readings of eth0, in seconds, in order of their instants."""
    tick(now=from_ms(NOON + DAY))
    known = Chunk.objects.get(interface__name="eth0").get_readings(("boot", "at", "started"))
    number = Boot.objects.get(boot_id=boot).pk
    rows = zip(known["boot"], known["at"], known["started"], strict=True)
    return [(at - started) // 1000 for of, at, started in rows if of == number]


def test_of_another_boot_than_the_latest_what_was_sealed_is_known(db: None):
    """It was rolled back, one of its interfaces did not come again, and then the hub's clock was set back."""
    for up, at, rx_bytes in ((10_000, 0, {"eth0": 1000, "eth1": 5}), (5000, 60, {"eth0": 500})):
        beat("rolled back", up, at, **rx_bytes)
    beat("rolled back", 6200, 1260, eth0=700)
    beat("other", 500, 1280, eth0=7)
    tick(now=from_ms(NOON + HOUR))
    beat("rolled back", 6260, 320, eth0=800)
    assert uptimes_of("rolled back") == [10_000, 5000, 6200, 6260]


def test_where_what_was_sealed_is_damaged_the_others_keep_their_order(db: None):
    for number in range(5):
        beat("one", 1000 + 60 * number, 60 * number, eth0=1000 + 100 * number, eth1=5)
    beat("other", 500, 250, eth0=7)
    tick(now=from_ms(NOON + HOUR))
    whole = Chunk.objects.get(interface__name="eth1").readings
    Chunk.objects.filter(interface__name="eth1").update(readings=b"damaged")
    beat("one", 5000, 200, eth0=9000)
    Chunk.objects.filter(interface__name="eth1").update(readings=whole)
    assert uptimes_of("one") == [1000, 1060, 1120, 1180, 1240, 5000]
