"""The cases this project was asked for, on the hub's side, over the API that agents and readers use.

The agent's share is in agent/tests/test_collect.py: two interfaces collected, empty and missing /proc/net/dev,
operstate up, down and missing, loopback excluded, tailscale0, docker0 and veth included.
"""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from metrics.models import Heartbeat
from servers.models import Boot, Snapshot

SERVER = "/api/v1/servers/nas"


@pytest.fixture
def report(agent: APIClient, heartbeat):
    """Report interfaces as collected `ago` seconds ago, over HTTP."""

    def post(*interfaces: dict[str, Any], ago: float = 0):
        times = {"uptime": 100_000.0 - ago, "sent_uptime": 100_000.0}
        body = heartbeat(network_interfaces=list(interfaces), **times)
        return agent.post("/api/v1/agents/heartbeat", body, format="json")

    return post


@pytest.fixture
def sparkline(reader: APIClient):
    def ask(**query: str) -> list[dict[str, Any]]:
        answer = reader.get("/api/v1/metrics/sparkline/nas/network", query)
        assert answer.status_code == 200
        return answer.json()["data"]

    return ask


def readings(name: str) -> list[int]:
    """The stored history of one interface: its rx_bytes, oldest first."""
    log = [dict(heartbeat.unpack()) for heartbeat in Heartbeat.objects.order_by("collected_at")]
    return [found[name].rx_bytes for found in log if name in found]


def test_complete_entry_is_valid(report, interface):
    full = interface(
        "eth0", 1234567890, 987654321, rx_packets=1000000, tx_packets=800000, rx_errors=0, tx_errors=0, rx_dropped=1,
        tx_dropped=0, operstate="up", speed_mbps=1000, mtu=1500, mac="b8:27:eb:4f:15:95", ifindex=2, kind="physical",
        master="br0", carrier_changes=2, addresses=["192.168.1.10"],
    )  # fmt: skip
    assert report(full).status_code == 200
    assert {name: Snapshot.objects.get().interface("eth0")[name] for name in full} == full


@pytest.mark.parametrize("name", ["name", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "is_up"])
def test_missing_field_is_rejected_and_named(report, interface, name: str):
    answer = report(interface(**{name: ...}))
    assert answer.status_code == 400
    assert [error["attr"] for error in answer.json()["errors"]] == [f"network_interfaces.0.{name}"]


@pytest.mark.parametrize("name", ["name", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "is_up"])
def test_wrong_type_is_rejected_and_named(report, interface, name: str):
    answer = report(interface(**{name: ["invalid"]}))
    assert answer.status_code == 400
    assert [error["attr"] for error in answer.json()["errors"]] == [f"network_interfaces.0.{name}"]


def test_server_detail_has_the_array(report, reader: APIClient, interface):
    report(interface("eth0", 5, 6, rx_packets=7, tx_packets=8))
    (shown,) = reader.get(SERVER).json()["network_interfaces"]
    six = {"name": "eth0", "rx_bytes": 5, "tx_bytes": 6, "rx_packets": 7, "tx_packets": 8, "is_up": True}
    assert {name: shown[name] for name in six} == six


def test_server_detail_is_empty_for_a_new_server(reader: APIClient):
    answer = reader.get(SERVER)
    assert answer.status_code == 200
    assert answer.json()["network_interfaces"] == []


def test_server_detail_shows_three_interfaces(report, reader: APIClient, interface):
    report(interface("eth0"), interface("docker0"), interface("tailscale0"))
    shown = reader.get(SERVER).json()["network_interfaces"]
    assert [entry["name"] for entry in shown] == ["eth0", "docker0", "tailscale0"]


def test_heartbeat_stores_snapshot_and_history(report, interface):
    assert report(interface("eth0", 42)).json()["outcome"] == "accepted"
    assert Snapshot.objects.get().interface("eth0")["rx_bytes"] == 42
    assert readings("eth0") == [42]


def test_history_has_a_row_per_heartbeat_with_the_right_times(report, interface):
    for ago in (120, 60, 0):
        report(interface(), ago=ago)
    first, second, third = Heartbeat.objects.order_by("collected_at").values_list("collected_at", flat=True)
    assert (second - first, third - second) == (timedelta(minutes=1), timedelta(minutes=1))
    assert timezone.now() - third < timedelta(seconds=10)
    assert Boot.objects.count() == 1


def test_history_is_queryable_by_interface(report, sparkline, interface):
    for number, ago in enumerate((120, 60, 0)):
        report(interface("eth0", number), interface("eth1", number * 10), ago=ago)
    assert [point["rx_bytes"] for point in sparkline(interface="eth1")] == [0, 10, 20]


def test_history_keeps_two_interfaces_apart(report, interface):
    for number, ago in enumerate((60, 0)):
        report(interface("eth0", 100 + number), interface("eth1", 200 + number), ago=ago)
    assert (readings("eth0"), readings("eth1")) == ([100, 101], [200, 201])


def test_sparkline_returns_ordered_data(report, sparkline, interface):
    for ago in (0, 180, 60, 120):
        report(interface(rx_bytes=1_000_000 - ago * 100), ago=ago)
    points = sparkline(interface="eth0")
    assert [point["rx_bytes"] for point in points] == [982_000, 988_000, 994_000, 1_000_000]
    assert [point["rx_rate"] for point in points] == [None, 100, 100, 100]
    assert [point["timestamp"] for point in points] == sorted(point["timestamp"] for point in points)


def test_sparkline_is_filtered_by_interface(report, sparkline, interface):
    report(interface("eth0", 1), interface("eth1", 2))
    assert [point["rx_bytes"] for point in sparkline(interface="eth0")] == [1]
    assert [point["rx_bytes"] for point in sparkline(interface="eth1")] == [2]


def test_sparkline_is_filtered_by_period(report, sparkline, interface):
    for ago in (5 * 3600, 50 * 60, 60):
        report(interface(rx_bytes=ago), ago=ago)
    assert [point["rx_bytes"] for point in sparkline(interface="eth0", period="30m")] == [60]
    assert [point["rx_bytes"] for point in sparkline(interface="eth0", period="1h")] == [3000, 60]
    assert [point["rx_bytes"] for point in sparkline(interface="eth0", period="6h")] == [18_000, 3000, 60]


def test_sparkline_of_an_unknown_interface_is_empty(report, sparkline, interface):
    report(interface("eth0"))
    assert sparkline(interface="nonexistent0") == []
