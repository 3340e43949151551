"""What the reading calls answer over their URLs. 6000 bytes in a minute are 100 a second."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from metrics import seal
from metrics.models import Interface

HISTORY = "/api/v1/metrics/history/nas/network"
USAGE = "/api/v1/metrics/usage"
TOP = "/api/v1/metrics/top"
INTERFACES = "/api/v1/servers/nas/interfaces"
ODD = ["a/b", "eth0/", "/x", "a b", "%41", "é", "?x=1#y", "..%2F..", "<b>", "&", "+", "a;b"]


def refused(answer: Any, status: int, attr: str | None = None) -> str:
    """Whether an answer is an error of our one shape that names `attr`; what it says."""
    body = answer.json()
    assert (answer.status_code, body["errors"][0]["attr"]) == (status, attr), body
    return body["errors"][0]["detail"]


@pytest.fixture
def minutes(store, interface, server):
    """Four readings of eth0 and eth1 (a tenth of it), a minute apart, from instant 0 on: 6000 bytes a minute."""
    for seconds in (0, 60, 120, 180):
        eth0 = interface("eth0", seconds * 100, seconds * 10, rx_packets=seconds, tx_packets=seconds)
        store(seconds, network_interfaces=[eth0, interface("eth1", seconds * 10, seconds)])


@pytest.fixture
def ask(reader: APIClient, now: datetime):
    """Ask for the history of the three minutes after instant 0, unless told otherwise."""

    def get(**query: Any):
        window = {"start": now.isoformat(), "end": (now + timedelta(minutes=3)).isoformat()}
        return reader.get(HISTORY, {name: value for name, value in {**window, **query}.items() if value is not None})

    return get


# History


def test_a_history_has_the_shape_and_the_numbers(minutes, ask):
    assert ask(interface="eth0", step="1m").json() == {
        "server_id": "nas",
        "interface": "eth0",
        "start": "2026-03-01T06:30:00Z",
        "end": "2026-03-01T06:33:00Z",
        "step": "1m",
        "tz": "UTC",
        "points": {
            "start": ["2026-03-01T06:30:00Z", "2026-03-01T06:31:00Z", "2026-03-01T06:32:00Z"],
            "rx_bytes": [6000] * 3,
            "tx_bytes": [600] * 3,
            "rx_packets": [60] * 3,
            "tx_packets": [60] * 3,
            "rx_rate": [100.0] * 3,
            "tx_rate": [10.0] * 3,
            "rx_peak": [100.0] * 3,
            "tx_peak": [10.0] * 3,
            "covered_seconds": [60.0] * 3,
            "marks": [[], [], []],
        },
        "total": {
            "rx_bytes": 18_000, "tx_bytes": 1800, "rx_packets": 180, "tx_packets": 180, "covered_seconds": 180.0,
            "resets": 0,
        },
    }  # fmt: skip


def test_without_an_interface_it_is_the_servers_total(minutes, ask):
    answer = ask(step="3m").json()
    assert (answer["interface"], answer["points"]["rx_bytes"]) == (None, [19_800])


def test_the_parts_of_any_step_add_up(minutes, ask):
    for step in ("7s", "1m", "raw", "1d", "1month"):
        assert ask(interface="eth0", step=step).json()["total"]["rx_bytes"] == 18_000


def test_what_is_unknown_is_null(minutes, ask):
    answer = ask(interface="eth0", start="2026-02-28T06:30:00Z", end="2026-02-28T06:31:00Z").json()
    assert (answer["points"]["rx_bytes"], answer["points"]["rx_rate"], answer["points"]["rx_peak"]) == ([None],) * 3
    assert (answer["total"]["rx_bytes"], answer["total"]["covered_seconds"]) == (None, 0.0)


def test_the_instants_are_in_the_asked_zone_and_days_begin_at_its_midnight(minutes, ask):
    answer = ask(start="2026-03-01T06:00:00Z", end="2026-03-02T00:00:00Z", step="1d", tz="Europe/Berlin").json()
    assert answer["points"]["start"] == ["2026-03-01T07:00:00+01:00", "2026-03-02T00:00:00+01:00"]


def test_a_history_is_of_the_last_day_at_a_sensible_step_unless_asked_otherwise(minutes, reader: APIClient):
    answer = reader.get(HISTORY).json()
    start, end = (datetime.fromisoformat(answer[name]) for name in ("start", "end"))
    assert (end - start, answer["step"], len(answer["points"]["start"]) >= 288) == (timedelta(days=1), "5m", True)


def test_only_an_end_means_the_day_before_it(minutes, ask):
    assert ask(start=None).json()["start"] == "2026-02-28T06:33:00Z"


def test_a_plus_that_was_not_escaped_is_a_plus(minutes, reader: APIClient):
    window = "start=2026-03-01T07:30:00+01:00&end=2026-03-01T07:33:00+01:00"
    assert reader.get(f"{HISTORY}?{window}").json()["total"]["rx_bytes"] == 19_800


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-03-01T06:30:00"}, "start"),
        ({"start": "now-999999w", "end": "now"}, "start"),
        ({"start": "2026-03-01T06:33:00Z"}, "start"),
        ({"end": "0001-01-01T00:00:00+01:00"}, "end"),
        ({"step": "0m"}, "step"),
        ({"step": "999999month"}, "step"),
        ({"step": "5x"}, "step"),
        ({"step": "1m\x00"}, "step"),
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"tz": ""}, "tz"),
        ({"interface": ""}, "interface"),
        ({"tz": "../../etc/localtime"}, "tz"),
        ({"interface": "e" * 65}, "interface"),
        ({"start": "now-999d", "end": "now", "step": "raw"}, "step"),
        ({"start": "1970-01-01T00:00:00Z", "end": "2199-01-01T00:00:00Z", "step": "1s"}, "step"),
    ],
)
def test_a_parameter_that_cannot_be_is_400_and_named_and_not_repeated(minutes, ask, query: dict[str, str], attr: str):
    detail = refused(ask(**query), 400, attr)
    assert (query.get(attr) or "?") not in detail


def test_eleven_thousand_points_are_answered_and_one_more_is_refused(minutes, ask):
    eleven_thousand = {"end": "2026-03-01T09:33:20Z", "step": "1s"}
    assert len(ask(**eleven_thousand).json()["points"]["start"]) == 11_000
    assert "11000 points" in refused(ask(**{**eleven_thousand, "end": "2026-03-01T09:33:21Z"}), 400, "step")


def test_a_raw_window_of_more_readings_than_points_is_refused(minutes, ask, now):
    assert ask(end=(now + timedelta(minutes=11_000)).isoformat(), step="raw").status_code == 200
    assert refused(ask(end=(now + timedelta(minutes=11_001)).isoformat(), step="raw"), 400, "step")


@pytest.mark.parametrize("step", ["1m", "1h", "1d", "1month", "raw"])
def test_a_history_is_the_same_after_sealing(minutes, ask, now, step: str):
    before = ask(interface="eth0", step=step).json()
    seal.tick(now=now + timedelta(days=2))
    assert ask(interface="eth0", step=step).json() == before


def test_an_unknown_interface_or_server_is_404(minutes, ask, reader: APIClient):
    refused(ask(interface="eth7"), 404)
    refused(ask(interface="ETH0"), 404)
    refused(reader.get("/api/v1/metrics/history/pi/network"), 404)


def test_a_server_that_never_reported_has_a_history_of_nothing(server, reader: APIClient):
    assert set(reader.get(HISTORY).json()["points"]["rx_bytes"]) == {None}


@pytest.mark.parametrize("name", ODD)
def test_an_interface_is_found_by_any_name(store, interface, ask, reader: APIClient, name: str):
    for seconds in (0, 60):
        store(seconds, network_interfaces=[interface("eth0"), interface(name, seconds * 100)])
    assert ask(interface=name).json()["total"]["rx_bytes"] == 6000
    assert reader.get(f"{INTERFACES}/{quote(name, safe='')}").json()["name"] == name


# Caching


def test_a_past_window_is_not_sent_twice(minutes, ask, reader: APIClient, now):
    seal.tick(now=now + timedelta(days=2))
    first = ask()
    assert first["Cache-Control"] == "private, no-cache"
    again = reader.get(first.wsgi_request.get_full_path(), headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])


def test_a_late_reading_changes_the_tag(minutes, ask, store, interface, now):
    before = ask()["ETag"]
    store(90, 3600, network_interfaces=[interface("eth0", 9500)])
    assert ask()["ETag"] != before


def test_the_reading_after_the_window_changes_the_tag_also_after_a_long_silence(minutes, ask, store, interface, now):
    end = (now + timedelta(hours=2)).isoformat()
    seal.tick(now=now + timedelta(days=2))
    before = ask(end=end)
    store(10 * 86_400, network_interfaces=[interface("eth0", 10**6)])
    after = ask(end=end)
    assert (before["ETag"] != after["ETag"], before.json()["total"] != after.json()["total"]) == (True, True)


def test_new_readings_leave_the_tag_of_a_sealed_window(minutes, ask, store, interface, now):
    seal.tick(now=now + timedelta(days=2))
    before = ask(end=(now + timedelta(minutes=2)).isoformat())["ETag"]
    store(2 * 86_400, network_interfaces=[interface("eth0", 10**6)])
    assert ask(end=(now + timedelta(minutes=2)).isoformat())["ETag"] == before


def test_another_step_or_window_has_another_tag(minutes, ask):
    tags = {ask(**query)["ETag"] for query in ({}, {"step": "2m"}, {"interface": "eth0"}, {"tz": "Asia/Tokyo"})}
    assert len(tags) == 4


def test_a_window_until_now_has_no_tag(minutes, ask):
    assert "ETag" not in ask(end=(timezone.now() + timedelta(minutes=1)).isoformat())


# Usage


def usage(reader: APIClient, **query: str) -> list[tuple[Any, ...]]:
    window = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
    rows = reader.get(USAGE, {**window, **query}).json()["rows"]
    return [(row["interface"], row["rx_bytes"], row["tx_bytes"]) for row in rows]


def test_usage_has_the_shape_and_the_numbers(minutes, reader: APIClient):
    query = {"period": "month", "start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z", "interface": "eth0"}
    assert reader.get(USAGE, query).json() == {
        "by": "interface",
        "period": "month",
        "tz": "UTC",
        "rows": [
            {
                "server_id": "nas",
                "interface": "eth0",
                "start": "2026-03-01T00:00:00Z",
                "end": "2026-04-01T00:00:00Z",
                "rx_bytes": 18_000,
                "tx_bytes": 1800,
                "covered_seconds": 180.0,
                "resets": 0,
                "rx_p95": 60.0,  # one slot of five minutes: 18000 / 300
                "tx_p95": 6.0,
            }
        ],
    }


def test_usage_is_of_every_interface_or_of_every_server(minutes, reader: APIClient):
    assert usage(reader) == [("eth0", 18_000, 1800), ("eth1", 1800, 180)]
    assert usage(reader, by="server") == [(None, 19_800, 1980)]


def test_usage_by_server_counts_what_counts_in_its_total(minutes, reader: APIClient):
    Interface.objects.filter(name="eth1").update(counts_in_total=False)
    assert usage(reader, by="server") == [(None, 18_000, 1800)]
    Interface.objects.update(counts_in_total=False)  # none does: all do
    assert usage(reader, by="server") == [(None, 19_800, 1980)]


def test_usage_can_be_of_one_server_or_one_interface(minutes, reader: APIClient, store, interface):
    store(0, server_id="pi", network_interfaces=[interface("eth0")])
    assert usage(reader, server="nas", interface="eth1") == [("eth1", 1800, 180)]
    assert usage(reader, interface="eth0") == [("eth0", 18_000, 1800), ("eth0", None, None)]
    assert usage(reader, interface="eth7") == []
    refused(reader.get(USAGE, {"server": "nas", "interface": "eth7"}), 404)
    refused(reader.get(USAGE, {"server": "other"}), 404)


def test_usage_is_of_the_current_period_unless_asked_otherwise(minutes, reader: APIClient):
    for period in ("day", "month"):
        rows = reader.get(USAGE, {"period": period, "tz": "Asia/Kathmandu"}).json()["rows"]
        start = datetime.fromisoformat(rows[0]["start"])
        assert len(rows) == 2
        assert (start.isoformat()[10:], start.day == 1 or period == "day") == ("T00:00:00+05:45", True)


def test_a_billing_month_begins_on_its_day_and_on_a_shorter_months_last(minutes, reader: APIClient):
    query = {"period": "month", "billing_day": "31", "start": "2026-01-31T00:00:00Z", "end": "2026-03-31T00:00:00Z"}
    rows = reader.get(USAGE, {**query, "interface": "eth0"}).json()["rows"]
    assert [(row["start"][:10], row["rx_bytes"]) for row in rows] == [("2026-01-31", None), ("2026-02-28", 18_000)]


def test_percentiles_are_left_out_where_they_are_not_wanted_or_too_many(minutes, reader: APIClient):
    year = {"start": "2025-08-01T00:00:00Z", "end": "2026-04-01T00:00:00Z", "period": "month", "server": "nas"}
    p95 = {
        asked: reader.get(USAGE, {**year, **({"p95": asked} if asked else {})}).json()["rows"][7]["rx_p95"]
        for asked in ("", "true", "false")
    }
    assert p95 == {"": None, "true": 60.0, "false": None}  # 2 interfaces for 243 days


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ({"by": "month"}, "by"),
        ({"period": "week"}, "period"),
        ({"billing_day": "3"}, "billing_day"),
        ({"billing_day": "32", "period": "month"}, "billing_day"),
        ({"billing_day": "x", "period": "month"}, "billing_day"),
        ({"tz": "Berlin"}, "tz"),
        ({"start": "now"}, "start"),
        ({"p95": "perhaps"}, "p95"),
        ({"start": "2000-01-01T00:00:00Z", "end": "2020-01-01T00:00:00Z"}, "period"),
        ({"start": "2015-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z", "p95": "true"}, "p95"),
    ],
)
def test_usage_that_cannot_be_is_400(minutes, reader: APIClient, query: dict[str, str], attr: str):
    refused(reader.get(USAGE, query), 400, attr)


# Top


def test_top_ranks_by_both_ways_together(minutes, reader: APIClient, store, interface):
    for seconds in (0, 60):
        store(seconds, server_id="pi", network_interfaces=[interface("wlan0", seconds, seconds * 100)])
    window = {"start": "2026-03-01T06:30:00Z", "end": "2026-03-01T06:31:00Z"}
    assert reader.get(TOP, {**window, "limit": 2}).json() == {
        **window,
        "rows": [
            {"rank": 1, "server_id": "nas", "interface": "eth0", "rx_bytes": 6000, "tx_bytes": 600},
            {"rank": 2, "server_id": "pi", "interface": "wlan0", "rx_bytes": 60, "tx_bytes": 6000},
        ],
    }


def test_top_is_of_the_last_day_unless_asked_otherwise(minutes, reader: APIClient):
    answer = reader.get(TOP).json()
    start, end = (datetime.fromisoformat(answer[name]) for name in ("start", "end"))
    assert (end - start, answer["rows"]) == (timedelta(days=1), [])


def test_a_window_reaches_back_from_the_end(minutes, reader: APIClient):
    answer = reader.get(TOP, {"window": "1m", "end": "2026-03-01T06:31:00Z"}).json()
    assert (answer["start"], answer["rows"][0]["rx_bytes"]) == ("2026-03-01T06:30:00Z", 6000)


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ({"window": "1month"}, "window"),
        ({"window": "999999w"}, "window"),
        ({"window": "1h", "start": "now-2h"}, "window"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"end": "tomorrow"}, "end"),
    ],
)
def test_a_ranking_that_cannot_be_is_400(db, reader: APIClient, query: dict[str, str], attr: str):
    refused(reader.get(TOP, query), 400, attr)


# Interfaces


@pytest.fixture
def recent(store, interface, server):
    """Two minutes of eth0, until now; eth1 only in the first of the three readings."""
    now = timezone.now() - timedelta(seconds=125)
    store(0, now=now, network_interfaces=[interface("eth0", 5), interface("eth1", kind="physical", mac="02:00")])
    for seconds in (60, 120):
        store(seconds, now=now, network_interfaces=[interface("eth0", 5 + seconds * 100, speed_mbps=1000)])


def test_interfaces_have_their_latest_reading_rates_and_totals(recent, reader: APIClient):
    answer = reader.get(INTERFACES).json()
    assert (answer["server_id"], answer["total"]) == ("nas", 2)
    eth0, eth1 = answer["interfaces"]
    assert (eth0["latest"]["rx_bytes"], eth0["rx_rate"], eth0["tx_rate"]) == (12_005, 100.0, 0.0)
    assert eth0["totals"]["all"] == {"rx_bytes": 12_000, "tx_bytes": 0}
    assert (eth0["speed_mbps"], eth0["best_speed_mbps"], eth0["counts_in_total"]) == (1000, 1000, True)
    assert (eth1["mac"], eth1["latest"], eth1["rx_rate"]) == ("02:00", None, None)
    assert eth1["totals"]["all"] == {"rx_bytes": None, "tx_bytes": None}


def test_the_kind_is_the_one_that_a_person_has_set(recent, reader: APIClient):
    Interface.objects.filter(name="eth0").update(chosen_kind="wifi")
    assert [interface["kind"] for interface in reader.get(INTERFACES).json()["interfaces"]] == ["wifi", "physical"]


def test_one_interface_is_as_in_the_list(recent, reader: APIClient):
    listed = reader.get(INTERFACES).json()["interfaces"]
    assert [reader.get(f"{INTERFACES}/{name}").json() for name in ("eth0", "eth1")] == listed


def test_a_server_that_is_not_online_has_no_rates_now(minutes, reader: APIClient):
    eth0 = reader.get(f"{INTERFACES}/eth0").json()
    assert (eth0["latest"]["rx_rate"], eth0["rx_rate"], eth0["tx_rate"]) == (100.0, None, None)


def test_an_unknown_server_interface_or_zone_is_refused(recent, reader: APIClient):
    refused(reader.get("/api/v1/servers/pi/interfaces"), 404)
    refused(reader.get("/api/v1/servers/pi/interfaces/eth0"), 404)
    refused(reader.get(f"{INTERFACES}/eth7"), 404)
    refused(reader.get(INTERFACES, {"tz": "x"}), 400, "tz")


def test_a_server_without_interfaces_has_an_empty_list(server, reader: APIClient):
    assert reader.get(INTERFACES).json() == {"server_id": "nas", "interfaces": [], "total": 0}


@pytest.mark.parametrize("url", [HISTORY, USAGE, TOP, INTERFACES, f"{INTERFACES}/eth0"])
def test_only_readers_may_read_and_none_may_write(minutes, api, agent, shared, reader, url: str):
    assert [client.get(url).status_code for client in (api, agent, shared)] == [401, 403, 403]
    refused(reader.post(url, {}, format="json"), 405)
