"""The latest reading of every interface as Prometheus reads it, under the names that node_exporter gives them."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from rest_framework.request import Request
from rest_framework.views import APIView

from metrics.changes import link
from servers.models import Server, State

COUNTERS = {
    "rx_bytes": "receive_bytes",
    "tx_bytes": "transmit_bytes",
    "rx_packets": "receive_packets",
    "tx_packets": "transmit_packets",
    "rx_errors": "receive_errs",
    "tx_errors": "transmit_errs",
    "rx_dropped": "receive_drop",
    "tx_dropped": "transmit_drop",
    "carrier_changes": "carrier_changes",
}
BYTES_PER_MBIT = 125_000
HEARD = (State.ONLINE, State.LATE)


class ExpositionView(APIView):
    @extend_schema(operation_id="prometheus", responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request) -> HttpResponse:
        """Answer a scrape by Prometheus: node_exporter's `node_network_*`, and whether each server is heard.

        `instance` is the server, so that the scrape needs `honor_labels: true`. Of a server that is not heard any
        more there are no counters.
        """
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(Fleet(now=timezone.now())), content_type=content_type)


class Fleet(NamedTuple):
    """All servers, as a registry of prometheus_client."""

    now: datetime

    def collect(self) -> Iterator[Metric]:
        servers = list(Server.objects.with_snapshot())
        heard = [server for server in servers if server.state(now=self.now) in HEARD]
        yield from _of_servers(servers, heard)
        interfaces = [
            ((server.pk, interface["name"]), interface)
            for server in heard
            for interface in server.snapshot.network_interfaces
        ]
        yield from _of_interfaces(interfaces)


def _of_servers(servers: Iterable[Server], heard: Iterable[Server]) -> Iterator[Metric]:
    up = GaugeMetricFamily("homelab_server_up", "Whether the server is heard.", labels=["instance"])
    seen = GaugeMetricFamily(
        "homelab_server_last_seen_timestamp_seconds", "When the server was last heard.", labels=["instance"]
    )
    skew = GaugeMetricFamily(
        "homelab_server_clock_skew_seconds", "How far its clock is behind the hub's.", labels=["instance"]
    )
    ids = {server.pk for server in heard}
    for server in servers:
        up.add_metric([server.pk], server.pk in ids)
        if server.last_seen_at is not None:
            seen.add_metric([server.pk], server.last_seen_at.timestamp())
            if server.snapshot.clock_skew_seconds is not None:
                skew.add_metric([server.pk], server.snapshot.clock_skew_seconds)
    yield from (up, seen, skew)


def _of_interfaces(interfaces: list[tuple[tuple[str, str], dict[str, Any]]]) -> Iterator[Metric]:
    labels = ["instance", "device"]
    for counter, name in COUNTERS.items():
        text = f"Network device statistic {name}."
        family = CounterMetricFamily(f"node_network_{name}", text, labels=labels)
        for values, interface in interfaces:
            if interface.get(counter) is not None:
                family.add_metric(values, interface[counter])
        yield family
    up = GaugeMetricFamily("node_network_up", "Value is 1 if the link is up, 0 otherwise.", labels=labels)
    speed = GaugeMetricFamily("node_network_speed_bytes", "Network device property: speed_bytes.", labels=labels)
    mtu = GaugeMetricFamily("node_network_mtu_bytes", "Network device property: mtu_bytes.", labels=labels)
    for values, interface in interfaces:
        up.add_metric(values, link(interface) == "up")
        if (interface.get("speed_mbps") or 0) > 0:
            speed.add_metric(values, interface["speed_mbps"] * BYTES_PER_MBIT)
        if interface.get("mtu") is not None:
            mtu.add_metric(values, interface["mtu"])
    yield from (up, speed, mtu)
