"""What Prometheus reads. That a real one reads it is in homelab/tests/test_prometheus.py."""

from datetime import timedelta

import pytest
from django.utils import timezone
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from servers.models import Server, Snapshot

NAMES = {
    "node_network_receive_bytes_total", "node_network_transmit_bytes_total",
    "node_network_receive_packets_total", "node_network_transmit_packets_total",
    "node_network_receive_errs_total", "node_network_transmit_errs_total",
    "node_network_receive_drop_total", "node_network_transmit_drop_total",
    "node_network_carrier_changes_total", "node_network_up", "node_network_speed_bytes", "node_network_mtu_bytes",
    "homelab_server_up", "homelab_server_last_seen_timestamp_seconds", "homelab_server_clock_skew_seconds",
}  # fmt: skip


@pytest.fixture
def reported(store, interface, server):
    """A heartbeat of nas, received a minute ago."""

    def build(*interfaces, ago: float = 60.0):
        store(0, now=timezone.now() - timedelta(seconds=ago), network_interfaces=list(interfaces) or [interface()])

    return build


def samples(reader: APIClient, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric, by the values of their labels."""
    families = text_string_to_metric_families(reader.get("/metrics").content.decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items(), reverse=True)): sample.value for sample in found}


def test_the_names_are_those_of_node_exporter(reported, golden, shared, reader: APIClient):
    shared.post("/api/v1/agents/heartbeat", golden, format="json")
    families = text_string_to_metric_families(reader.get("/metrics").content.decode())
    assert {sample.name for family in families for sample in family.samples} == NAMES


def test_counters_are_those_of_the_latest_reading(reported, interface, reader: APIClient):
    eth0 = interface("eth0", 5, 6, rx_packets=7, rx_errors=8, tx_dropped=9, carrier_changes=3)
    reported(eth0, interface("eth1", 10))
    labels = ("nas", "eth0")
    assert samples(reader, "node_network_receive_bytes_total") == {labels: 5, ("nas", "eth1"): 10}
    assert samples(reader, "node_network_transmit_bytes_total")[labels] == 6
    assert samples(reader, "node_network_receive_packets_total")[labels] == 7
    assert samples(reader, "node_network_transmit_drop_total") == {labels: 9}  # eth1 does not report them
    assert samples(reader, "node_network_carrier_changes_total") == {labels: 3}


def test_speed_is_in_bytes_and_absent_where_it_is_unknown(reported, interface, reader: APIClient):
    reported(interface("eth0", speed_mbps=1000, mtu=9000), interface("eth1", speed_mbps=-1))
    assert samples(reader, "node_network_speed_bytes") == {("nas", "eth0"): 125_000_000}
    assert samples(reader, "node_network_mtu_bytes") == {("nas", "eth0"): 9000}


def test_a_link_is_up_only_where_it_says_so(reported, interface, reader: APIClient):
    reported(interface("eth0"), interface("eth1", is_up=False), interface("wg0", operstate="unknown"))
    assert samples(reader, "node_network_up") == {("nas", "eth0"): 1, ("nas", "eth1"): 0, ("nas", "wg0"): 0}


@pytest.mark.parametrize(("ago", "up"), [(60, 1), (400, 1), (700, 0)])
def test_a_server_that_is_not_heard_is_down_and_has_no_counters(reported, reader: APIClient, ago: float, up: int):
    reported(ago=ago)
    assert samples(reader, "homelab_server_up") == {("nas",): up}
    assert len(samples(reader, "node_network_receive_bytes_total")) == up
    assert samples(reader, "homelab_server_last_seen_timestamp_seconds")[("nas",)] == pytest.approx(
        timezone.now().timestamp() - ago, abs=5
    )


def test_a_server_that_never_reported_is_down(server, reader: APIClient):
    assert samples(reader, "homelab_server_up") == {("nas",): 0}
    assert samples(reader, "homelab_server_last_seen_timestamp_seconds") == {}


def test_the_skew_is_that_of_the_servers_clock(reported, reader: APIClient):
    reported()
    Snapshot.objects.update(clock_skew_seconds=-2.5)
    assert samples(reader, "homelab_server_clock_skew_seconds") == {("nas",): -2.5}


@pytest.mark.parametrize("name", ['"onx=1', "a\\b", "é", "a<b>c", "{}", "a,b"])
def test_any_name_is_a_label(reported, interface, reader: APIClient, name: str):
    reported(interface(name, 5))
    assert samples(reader, "node_network_receive_bytes_total") == {("nas", name): 5}


def test_openmetrics_is_answered_to_who_asks_for_it(reported, reader: APIClient):
    reported()
    answer = reader.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert "node_network_up" in {family.name for family in open_metrics(answer.content.decode())}


def test_a_scrape_takes_two_queries_however_many_servers_there_are(reported, reader, django_assert_num_queries):
    for number in range(20):
        Server.objects.create(id=f"pi-{number}", hostname="pi")
    reader.get("/metrics")  # the key's first use is noted
    with django_assert_num_queries(2):
        reader.get("/metrics")


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_only_readers_may_scrape_and_nobody_is_redirected(db, api, agent, reader, settings, path: str):
    settings.SECURE_SSL_REDIRECT = True
    assert [client.get(path).status_code for client in (api, agent, reader)] == [401, 403, 200]
