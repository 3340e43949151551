"""An example of every call and of its answer, for the OpenAPI schema; the tests send each of them."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from django.conf import settings
from drf_spectacular.utils import OpenApiExample

HEARTBEAT = json.loads((settings.BASE_DIR / "docs" / "heartbeat.json").read_text())
SMALLEST = {
    "server_id": "pi-01",
    "hostname": "pi-01.home.arpa",
    "timestamp": "2026-03-01T06:30:00Z",
    "network_interfaces": [
        {"name": "eth0", "rx_bytes": 6000, "tx_bytes": 600, "rx_packets": 60, "tx_packets": 6, "is_up": True}
    ],
}
PASSED = {"rx_bytes": 6000, "tx_bytes": 600}
RATES = {"rx_rate": 100.0, "tx_rate": 10.0}
EVENT = {
    "id": "3629138374656000-nas-01",
    "server_id": "nas-01",
    "interface": "eth0",
    "kind": "speed_below_best",
    "at": "2026-03-01T06:31:00Z",
    "before": "2500",
    "after": "100",
}
LATEST = {**HEARTBEAT["network_interfaces"][1], **RATES, "master": None, "addresses": ["192.0.2.10"]}
INTERFACE = {
    "server_id": "nas-01",
    "name": "eth0",
    "label": "uplink",
    "kind": "physical",
    "mac": "b8:27:eb:4f:15:95",
    "master": "",
    "speed_mbps": 2500,
    "best_speed_mbps": 2500,
    "counts_in_total": True,
    "hidden": False,
    "first_seen_at": "2025-11-24T10:39:00Z",
    "last_seen_at": "2026-03-01T06:30:00Z",
    "latest": {**LATEST, "at": "2026-03-01T06:30:00Z"},
    **RATES,
    "totals": {"day": PASSED, "month": PASSED, "all": PASSED},
}
SERVER = {
    "id": "nas-01",
    "guid": HEARTBEAT["server_guid"],
    "hostname": HEARTBEAT["hostname"],
    "display_name": "",
    "state": "online",
    "last_seen_at": "2026-03-01T06:30:02.525Z",
    "os_info": HEARTBEAT["os_info"],
    "agent_version": "0.1.0",
    "interval": 60.0,
    "uptime_seconds": 1209600.512,
    "clock_skew_seconds": 0.0,
    "created_at": "2025-11-24T10:39:00Z",
    "network_interfaces": [LATEST],
}
SCRAPE = """\
# HELP node_network_receive_bytes_total Network device statistic receive_bytes.
# TYPE node_network_receive_bytes_total counter
node_network_receive_bytes_total{device="eth0",instance="nas-01"} 9.007199254740992e+015
"""
CSV = """\
at,server_id,interface,rx_bytes,tx_bytes,rx_packets,tx_packets,rx_errors,tx_errors,rx_dropped,tx_dropped,is_up,boot
2026-03-01T06:30:00.000Z,nas-01,eth0,6000,600,60,6,0,0,,,true,0c9e2b5a-6f3d-4f0e-8a51-d2b7c4e19a66
"""

REQUESTS: dict[str, dict[str, Any]] = {
    "agents_enrol": {"A new machine": {"server_id": "pi-02", "hostname": "pi-02.home.arpa"}},
    "agents_heartbeat": {"All that an agent can tell": HEARTBEAT, "The least": SMALLEST},
    "agents_heartbeats": {"A backlog": {"heartbeats": [SMALLEST]}},
}
PARAMETERS: dict[str, dict[str, list[Any]]] = {
    "events_list": {
        "server": ["nas-01"],
        "interface": ["eth0"],
        "kind": [["link_down", "flapped"], ["speed_below_best"]],
        "since": ["now-7d"],
        "cursor": [EVENT["id"]],
        "limit": [20],
    },
    "interfaces_list": {"server_id": ["nas-01"], "tz": ["Europe/Berlin"]},
    "interfaces_retrieve": {"server_id": ["nas-01"], "name": ["eth0"], "tz": ["Europe/Berlin"]},
    "metrics_export": {
        "server": ["nas-01"],
        "interface": ["eth0"],
        "start": ["now-7d", "2026-03-01T00:00:00Z"],
        "end": ["now"],
        "format": ["csv", "ndjson"],
        "resolution": ["reading", "hour"],
    },
    "metrics_history": {
        "server_id": ["nas-01"],
        "interface": ["eth0"],
        "start": ["now-7d", "2026-03-01T00:00:00+01:00"],
        "end": ["now"],
        "step": ["1h", "1d", "1month"],
        "tz": ["Europe/Berlin"],
    },
    "metrics_sparkline": {"server_id": ["nas-01"], "period": ["1h", "24h"], "interface": ["eth0"]},
    "metrics_top": {"window": ["24h", "7d"], "end": ["now", "2026-03-01T20:15:00+01:00"], "limit": [10]},
    "metrics_usage": {
        "by": ["server", "interface"],
        "period": ["month"],
        "billing_day": [15],
        "server": ["nas-01"],
        "interface": ["eth0"],
        "start": ["now-90d", "2026-01-01T00:00:00+01:00"],
        "end": ["now"],
        "tz": ["Europe/Berlin"],
        "p95": [True, False],
    },
    "servers_retrieve": {"server_id": ["nas-01"]},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "agents_enrol": {
        "application/json": {"server_id": "pi-02", "key": "0123456789.kP4uJ2f0VqB1s7Y3n5o8r6t9w_2x4z6A8C0E2G4I6K"}
    },
    "agents_heartbeat": {
        "application/json": {
            "status": "ok",
            "server_registered": False,
            "outcome": "accepted",
            "server_time": "2026-03-01T06:30:02.525Z",
            "pending_commands": [],
            "results_acknowledged": [],
        }
    },
    "agents_heartbeats": {
        "application/json": {
            "status": "ok",
            "results": [{"outcome": "accepted"}],
            "server_time": "2026-03-01T06:30:02.525Z",
        }
    },
    "events_list": {"application/json": EVENT},
    "interfaces_list": {"application/json": {"server_id": "nas-01", "interfaces": [INTERFACE], "total": 1}},
    "interfaces_retrieve": {"application/json": INTERFACE},
    "metrics_export": {
        "text/csv": CSV,
        "application/x-ndjson": '{"at":"2026-03-01T06:30:00.000Z","server_id":"nas-01","interface":"eth0", ...}\n',
    },
    "metrics_history": {
        "application/json": {
            "server_id": "nas-01",
            "interface": "eth0",
            "start": "2026-03-01T06:30:00Z",
            "end": "2026-03-01T06:32:00Z",
            "step": "1m",
            "tz": "UTC",
            "points": {
                "start": ["2026-03-01T06:30:00Z", "2026-03-01T06:31:00Z"],
                "rx_bytes": [6000, None],
                "tx_bytes": [600, None],
                "rx_packets": [60, None],
                "tx_packets": [6, None],
                "rx_rate": [100.0, None],
                "tx_rate": [10.0, None],
                "rx_peak": [100.0, None],
                "tx_peak": [10.0, None],
                "covered_seconds": [60.0, 0.0],
                "marks": [[], []],
            },
            "total": {**PASSED, "rx_packets": 60, "tx_packets": 6, "covered_seconds": 60.0, "resets": 0},
        }
    },
    "metrics_sparkline": {
        "application/json": {
            "server_id": "nas-01",
            "metric": "network",
            "interface": "eth0",
            "period": "1h",
            "data": [{"timestamp": "2026-03-01T06:30:00Z", **PASSED, **RATES}],
        }
    },
    "metrics_top": {
        "application/json": {
            "start": "2026-02-28T06:30:00Z",
            "end": "2026-03-01T06:30:00Z",
            "rows": [{"rank": 1, "server_id": "nas-01", "interface": "eth0", **PASSED}],
        }
    },
    "metrics_usage": {
        "application/json": {
            "by": "interface",
            "period": "month",
            "tz": "Europe/Berlin",
            "rows": [
                {
                    "server_id": "nas-01",
                    "interface": "eth0",
                    "start": "2026-02-01T00:00:00+01:00",
                    "end": "2026-03-01T00:00:00+01:00",
                    **PASSED,
                    "covered_seconds": 2419200.0,
                    "resets": 0,
                    "rx_p95": 100.0,
                    "tx_p95": 10.0,
                }
            ],
        }
    },
    "prometheus": {"text/plain": SCRAPE},
    "servers_list": {"application/json": {"servers": [SERVER], "total": 1}},
    "servers_retrieve": {"application/json": SERVER},
    "system_health": {"application/json": {"status": "ok"}},
}


def examples(operation_id: str) -> Iterator[OpenApiExample]:
    """Yield the examples of a call: of its parameters, of its body and of its answer."""
    for name, values in PARAMETERS.get(operation_id, {}).items():
        place: Literal["path", "query"] = "path" if name in ("server_id", "name") else "query"
        for value in values:
            yield OpenApiExample(str(value), value, parameter_only=(name, place))
    for name, body in REQUESTS.get(operation_id, {}).items():
        yield OpenApiExample(name, body, request_only=True, media_type="application/json")
    for media_type, answer in ANSWERS.get(operation_id, {}).items():
        yield OpenApiExample("Answer", answer, response_only=True, media_type=media_type)
