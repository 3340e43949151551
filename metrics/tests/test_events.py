"""Which events heartbeats leave behind, and how they are read. What is a change is in test_changes."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from metrics import seal
from metrics.ingest import ingest_batch
from metrics.models import Event
from metrics.serializers import parse_heartbeat
from servers.models import Server

EVENTS = "/api/v1/events"


def told() -> list[tuple[str, str]]:
    return [(event.kind, event.interface) for event in Event.objects.order_by("number")]


@pytest.fixture
def link(store, interface):
    """Store a heartbeat of eth0, `seconds` after instant 0."""
    return lambda seconds, late=0, **changes: store(seconds, late, network_interfaces=[interface(**changes)])


def test_the_first_heartbeat_is_no_event(link):
    link(0)
    assert told() == []


def test_a_change_is_told_once(link, now):
    for seconds, is_up in ((0, True), (60, False), (120, False)):
        link(seconds, is_up=is_up)
    event = Event.objects.get()
    assert (event.kind, event.interface, event.before, event.after) == ("link_down", "eth0", "up", "down")
    assert (event.server_id, event.at) == ("nas", now + timedelta(seconds=60))


def test_a_heartbeat_without_change_costs_no_query_more(link):
    link(0)
    with CaptureQueriesContext(
        connection,
    ) as unchanged:
        link(60)
    with CaptureQueriesContext(connection) as changed:
        link(120, is_up=False)
    assert len(changed) == len(unchanged) + 1
    assert not any("metrics_event" in query["sql"] for query in unchanged.captured_queries)


def test_a_late_or_a_repeated_heartbeat_is_no_event(link):
    link(120)
    link(60, 120, is_up=False)
    link(120, 60, is_up=False)
    assert told() == []


def test_events_of_a_batch_are_those_of_one_by_one(heartbeat, interface, now, server):
    states = (True, False, True, True, False)
    reports = [
        parse_heartbeat(
            heartbeat(
                uptime=1000.0 + 60 * index,
                sent_uptime=1300.0,
                network_interfaces=[interface(is_up=is_up), interface("eth1")],
            )
        )
        for index, is_up in enumerate(states)
    ]
    ingest_batch([reports[2], reports[0], reports[4], reports[3], reports[1]], may_register=False, now=now)
    assert told() == [("link_down", "eth0"), ("link_up", "eth0"), ("link_down", "eth0")]
    assert [event.at for event in Event.objects.order_by("number")] == [
        now + timedelta(seconds=60 * index - 300) for index in (1, 2, 4)
    ]


def test_the_speed_is_compared_with_the_best_ever_seen(link):
    for seconds, speed in ((0, 1000), (60, 100), (120, 10), (180, 1000), (240, 2500)):
        link(seconds, speed_mbps=speed)
    assert [(event.kind, event.before, event.after) for event in Event.objects.order_by("number")] == [
        ("speed_below_best", "1000", "100"),
        ("speed_below_best", "100", "10"),
        ("speed_changed", "10", "1000"),
        ("speed_changed", "1000", "2500"),
    ]


def test_a_report_without_interfaces_hides_no_change(store, interface):
    store(0, network_interfaces=[interface()])
    store(60, network_interfaces=...)
    store(120, network_interfaces=[interface(is_up=False), interface("usb0")])
    assert told() == [("link_down", "eth0"), ("appeared", "usb0")]


def test_a_reboot_is_one_event(store, interface):
    store(0, network_interfaces=[interface(rx_bytes=9000, ifindex=2)])
    again = {"boot_id": "boot-2", "uptime": 20.0, "sent_uptime": 20.0}
    store(60, **again, network_interfaces=...)
    store(120, **{**again, "uptime": 80.0, "sent_uptime": 80.0}, network_interfaces=[interface(rx_bytes=5, ifindex=3)])
    assert told() == [("reboot", "")]


def test_a_clone_is_told_once_a_day(store, interface):
    for minute in range(6):
        clone = {"boot_id": "boot-2", "uptime": 500.0 + 60 * minute, "sent_uptime": 500.0 + 60 * minute}
        store(
            60 * minute, **(clone if minute % 2 else {}), network_interfaces=[interface(rx_bytes=10**6 * (minute % 2))]
        )
    assert told() == [("clone", "")]


def test_a_deleted_server_takes_its_events_along(link):
    link(0)
    link(60, is_up=False)
    Server.objects.all().delete()
    assert told() == []


def test_events_past_their_retention_are_pruned(link, now, settings):
    settings.RETENTION_EVENTS_DAYS = 1
    for minute in range(300):
        link(60 * minute, is_up=minute % 2 == 0)
    assert Event.objects.count() == 299
    seal.prune(now=now + timedelta(days=1, seconds=60 * 290))
    assert Event.objects.count() == 10
    assert min(event.at for event in Event.objects.all()) == now + timedelta(seconds=60 * 290)


# Reading them


@pytest.fixture
def flapping(link, store, interface, server):
    """Five changes of nas eth0 a minute apart, and one of pi in the middle."""
    for minute in range(6):
        link(60 * minute, is_up=minute % 2 == 0)
    for seconds in (0, 150):
        store(seconds, server_id="pi", network_interfaces=[interface("wlan0", is_up=not seconds)])


def test_events_are_newest_first_and_have_the_shape(flapping, reader: APIClient):
    answer = reader.get(EVENTS).json()
    assert answer["next"] is None
    assert [(event["server_id"], event["at"][14:19]) for event in answer["results"]] == [
        ("nas", "35:00"), ("nas", "34:00"), ("nas", "33:00"), ("pi", "32:30"), ("nas", "32:00"), ("nas", "31:00"),
    ]  # fmt: skip
    assert answer["results"][3] == {
        "id": f"{Event.objects.get(server='pi').number}-pi",
        "server_id": "pi",
        "interface": "wlan0",
        "kind": "link_down",
        "at": "2026-03-01T06:32:30Z",
        "before": "up",
        "after": "down",
    }


def test_what_is_the_servers_has_no_interface_and_what_is_empty_is_null(store, reader: APIClient, server):
    store(0)
    store(60, boot_id="boot-2", uptime=10.0, sent_uptime=10.0)
    event = reader.get(EVENTS).json()["results"][0]
    assert (event["interface"], event["before"], event["after"]) == (None, "boot-1", "boot-2")


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
def test_pages_follow_each_other_without_loss_or_repeat(flapping, reader: APIClient, limit: int):
    whole = reader.get(EVENTS).json()["results"]
    url, found = f"{EVENTS}?limit={limit}", []
    while url:
        page = reader.get(url).json()
        assert len(page["results"]) <= limit
        found, url = found + page["results"], page["next"]
    assert found == whole


def test_events_of_one_instant_are_told_apart_across_pages(store, interface, reader: APIClient, server):
    for of in ("nas", "pi", "tv"):
        store(0, server_id=of)
        store(60, server_id=of, network_interfaces=[interface(is_up=False), interface("usb0")])
    first = reader.get(EVENTS, {"limit": 3}).json()
    second = reader.get(first["next"]).json()
    ids = [event["id"] for event in first["results"] + second["results"]]
    assert (len(set(ids)), second["next"]) == (6, None)


def test_an_id_is_a_cursor(flapping, reader: APIClient):
    whole = reader.get(EVENTS).json()["results"]
    assert reader.get(EVENTS, {"cursor": whole[2]["id"]}).json()["results"] == whole[3:]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"server": "pi"}, 1),
        ({"server": "nas", "kind": "link_up"}, 2),
        ({"kind": ["link_up", "link_down"]}, 6),
        ({"kind": "reboot"}, 0),
        ({"interface": "wlan0"}, 1),
        ({"since": "2026-03-01T06:33:00Z"}, 3),
        ({"since": "now-1h"}, 0),
    ],
)
def test_events_are_filtered(flapping, reader: APIClient, query: dict[str, Any], count: int):
    assert len(reader.get(EVENTS, query).json()["results"]) == count


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ({"kind": "S3CRET"}, "kind"),
        ({"since": "S3CRET"}, "since"),
        ({"cursor": "S3CRET"}, "cursor"),
        ({"cursor": "9" * 30 + "-nas"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"limit": ""}, "limit"),
        ({"since": ""}, "since"),
        ({"limit": "0"}, "limit"),
        ({"limit": "S3CRET"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"interface": "\x00S3CRET"}, "interface"),
    ],
)
def test_a_filter_that_cannot_be_is_400_and_named(db, reader: APIClient, query: dict[str, str], attr: str):
    answer = reader.get(EVENTS, query)
    assert (answer.status_code, answer.json()["errors"][0]["attr"]) == (400, attr)
    assert b"S3CRET" not in answer.content


def test_events_of_an_unknown_server_are_404(db, reader: APIClient):
    assert [reader.get(EVENTS, {"server": name}).status_code for name in ("tv", "A B")] == [404, 404]


def test_only_readers_may_read_events(db, api, agent, reader):
    assert [client.get(EVENTS).status_code for client in (api, agent, reader)] == [401, 403, 200]
    assert reader.delete(EVENTS).status_code == 405
