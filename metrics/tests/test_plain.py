"""Hours of which three columns tell all, and the others, of which they do not."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics import seal
from metrics.counters import COLUMNS, sums_between
from metrics.models import DAY_MS, HOUR_MS, Chunk, Interface, day_of, day_start, to_ms
from metrics.plain import plain_lines
from servers.models import Server

pytestmark = pytest.mark.django_db

MINUTE_MS = 60_000
NOON = 12 * 60  # minutes
TOLD = ("rx_bytes", "tx_bytes", "covered_ms")


@pytest.fixture
def midnight(now):
    """The first millisecond of the day."""
    return day_start(day_of(to_ms(now)))


@pytest.fixture
def eth0(db):
    return Interface.objects.create(server=Server.objects.create(id="nas", hostname="nas"), name="eth0")


@pytest.fixture
def sealed(midnight, eth0):
    """Seal readings of some minutes of the day: 100 bytes a minute in, 7 out; `changes` are functions of the minute."""

    def put(minutes, interface=eth0, late=0, **changes):
        values = {
            "at": lambda minute: midnight + minute * MINUTE_MS + late,
            "boot": 3, "started": midnight - DAY_MS, "interval": MINUTE_MS, "link": 1, "ifindex": 2, "speed": 1000,
            "rx_bytes": lambda minute: 10**6 + 100 * minute, "tx_bytes": lambda minute: 10**6 + 7 * minute,
            "rx_packets": lambda minute: 10**6 + minute, "tx_packets": 9,
            "rx_errors": -1, "tx_errors": -1, "rx_dropped": 0, "tx_dropped": 0,
            **changes,
        }  # fmt: skip
        rows = [[value(minute) if callable(value) else value for value in values.values()] for minute in minutes]
        for day in sorted({day_of(row[0]) for row in rows}):
            of_day = [row for row in rows if day_of(row[0]) == day]
            seal.add({interface: dict(zip(COLUMNS, map(list, zip(*of_day, strict=True)), strict=True))}, day)

    return put


@pytest.fixture
def told(midnight, eth0):
    """Return rx, tx and milliseconds between two minutes of the day; None where the columns alone do not tell.

    With the hours, when it is thin, they tell more.
    """

    def ask(start, end, interface=eth0, newest=None, is_thin=False):
        window = tuple(midnight + round(minute * MINUTE_MS) for minute in (start, end))
        told = []
        for thin in (False, True):
            newest_at = {interface.pk: newest} if newest else {}
            lines, _, others = plain_lines({interface.pk: [window]}, newest_at, thin=thin)
            line = lines.get(interface.pk, {}).get(window)
            assert (line is None) == bool(others)
            told.append(line and [values[0] for values in sums_between([line], window, TOLD)])
        assert told[0] in (None, told[1])
        return told[is_thin]

    return ask


def test_an_hour_is_told_to_the_byte_wherever_it_is_cut(sealed, told):
    sealed(range(24 * 60))
    assert told(NOON, NOON + 60) == [6000, 420, HOUR_MS]
    assert told(NOON + 10, NOON + 25) == [1500, 105, 15 * MINUTE_MS]
    assert told(NOON + 0.5, NOON + 1.75) == [125, 9, 75_000]  # 3.5 and 5.25 bytes, each rounded down, from 0 and 7


def test_hours_at_midnight_have_their_neighbours_in_the_days_beside_them(sealed, told):
    sealed(range(-24 * 60, 48 * 60), late=300)
    assert told(0, 60) == told(23 * 60, 24 * 60) == [6000, 420, HOUR_MS]


@pytest.mark.parametrize("first", [5, -30])
def test_a_window_close_to_midnight_has_its_neighbours_in_its_own_day(sealed, eth0, midnight, first):
    sealed(range(-24 * 60, 24 * 60), late=300)
    window = midnight + first * MINUTE_MS, midnight + (first + 25) * MINUTE_MS
    line = plain_lines({eth0.pk: [window]}, {}).lines[eth0.pk][window]
    assert [line.at[0] - window[0], line.at[-1] - window[1]] == [300 - MINUTE_MS, 300]
    assert sums_between([line], window, TOLD) == [[2500], [175], [25 * MINUTE_MS]]


def test_a_second_boot_that_is_silent_all_day_is_seen_in_the_hours(sealed, eth0, midnight):
    sealed(range(-24 * 60, 48 * 60))
    sealed([-100, 25 * 60], late=500, boot=4, rx_bytes=lambda minute: 10**12 + 10**6 * minute)
    window = midnight + NOON * MINUTE_MS, midnight + (NOON + 180) * MINUTE_MS
    for thin in (False, True):
        lines, _, others = plain_lines({eth0.pk: [window]}, {}, thin=thin)
        assert (not lines[eth0.pk]) == bool(others) == thin


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_window_may_reach_over_days(sealed, told, is_merged, now):
    sealed(range(-24 * 60, 72 * 60), late=300)
    if is_merged:
        assert seal.merge(now=now + timedelta(days=40))
    for start, end in ((-30.5, 30), (-23 * 60 + 5, 24 * 60 - 2), (24 * 60 - 1, 48 * 60 + 3.25), (-1, 50 * 60)):
        rx, tx, covered = told(start, end)
        assert (rx, covered) == (100 * (end - start), (end - start) * MINUTE_MS)
        assert abs(tx - 7 * (end - start)) <= 1  # each edge is rounded down


@pytest.mark.parametrize("name", ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"])
def test_a_counter_that_fell_is_not_plain(sealed, told, name):
    sealed(range(24 * 60), **{name: lambda minute: minute if minute >= NOON + 30 else 10**6 + minute})
    assert told(NOON, NOON + 60) is None
    assert told(NOON - 60, NOON)[2] == HOUR_MS


@pytest.mark.parametrize("name", ["boot", "ifindex", "link", "interval"])
def test_a_day_in_which_more_than_counters_changed_is_not_plain(sealed, told, name):
    sealed(range(24 * 60), **{name: lambda minute: 1 if minute >= NOON + 30 else 0})
    assert told(NOON, NOON + 60) is None


@pytest.mark.parametrize("name", ["boot", "ifindex", "link", "interval"])
def test_a_window_is_plain_whatever_changed_in_another_hour_of_its_day(sealed, told, name):
    sealed(range(24 * 60), **{name: lambda minute: 60_000 + (minute >= NOON + 30)})
    assert told(NOON, NOON + 60, is_thin=True) is None
    if name in ("boot", "ifindex"):  # of which the hour has a mark
        assert told(NOON + 10, NOON + 25, is_thin=True) is None
    for start in (NOON - 60, NOON + 60):
        assert told(start, start + 60) is None
        assert told(start + 10, start + 25, is_thin=True) == [1500, 105, 15 * MINUTE_MS]


def test_a_window_between_two_readings_of_another_boot_is_not_plain(sealed, told):
    """A cloned machine that is silent meanwhile: what passed it until its next reading passed in the window, too."""
    others = {NOON - 90, NOON + 90}
    sealed(range(24 * 60), boot=lambda minute: 4 if minute in others else 3)
    assert told(NOON + 10, NOON + 25, is_thin=True) is None


@pytest.mark.parametrize("name", ["boot", "ifindex", "link", "interval"])
def test_a_day_after_another_boot_or_link_is_not_plain_at_its_beginning(sealed, told, name):
    sealed(range(-24 * 60, 24 * 60), **{name: lambda minute: 60_000 + (minute >= 0)})
    assert told(0, 60) is None
    assert told(60, 120) == [6000, 420, HOUR_MS]


@pytest.mark.parametrize(
    "silent", [range(NOON + 10, NOON + 20), range(NOON - 10, NOON + 1), range(NOON + 55, NOON + 65)]
)
def test_a_gap_is_not_plain(sealed, told, silent):
    sealed([minute for minute in range(24 * 60) if minute not in silent])
    assert told(NOON, NOON + 60) is None


def test_a_gap_over_midnight_is_not_plain(sealed, told):
    sealed([*range(-24 * 60, -5), *range(24 * 60)], late=300)
    assert told(0, 60) is None


def test_a_counter_that_fell_over_midnight_is_not_plain(sealed, told):
    sealed(range(-24 * 60, 24 * 60), late=300, rx_packets=lambda minute: minute**2 if minute >= 0 else 10**6)
    assert told(0, 60) is None


def test_an_hour_that_begins_or_ends_with_no_reading_is_not_plain(sealed, told):
    sealed(range(NOON + 1, NOON + 100))
    assert told(NOON, NOON + 60) is None
    assert told(NOON + 60, NOON + 120) is None


def test_after_the_newest_reading_nothing_passed(sealed, told, midnight):
    sealed(range(NOON + 31))
    newest = midnight + (NOON + 30) * MINUTE_MS
    assert told(NOON + 10, NOON + 60, newest=newest) == [2000, 140, 20 * MINUTE_MS]
    assert told(NOON + 60, NOON + 120, newest=newest) == [0, 0, 0]
    assert told(NOON + 10, NOON + 60, newest=newest + 1) is None  # something was sealed since


def test_readings_past_their_retention_are_not_there(sealed, told):
    sealed(range(24 * 60))
    Chunk.objects.update(readings=None)
    assert told(NOON, NOON + 60) is None


def test_of_a_damaged_chunk_nothing_is_told(sealed, told):
    sealed(range(24 * 60))
    damaged = bytearray(Chunk.objects.get().readings)
    damaged[40] ^= 1
    Chunk.objects.update(readings=bytes(damaged))
    assert told(NOON, NOON + 60) is None


def test_interfaces_that_are_read_at_the_same_or_other_instants_have_their_own_bytes(sealed, told, eth0):
    sealed(range(24 * 60))
    others = [Interface.objects.create(server=eth0.server, name=name) for name in ("eth1", "eth2")]
    sealed(range(24 * 60), others[0], rx_bytes=lambda minute: 5 * minute)
    sealed(range(0, 24 * 60, 2), others[1])
    hour = to_ms(Chunk.objects.first().last_at) // DAY_MS * DAY_MS + NOON * MINUTE_MS
    window = hour, hour + HOUR_MS
    lines = plain_lines({each.pk: [window] for each in (eth0, *others)}, {}).lines
    of_each = [
        sums_between([lines[each.pk][window]], [hour + 90_000, hour + 150_000], TOLD) for each in (eth0, *others)
    ]
    assert [sums[0] for sums in of_each] == [[100], [5], [100]]
    assert [len(lines[each.pk][window].at) for each in (eth0, *others)] == [61, 61, 31]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(1, 2 * MINUTE_MS), st.integers(0, 2**40)), min_size=240, max_size=240),
    before=st.integers(0, 5 * HOUR_MS),
    cuts=st.lists(st.integers(0, 5 * HOUR_MS), min_size=2, max_size=4, unique=True).map(sorted),
    thin=st.booleans(),
)
def test_parts_are_what_counters_say_at_their_edges(eth0, midnight, steps, before, cuts, thin):
    """Minutes around a midnight, where one chunk ends and another begins."""
    Chunk.objects.all().delete()
    at, counted = [midnight - before // HOUR_MS * HOUR_MS], [0]  # no hour is but half known
    for after, passed in steps:
        at.append(at[-1] + after)
        counted.append(counted[-1] + passed)
    for day in sorted(set(map(day_of, at))):
        of_day = [row for row, instant in enumerate(at) if day_of(instant) == day]
        rows = {name: [0] * len(of_day) for name in COLUMNS} | {"interval": [MINUTE_MS] * len(of_day)}
        rows |= {"at": [at[row] for row in of_day], "rx_bytes": [counted[row] for row in of_day]}
        seal.add({eth0: rows}, day)
    edges = [at[0] + cut for cut in (cuts[:1] + cuts[-1:] if thin else cuts)]
    window = edges[0], edges[-1]
    lines = plain_lines({eth0.pk: [window]}, {eth0.pk: at[-1]}, thin=thin).lines
    if not lines.get(eth0.pk):
        assert edges[0] > at[-1]
        return

    def value(instant):
        if instant >= at[-1]:
            return counted[-1]
        row = max(index for index, of in enumerate(at[:-1]) if of <= instant)
        since, span = instant - at[row], at[row + 1] - at[row]
        return counted[row] + (counted[row + 1] - counted[row]) * since // span

    rx, _, covered = sums_between([lines[eth0.pk][window]], edges, TOLD)
    assert rx == [value(end) - value(start) for start, end in pairwise(edges)]
    assert covered == [min(end, at[-1]) - min(start, at[-1]) for start, end in pairwise(edges)]
