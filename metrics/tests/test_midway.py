"""What is sealed, merged or comes late before, while and after an answer is computed: no byte is lost or told twice."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from metrics import history, memory, seal
from metrics.counters import BYTES
from metrics.increases import bytes_between, increases
from metrics.ingest import Report, ingest_batch
from metrics.models import Interface, to_ms
from metrics.passed import passed
from metrics.periods import parse_step

pytestmark = pytest.mark.django_db

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 24 * 60
START = 10**6  # bytes at the first minute
JUMP = 10**9


def at(minute):
    return MONDAY + timedelta(minutes=minute)


@pytest.fixture
def beat(interface):
    """Have a server report at some minutes, each when it is received: a byte a second since the boot."""

    def beat(*minutes, server="nas", received=None, start=START, booted=None):
        for minute in minutes:
            arrives = minute if received is None else received
            uptime = 10**7 + 60.0 * minute if booted is None else 60.0 * (minute - booted)
            report = Report(
                server, "any", at(minute), boot_id=f"booted at {booted}", uptime=uptime, interval=600.0,
                sent_uptime=uptime + 60.0 * (arrives - minute),
                network_interfaces=[interface(rx_bytes=start + 60 * (minute - (booted or 0)), tx_bytes=0)],
            )  # fmt: skip
            ingest_batch([report], may_register=True, now=at(arrives))

    return beat


@pytest.fixture
def of_many(monkeypatch):
    """Ask as of many servers: of none the log is read as a whole."""
    for name in ("readings.FEW_SERVERS", "increases.FEW_SERVERS", "increases.ALONE"):
        monkeypatch.setattr(f"metrics.{name}", 0)


def asked():
    return list(Interface.objects.with_revision().order_by("id"))


def told(interfaces, start, end, **more):
    """Return the bytes of each interface between two minutes."""
    return [both and both[0] for both in passed(interfaces, to_ms(at(start)), to_ms(at(end)), **more).values()]


def between(interfaces, *minutes, how=bytes_between):
    """Return the bytes of each interface between several minutes."""
    return [buckets.sums["rx_bytes"] for buckets in how(interfaces, [to_ms(at(minute)) for minute in minutes]).values()]


of_each = partial(between, how=lambda interfaces, instants: increases(interfaces, instants, BYTES))
first_of_all = partial(told, most=1)
from_hours = partial(told, ahead=True)


@contextmanager
def before_query(number, act):
    """Do something before the query of this number; tell how many there were."""
    numbers = [0]

    def wrapper(execute, sql, *args):
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")) and number not in numbers:
            numbers.append(numbers[-1] + 1)
            if numbers[-1] == number:
                act()
        return execute(sql, *args)

    with connection.execute_wrapper(wrapper):
        yield numbers


def is_told_throughout(ask, expected, act):
    """Ask once, and once for each query with something done before it: always the same is told."""
    memory.forget()
    interfaces = asked()
    with before_query(0.5, act) as numbers:
        assert ask(interfaces) == expected
    for number in range(1, numbers[-1] + 1):
        memory.forget()
        with transaction.atomic():
            interfaces = asked()
            with before_query(number, act):
                assert ask(interfaces) == expected, number
            assert ask(asked()) == expected, number
            transaction.set_rollback(True)
    return numbers[-1]


def test_the_last_hour_of_a_day_is_told_to_its_end_where_readings_are_missing(beat):
    beat(*range(1200, 1401, 10), *range(1470, 1560, 10))  # silent from 23:20 to 0:30
    seal.seal("nas", now=at(27 * 60))
    interfaces = asked()
    assert told(interfaces, 22 * 60 + 45, 23 * 60 + 45) == [3600]
    assert from_hours(interfaces, 12 * 60, 23 * 60 + 50) == [3 * 3600 + 50 * 60]


def test_the_first_reading_of_all_may_be_of_the_last_hour_of_a_day(beat):
    beat(1417, *range(1477, 1620, 60))
    seal.seal("nas", now=at(28 * 60))
    assert told(asked(), 22 * 60 + 47, 23 * 60 + 45) == [8 * 60]


@pytest.mark.parametrize("alone", [0, 1])
@pytest.mark.parametrize("hours", [1, 3])
@pytest.mark.parametrize("ask", [told, from_hours, first_of_all])
def test_what_is_sealed_after_the_interfaces_were_read_is_told(beat, alone, hours, ask, monkeypatch):
    monkeypatch.setattr("metrics.increases.ALONE", alone)
    beat(*range(0, 941, 10))
    seal.seal("nas", now=at(16 * 60))
    beat(26 * 60 + 25)
    stale = asked()
    seal.seal("nas", now=at(28 * 60))
    start, end = 20 * 60 + 11, (20 + hours) * 60 + 11
    assert ask(stale, start, end) == [3600 * hours]
    assert ask(asked(), start, end + 1) == [3600 * hours + 60]


def test_of_interfaces_without_a_revision_what_was_sealed_since_is_told(beat):
    beat(*range(0, 121, 10))
    stale = list(Interface.objects.all())
    seal.seal("nas", now=at(4 * 60))
    assert told(stale, 65, 95) == [1800]


@pytest.mark.parametrize("ask", [told, from_hours, first_of_all, between, of_each])
def test_a_week_that_is_merged_midway_is_told(beat, ask, of_many):
    sunday = 6 * DAY
    beat(*range(sunday - 120, sunday - 29, 10), *range(sunday + 60, sunday + 240, 10))
    seal.seal("nas", now=at(7 * DAY))
    expected = [[7200]] if ask in (between, of_each) else [7200]
    assert is_told_throughout(
        lambda interfaces: ask(interfaces, sunday + 35, sunday + 155), expected, lambda: seal.merge(now=at(30 * DAY))
    )


@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize("ask", [told, from_hours])
def test_a_late_heartbeat_that_is_sealed_midway_is_told_once(beat, place, ask, of_many):
    beat(*range(0, 51, 10), *range(190, 301, 10))
    seal.seal("nas", now=at(300))
    beat(150, received=305)
    for end in (135, 137):
        ask(asked(), 0, end)
    beat(310)
    interfaces = asked()
    with before_query(place, lambda: seal.seal("nas", now=at(307))):
        assert ask(interfaces, 0, 136) == [136 * 60]


@pytest.mark.parametrize("ask", [told, from_hours, first_of_all])
def test_an_hour_that_is_sealed_anew_midway_is_told_once(beat, ask, of_many):
    """Silent until the next day: the chunk of the newest reading keeps its end, but more passed in its last hour."""
    beat(*range(0, 1099, 10), DAY + 340)
    seal.seal("nas", now=at(1140))
    sealing = partial(seal.seal, "nas", now=at(DAY + 420))
    assert is_told_throughout(lambda interfaces: ask(interfaces, 960, 1200), [4 * 3600], sealing)


@pytest.mark.parametrize("others", [1000, 3])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("ask", [of_each, between])
def test_what_follows_a_reboot_and_is_sealed_midway_is_told(beat, others, is_late, ask, of_many, monkeypatch):
    monkeypatch.setattr("metrics.steady.MOST_LATE", others)
    beat(*range(0, 101, 10), *range(250, 361, 10))
    seal.seal("nas", now=at(350))
    if is_late:
        beat(*range(110, 241, 10), received=365)
    beat(*range(400, 471, 10), booted=390, start=0)
    expected = of_each(asked(), 0, 600)
    sealing = partial(seal.seal, "nas", now=at(420))
    assert is_told_throughout(lambda interfaces: ask(interfaces, 0, 600), expected, sealing)


@pytest.mark.parametrize("place", range(1, 6))
@pytest.mark.parametrize("others", [1000, 0])
@pytest.mark.parametrize("ask", [told, from_hours, first_of_all, between])
def test_what_is_sealed_midway_is_told_where_chunks_are_remembered(beat, others, place, ask, of_many, monkeypatch):
    monkeypatch.setattr("metrics.steady.MOST_LATE", others)
    beat(*range(0, 361, 10))
    seal.seal("nas", now=at(300))
    beat(*range(400, 471, 10), start=-60 * 390)  # the counters begin anew within the boot
    expected = of_each(asked(), 0, 600) if ask is between else of_each(asked(), 0, 600)[0]
    memory.forget()
    assert ask(asked(), 0, 595) == expected
    interfaces = asked()
    with before_query(place, lambda: seal.seal("nas", now=at(420))):
        assert ask(interfaces, 0, 596) == expected
    assert ask(asked(), 0, 596) == expected


def test_what_eleven_servers_reported_and_is_sealed_midway_is_told(beat):
    servers = [f"server-{number:02}" for number in range(11)]  # of more than ten the log is not read as a whole
    for server in servers:
        beat(*range(0, 301, 30), server=server)
        seal.seal(server, now=at(300))
        beat(*range(330, 451, 30), server=server, booted=320, start=0)
    expected = [of_each([interface], 0, 600)[0] for interface in asked()]
    assert is_told_throughout(lambda interfaces: of_each(interfaces, 0, 600), expected, lambda: seal.tick(now=at(480)))


def test_a_week_that_is_merged_midway_is_told_where_a_late_heartbeat_waits(beat):
    beat(*range(0, 601, 10), 3 * DAY + 600)  # Monday and Thursday
    seal.seal("nas", now=at(3 * DAY + 660))
    beat(2 * DAY + 1380, received=3 * DAY + 665)  # Wednesday
    merging = partial(seal.merge, now=at(30 * DAY))
    for ask in (of_each, between):
        expected = [[60 * (3 * DAY + 600)]]
        assert is_told_throughout(lambda interfaces, ask=ask: ask(interfaces, 0, 3 * DAY + 700), expected, merging)
    for ask in (told, from_hours):
        expected = [60 * (3 * DAY + 600 - 15)]
        assert is_told_throughout(lambda interfaces, ask=ask: ask(interfaces, 15, 3 * DAY + 715), expected, merging)


@pytest.mark.parametrize("ask", [between, of_each])
@pytest.mark.parametrize("alone", [0, 1])
@pytest.mark.parametrize("manager", [Interface.objects.with_revision, Interface.objects.all])
def test_the_reading_next_to_a_window_is_found_where_something_late_waits_after_it(
    beat, ask, alone, manager, monkeypatch
):
    monkeypatch.setattr("metrics.increases.ALONE", alone)
    beat(*range(0, 5 * DAY + 1400, 10))
    beat(6 * DAY + 5, 8 * DAY + 1200, start=JUMP)  # much passed until Sunday, and nothing more until Tuesday
    seal.seal("nas", now=at(8 * DAY + 1260))
    minutes = [DAY // 2 + 30 + day * DAY for day in range(5)] + [5 * DAY + 1410]  # more than are cut one by one
    expected = ask(list(manager()), *minutes)
    memory.forget()
    beat(8 * DAY + 780, start=JUMP, received=8 * DAY + 1265)
    assert ask(list(manager()), *minutes) == expected


@pytest.mark.parametrize("days", [1, 4])
def test_days_of_several_servers_are_told_just_after_midnight(beat, days):
    """Of a period that is not over, midnight is not among the last instants, and before the first that waits."""
    for server in ("nas", "pi"):
        beat(*range(5, 2 * DAY, 10), server=server)
        seal.seal(server, now=at(2 * DAY))
        beat(*range(2 * DAY + 5, 2 * DAY + 36, 10), server=server, start=JUMP)
    window = at(0), at((2 + days) * DAY), parse_step("1d"), ZoneInfo("UTC")
    alone = [row for interface in asked() for row in history.usage([interface], *window, by_server=False)]
    memory.forget()
    assert history.usage(asked(), *window, by_server=False) == alone


@pytest.mark.parametrize("behind", [60, 180])
def test_the_chart_of_who_passed_most_is_told_as_of_its_ranking(beat, behind):
    end = 30 * 60
    for server in ("nas", "pi"):
        beat(*range(5, end - behind + 6, 10), server=server)
        beat(*range(end - behind + 15, end - 4, 10), server=server, start=JUMP)
        seal.seal(server, now=at(end - behind))
    hours = range(0, end + 1, 60)
    expected = {interface.id: of_each([interface], *hours)[0] for interface in asked()}
    memory.forget()
    interfaces = asked()
    as_of = history.standings(interfaces, at(0), at(end), list(map(at, hours)))
    rows = history.top(interfaces, at(0), at(end), limit=len(interfaces), as_of=as_of)
    found = history.sums_between({interface.id: [interface] for interface in interfaces}, list(map(at, hours)), as_of)
    assert {pk: series.rx_bytes for pk, series in found.items()} == expected
    assert [row.rx_bytes for row in rows] == [sum(of) for of in expected.values()]


def test_what_is_remembered_of_some_servers_is_as_of_these(beat):
    """Of two servers something late waits for one, and the other is then sealed as often as both were."""
    beat(*range(0, 301, 10))
    beat(*(minute for minute in range(0, 71, 10) if minute != 30), server="pi")
    seal.seal("pi", now=at(120))
    beat(30, server="pi", received=71)
    for hour in range(1, 4):
        seal.seal("nas", now=at(60 * hour))
    from_hours(asked(), 75, 345)
    for hour in range(4, 8):
        beat(60 * hour + 10)
        seal.seal("nas", now=at(60 * hour + 60))
        interfaces = [interface for interface in asked() if interface.server_id == "nas"]
        known = from_hours(interfaces, 75, 345)
        memory.forget()
        assert known == from_hours(interfaces, 75, 345)
        from_hours(asked(), 75, 345)
