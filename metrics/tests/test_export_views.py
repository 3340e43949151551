"""The export as files: what is in them, and that memory does not grow with the window."""

import csv
import io
import json
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from metrics import export_views, seal
from metrics.counters import COLUMNS
from metrics.export import export_readings
from metrics.models import HOUR_MS, Interface, day_of, from_ms, to_ms

EXPORT = "/api/v1/metrics/export"
COUNTERS = "rx_bytes,tx_bytes,rx_packets,tx_packets,rx_errors,tx_errors,rx_dropped,tx_dropped"
READINGS = f"at,server_id,interface,{COUNTERS},is_up,boot"


@pytest.fixture
def export(reader: APIClient, now):
    """Ask for the export of the hour after instant 0, unless told otherwise."""

    def get(**query: Any) -> str:
        window = {"start": now.isoformat(), "end": (now + timedelta(hours=1)).isoformat()}
        answer = reader.get(EXPORT, {**window, **query})
        assert answer.status_code == 200
        return b"".join(answer.streaming_content).decode()

    return get


@pytest.fixture
def minutes(store, interface, server):
    for seconds in (0, 60, 120):
        store(seconds, network_interfaces=[interface("eth0", seconds * 100, 5, rx_errors=1), interface("eth1", 7)])


def test_readings_are_raw_counters_interface_by_interface(minutes, export):
    assert export().splitlines() == [
        READINGS,
        "2026-03-01T06:30:00.000Z,nas,eth0,0,5,0,0,1,,,,true,boot-1",
        "2026-03-01T06:31:00.000Z,nas,eth0,6000,5,0,0,1,,,,true,boot-1",
        "2026-03-01T06:32:00.000Z,nas,eth0,12000,5,0,0,1,,,,true,boot-1",
        "2026-03-01T06:30:00.000Z,nas,eth1,7,0,0,0,,,,,true,boot-1",
        "2026-03-01T06:31:00.000Z,nas,eth1,7,0,0,0,,,,,true,boot-1",
        "2026-03-01T06:32:00.000Z,nas,eth1,7,0,0,0,,,,,true,boot-1",
    ]


def test_ndjson_is_an_object_a_line(minutes, export):
    rows = [json.loads(line) for line in export(format="ndjson", interface="eth0").splitlines()]
    assert list(rows[0]) == READINGS.split(",")
    assert [(row["at"], row["rx_bytes"]) for row in rows] == [
        ("2026-03-01T06:30:00.000Z", 0), ("2026-03-01T06:31:00.000Z", 6000), ("2026-03-01T06:32:00.000Z", 12_000),
    ]  # fmt: skip
    assert (rows[0]["rx_errors"], rows[0]["tx_errors"], rows[0]["is_up"], rows[0]["boot"]) == (1, None, True, "boot-1")


def test_hours_are_what_passed_in_each(minutes, export):
    start = "2026-03-01T00:00:00Z"
    assert export(resolution="hour", start=start, interface="eth0").splitlines() == [
        f"at,server_id,interface,{COUNTERS},rx_peak,tx_peak,covered_seconds,up_seconds,resets,marks",
        "2026-03-01T06:00:00.000Z,nas,eth0,12000,0,0,0,0,,,,100,0,120.0,120.0,0,",
    ]


def test_the_marks_of_an_hour_are_words(store, interface, export, server):
    for seconds, rx_bytes in ((0, 50), (60, 7), (600, 9)):
        store(seconds, network_interfaces=[interface(rx_bytes=rx_bytes)])
    start = "2026-03-01T06:00:00Z"
    assert export(resolution="hour", start=start).splitlines()[1].endswith(",1,reset gap")
    assert json.loads(export(resolution="hour", start=start, format="ndjson"))["marks"] == ["reset", "gap"]


@pytest.mark.parametrize("resolution", ["reading", "hour"])
def test_an_export_is_the_same_after_sealing_and_merging(store, interface, export, now, resolution: str):
    for hours in range(0, 15 * 24, 7):
        store(hours * 3600, interval=25_200, network_interfaces=[interface(rx_bytes=hours * 10)])
    window = {"end": (now + timedelta(days=15)).isoformat(), "resolution": resolution}
    before = export(**window)
    assert before.count("\n") > 50
    seal.tick(now=now + timedelta(days=25))
    assert export(**window) == before


def test_a_window_has_its_start_and_not_its_end(minutes, export):
    assert export(interface="eth0", end="2026-03-01T06:31:00Z").count("\n") == 2
    parts = [("06:30:00", "06:31:00"), ("06:31:00", "06:32:00"), ("06:32:00", "06:33:00")]
    rows = [export(start=f"2026-03-01T{a}Z", end=f"2026-03-01T{b}Z", format="ndjson") for a, b in parts]
    assert sorted("".join(rows).splitlines()) == sorted(export(format="ndjson").splitlines())


