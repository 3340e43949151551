"""All there is, row by row: a week of one interface is in memory at a time."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from typing import NamedTuple
from zoneinfo import ZoneInfo

from metrics.counters import COUNTERS, UNKNOWN
from metrics.history import series
from metrics.models import Interface, day_of, day_start, from_ms, to_ms, week_of
from metrics.periods import Step
from metrics.readings import readings_within
from servers.models import Boot

UTC_ZONE = ZoneInfo("UTC")


class ExportedReading(NamedTuple):
    at: datetime
    server_id: str
    interface: str
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_errors: int | None
    tx_errors: int | None
    rx_dropped: int | None
    tx_dropped: int | None
    is_up: bool
    boot: str | None


class ExportedHour(NamedTuple):
    """What passed in an hour; peaks in bytes per second."""

    at: datetime
    server_id: str
    interface: str
    rx_bytes: int | None
    tx_bytes: int | None
    rx_packets: int | None
    tx_packets: int | None
    rx_errors: int | None
    tx_errors: int | None
    rx_dropped: int | None
    tx_dropped: int | None
    rx_peak: float | None
    tx_peak: float | None
    covered_seconds: float
    up_seconds: float
    resets: int
    marks: list[str]


def export_readings(interfaces: Sequence[Interface], start: datetime, end: datetime) -> Iterator[ExportedReading]:
    """Yield the raw readings from `start` until `end`, interface by interface, oldest first.

    A week of one interface is in memory at a time. A counter that was not reported is null.
    """
    boots: dict[str, dict[int, str]] = {}
    for interface in interfaces:
        if interface.server_id not in boots:
            of_server = Boot.objects.filter(server=interface.server_id)
            boots = {interface.server_id: dict(of_server.values_list("pk", "boot_id"))}
        for since, until in _weeks(to_ms(start), to_ms(end)):
            column = readings_within(interface, since, until)
            yield from map(
                ExportedReading,
                map(from_ms, column["at"]),
                repeat(interface.server_id),
                repeat(interface.name),
                *(_or_null(column[name]) for name in COUNTERS),
                map(bool, column["link"]),
                map(boots[interface.server_id].get, column["boot"]),
            )


def _or_null(values: list[int]) -> Sequence[int | None]:
    return [value if value != UNKNOWN else None for value in values] if UNKNOWN in values else values


def export_hours(interfaces: Sequence[Interface], start: datetime, end: datetime) -> Iterator[ExportedHour]:
    """Yield what passed in each UTC hour from `start` until `end`, interface by interface, oldest first.

    A week of one interface is in memory at a time. Hours of which nothing is known are left out.
    """
    for interface in interfaces:
        for since, until in _weeks(to_ms(start), to_ms(end)):
            hours = series([interface], from_ms(since), from_ms(until), Step(3600), UTC_ZONE, counters=COUNTERS)
            columns = zip(*(getattr(hours, name) for name in ExportedHour._fields[3:]), strict=True)
            for at, values in zip(hours.start, columns, strict=True):
                row = ExportedHour(at, interface.server_id, interface.name, *values)
                if row.covered_seconds or row.marks:
                    yield row


def _weeks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the weeks from `start` to `end`, as chunks have them: each is unpacked once."""
    while start < end:
        monday = day_start(week_of(day_of(start)) + timedelta(days=7))
        yield start, min(monday, end)
        start = monday
