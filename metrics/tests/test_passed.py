"""What is remembered of a fleet's chunks is not used past its time. That it is exact, test_exactness.py tells."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from metrics import memory, seal
from metrics import passed as passed_module
from metrics.increases import bytes_between
from metrics.ingest import Report, ingest_batch
from metrics.models import Chunk, Interface, to_ms
from metrics.passed import passed
from servers.models import Snapshot

pytestmark = pytest.mark.django_db

SERVERS = 11  # more than the log is read of as a whole
MINUTES = range(-180, 1, 10)  # a byte a second


@pytest.fixture
def window(now):
    return to_ms(now - timedelta(hours=3)), to_ms(now + timedelta(minutes=30))


@pytest.fixture
def report(now, interface):
    """Have as many servers report at some minutes from now."""

    def report(minutes):
        for number in range(SERVERS):
            reports = [
                Report(
                    f"server-{number}", "any", now + timedelta(minutes=minute), boot_id="one",
                    uptime=10**6 + 60.0 * minute, sent_uptime=10.0**6,
                    network_interfaces=[interface(rx_bytes=10**6 + 60 * minute, tx_bytes=0)],
                )
                for minute in minutes
            ]  # fmt: skip
            ingest_batch(reports, may_register=True, now=now)

    return report


@pytest.fixture
def fleet(now, report):
    """Servers that have reported for three hours, of which all but the last one and a half are sealed."""
    report(MINUTES)
    seal.tick(now=now - timedelta(minutes=80))
    return list(Interface.objects.with_revision())


def bytes_of(fleet, window):
    return {known and known[0] for known in passed(fleet, *window).values()}


def test_what_is_sealed_while_it_is_asked_for_is_not_lost(fleet, window, now):
    assert bytes_of(fleet, window) == {3 * 3600}
    seal.tick(now=now + timedelta(hours=1))
    assert bytes_of(fleet, window) == {3 * 3600}


def test_hours_that_are_pruned_are_not_remembered(fleet, window, now, settings):
    seal.tick(now=now + timedelta(hours=1))
    assert bytes_of(fleet, window) == {3 * 3600}
    settings.RETENTION_HOURS_DAYS = settings.RETENTION_READINGS_DAYS = 30
    assert seal.prune(now=now + timedelta(days=60))
    assert bytes_of(fleet, window) == {None}


def test_what_was_sealed_before_that_was_counted_is_gone_on_from(now, report):
    """As in a database of an older version, until the hub seals for the first time."""
    report(range(-120, 1))
    seal.tick(now=now)
    Snapshot.objects.update(sealed_revision=0, steady_since=Interface.objects.earliest("sealed_until").sealed_until)
    window = to_ms(now - timedelta(minutes=45)), to_ms(now)
    assert bytes_of(list(Interface.objects.with_revision()), window) == {45 * 60}


@pytest.fixture
def hourly(interface):
    """Have a server count a byte a second, reported each hour; return its interface, and windows in hours of it."""
    monday = datetime(2026, 3, 2, tzinfo=UTC)

    class Hourly:
        def report(self, hours, more=0):
            for hour in hours:
                at = monday + timedelta(hours=hour)
                counted = interface(rx_bytes=10**6 + 3600 * hour + more, tx_bytes=0)
                times = {"uptime": 10**6 + 3600.0 * hour, "sent_uptime": 10**6 + 3600.0 * hour, "interval": 3600}
                report = Report("nas", "any", at, boot_id="one", network_interfaces=[counted], **times)
                ingest_batch([report], may_register=True, now=at)

        def seal(self, hour):
            seal.seal("nas", now=monday + timedelta(hours=hour))

        def merge(self, hour):
            assert seal.merge(now=monday + timedelta(hours=hour))

        def interfaces(self):
            return list(Interface.objects.with_revision())

        def window(self, start, end):
            return to_ms(monday + timedelta(hours=start)), to_ms(monday + timedelta(hours=end))

    return Hourly()


@pytest.mark.parametrize("window", [(60, 192), (24, 192), (0, 96), (0, 24 * 15), (60, 24 * 9)])
def test_a_week_that_is_merged_while_it_is_asked_for_counts_once(hourly, window, monkeypatch):
    hourly.report(range(24 * 15 + 1))
    hourly.seal(24 * 16)
    start, end = window
    sums = passed_module._sums_of_each

    def merged_after(chunks):
        found = sums(chunks)
        monkeypatch.setattr(passed_module, "_sums_of_each", sums)
        hourly.merge(24 * 17)
        return found

    monkeypatch.setattr(passed_module, "_sums_of_each", merged_after)
    for _ in range(2):
        assert bytes_of(hourly.interfaces(), hourly.window(start, end)) == {3600 * (end - start)}
    assert Chunk.objects.filter(days=7).count() == 2


def test_a_day_that_is_sealed_since_the_interfaces_were_read_leaves_no_hole(hourly):
    hourly.report([0, 1])
    hourly.seal(3)
    hourly.report([72, 73])
    hourly.report([74], more=10**9)
    interfaces = hourly.interfaces()
    hourly.seal(74)
    for known in (interfaces, hourly.interfaces()):
        assert bytes_of(known, hourly.window(0.5, 48)) == {round(47.5 * 3600)}


@pytest.mark.parametrize("is_merged", [False, True])
def test_each_chunk_about_the_edges_of_a_window_counts_once(hourly, is_merged):
    hourly.report(range(24 * 17 + 1))
    hourly.seal(24 * 18)
    if is_merged:
        hourly.merge(24 * 18)
    for start in (0, 7, 24 * 2, 24 * 2 + 12, 24 * 6, 24 * 6 + 1, 24 * 7, 24 * 7 + 5):
        for end in (start + 5, *range(24 * 3, 24 * 17, 31), 24 * 7, 24 * 8, 24 * 10, 24 * 14):
            if start < end:
                assert bytes_of(hourly.interfaces(), hourly.window(start, end)) == {3600 * (end - start)}, (start, end)


@pytest.mark.parametrize("window", [(50.25, 50.5), (50, 50.5), (50.75, 51.5), (47.9, 48.1), (47.5, 48)])
@pytest.mark.parametrize("is_merged", [False, True])
def test_minutes_are_told_from_readings_alone(hourly, window, is_merged, monkeypatch):
    hourly.report(range(24 * 8 + 1))
    hourly.seal(24 * 9)
    if is_merged:
        hourly.merge(24 * 17)
    monkeypatch.setattr(passed_module, "_chunks_of", None)
    start, end = window
    for _ in range(2):
        assert bytes_of(hourly.interfaces(), hourly.window(start, end)) == {round(3600 * (end - start))}


def test_minutes_of_which_the_readings_are_gone_are_told_from_the_hours(hourly, settings):
    hourly.report(range(24 * 8 + 1))
    hourly.seal(24 * 9)
    settings.RETENTION_READINGS_DAYS = 30
    assert seal.prune(now=datetime(2026, 3, 10, tzinfo=UTC) + timedelta(days=30))
    assert Chunk.objects.filter(readings__isnull=True).count() == 2
    for start, end in [(47.5, 48.25), (23.25, 24.5), (30.25, 30.5)]:
        assert bytes_of(hourly.interfaces(), hourly.window(start, end)) == {round(3600 * (end - start))}


def test_of_minutes_that_one_interface_has_not_sealed_all_others_are_told_from_readings(fleet, report, now):
    Interface.objects.filter(server="server-1").update(sealed_until=now - timedelta(minutes=120))
    window = to_ms(now - timedelta(minutes=170)), to_ms(now - timedelta(minutes=110))
    assert bytes_of(list(Interface.objects.with_revision()), window) == {3600}


@pytest.mark.parametrize("window", [(10, 12), (10.5, 15.5), (-0.5, 6.5), (9.75, 10.25)])
def test_a_boot_that_was_silent_all_day_counts_in_whatever_way_it_is_told(interface, window):
    """Two machines under one name, of which one speaks just before the day and just after it."""
    midnight = datetime(2026, 3, 3, tzinfo=UTC)

    def report(hour, boot, rx_bytes):
        at = midnight + timedelta(hours=hour)
        counted = interface(rx_bytes=rx_bytes, tx_bytes=0)
        times = {"uptime": 10**6 + 3600.0 * hour, "sent_uptime": 10**6 + 3600.0 * hour, "interval": 1200}
        ingest_batch(
            [Report("nas", "any", at, boot_id=boot, network_interfaces=[counted], **times)], may_register=True, now=at
        )

    report(-2, "two", 10**9)
    for third in range(-18, 90):
        report(third / 3 + 0.001, "one", 1000 * third + 10**6)
    report(26, "two", 2 * 10**9)
    seal.tick(now=midnight + timedelta(days=3))
    start, end = (to_ms(midnight + timedelta(hours=hour)) for hour in window)
    interfaces = list(Interface.objects.with_revision())
    told = []
    for ahead in (False, True):
        memory.forget()
        told.append(passed(interfaces, start, end, ahead=ahead))
    measured = bytes_between(interfaces, [start, end])[interfaces[0].id].sums
    assert told[0] == told[1] == {interfaces[0].id: (measured["rx_bytes"][0], 0)}
    whole_hours = math.floor(window[1]) - math.ceil(window[0])
    assert told[0][interfaces[0].id][0] > 10**9 // 28 * whole_hours