def test_an_export_is_of_all_servers_or_of_one(minutes, store, interface, export):
    store(0, server_id="pi", network_interfaces=[interface("eth0", 3)])
    assert [line.split(",")[1:4] for line in export(interface="eth0").splitlines()[3:]] == [
        ["nas", "eth0", "12000"], ["pi", "eth0", "3"],
    ]  # fmt: skip
    assert export(server="pi").count("\n") == 2


def test_nothing_found_is_a_header_or_nothing(server, export):
    assert export() == f"{READINGS}\n"
    assert export(format="ndjson") == ""


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@a"])
def test_a_cell_that_a_spreadsheet_would_compute_is_text(store, interface, export, server, name: str):
    store(0, network_interfaces=[interface(name, 5)], boot_id=name)
    row = next(csv.DictReader(io.StringIO(export(interface=name))))
    assert (row["interface"], row["boot"], row["rx_bytes"]) == (f"'{name}", f"'{name}", "5")
    assert json.loads(export(format="ndjson"))["interface"] == name


def test_a_cell_with_a_comma_or_a_quote_is_one_cell(store, interface, export, server):
    store(0, network_interfaces=[interface('a,"b;', 5)])
    assert next(csv.DictReader(io.StringIO(export())))["interface"] == 'a,"b;'


@pytest.mark.parametrize(
    ("query", "name", "lines"),
    [
        ({}, "homelab-20260301-20260308.csv", 7),
        ({"server": "nas", "interface": "eth0", "format": "ndjson"}, "homelab-nas-eth0-20260301-20260308.ndjson", 3),
        ({"interface": '../"x"\u00e9;'}, "homelab-.._x_-20260301-20260308.csv", 1),
    ],
)
def test_the_file_has_a_name_that_is_safe_anywhere(minutes, reader: APIClient, query: Any, name: str, lines: int):
    answer = reader.get(EXPORT, {"start": "2026-03-01T00:00:00Z", "end": "2026-03-08T00:00:00Z", **query})
    assert answer["Content-Disposition"] == f'attachment; filename="{name}"'
    assert answer["Content-Type"] == export_views.CONTENT_TYPES[query.get("format", "csv")]
    assert b"".join(answer.streaming_content).count(b"\n") == lines


@pytest.mark.parametrize(
    ("query", "attr"), [({"format": "xml"}, "format"), ({"resolution": "day"}, "resolution"), ({"start": "x"}, "start")]
)
def test_a_parameter_that_cannot_be_is_400(db, reader: APIClient, query: dict[str, str], attr: str):
    answer = reader.get(EXPORT, query)
    assert (answer.status_code, answer.json()["errors"][0]["attr"]) == (400, attr)


def test_an_unknown_server_or_interface_is_404(minutes, reader: APIClient):
    assert reader.get(EXPORT, {"server": "pi"}).status_code == 404
    assert reader.get(EXPORT, {"server": "nas", "interface": "eth7"}).status_code == 404


def test_too_many_exports_at_once_are_429_until_one_ends(minutes, reader: APIClient):
    running = [reader.get(EXPORT) for _ in range(export_views.MOST_AT_ONCE)]
    refused = reader.get(EXPORT)
    assert (refused.status_code, refused["Retry-After"]) == (429, "30")
    for answer in running:
        assert b"".join(answer.streaming_content).count(b"\n") == 1
    assert reader.get(EXPORT).status_code == 200


def test_a_head_reads_nothing(minutes, reader: APIClient, django_assert_max_num_queries):
    with django_assert_max_num_queries(4):
        answer = reader.head(EXPORT)
        assert b"".join(answer.streaming_content) == b""
    assert answer.status_code == 200


def test_six_weeks_take_no_more_memory_than_two(server, now):
    eth0 = Interface.objects.create(server=server, name="eth0")
    start = to_ms(now) // HOUR_MS * HOUR_MS
    for hour in range(0, 6 * 7 * 24, 24):
        at = start + hour * HOUR_MS
        readings = {name: [hour + minute for minute in range(1440)] for name in COLUMNS}
        readings |= {"at": [at + minute for minute in range(1440)], "boot": [0] * 1440, "interval": [1] * 1440}
        seal.add({eth0: readings}, day_of(at))
    peaks = []
    for days in (14, 42):
        rows = export_readings([eth0], from_ms(start), from_ms(start) + timedelta(days=days))
        tracemalloc.start()
        count = sum(1 for _ in rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == days * 1440
    assert peaks[1] < 1.2 * peaks[0]
