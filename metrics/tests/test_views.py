"""The heartbeat and the sparkline over the real URLs, and every row of bad input that is not about rates or batches."""

import gzip
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from metrics.models import Heartbeat
from servers.models import ApiKey, Boot, Server, Snapshot

URL = "/api/v1/agents/heartbeat"
SPARKLINE = "/api/v1/metrics/sparkline/nas/network"


@pytest.fixture
def send(shared: APIClient):
    """Send a body, as JSON unless it is bytes, with a shared key; a refusal must leave nothing behind."""

    def post(body: Any, content_type: str = "application/json", **headers: str):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = shared.generic("POST", URL, data, content_type=content_type, **headers)
        if answer.status_code != 200:
            assert not Heartbeat.objects.exists()
            assert not Snapshot.objects.exists()
            assert Server.objects.count() == 1  # the one that has the agent key
        return answer

    return post


def refused(answer: Any, status: int, attr: str | None = None, kind: str | None = None) -> bool:
    """Whether an answer is an error of our one shape."""
    body = answer.json()
    assert answer.status_code == status, body
    assert answer["Content-Type"] == "application/json"
    assert set(body) == {"type", "errors", "request_id"}
    assert body["type"] == (kind or ("validation_error" if attr else "client_error"))
    assert all(set(error) == {"code", "detail", "attr"} for error in body["errors"])
    assert answer["X-Request-ID"] == body["request_id"]
    return attr is None or attr in [error["attr"] for error in body["errors"]]


# The heartbeat


def test_the_golden_heartbeat_is_acknowledged(send, golden):
    answer = send(golden)
    assert answer.status_code == 200
    ack = answer.json()
    assert abs(timezone.now() - datetime.fromisoformat(ack.pop("server_time"))) < timedelta(minutes=1)
    assert ack == {
        "status": "ok",
        "server_registered": True,
        "outcome": "accepted",
        "pending_commands": [],
        "results_acknowledged": [],
    }


def test_what_the_golden_heartbeat_reports_is_what_the_server_shows(send, golden, reader):
    send(golden)
    shown = reader.get("/api/v1/servers/nas-01").json()
    assert (shown["hostname"], shown["os_info"]) == (golden["hostname"], golden["os_info"])
    for told, seen in zip(golden["network_interfaces"], shown["network_interfaces"], strict=True):
        assert {name: seen[name] for name in told} == told


def test_the_golden_heartbeat_again_is_a_duplicate(send, golden):
    send(golden)
    ack = send(golden).json()
    assert (ack["outcome"], ack["server_registered"]) == ("duplicate", False)
    assert Heartbeat.objects.count() == 1


def test_both_header_forms_report(api: APIClient, keys, heartbeat):
    for header in ({"HTTP_AUTHORIZATION": f"Bearer {keys['agent']}"}, {"HTTP_X_API_KEY": keys["agent"]}):
        assert api.post(URL, heartbeat(), format="json", **header).status_code == 200


def test_an_agent_key_writes_its_own_server_and_registers_none(agent: APIClient, heartbeat):
    ack = agent.post(URL, heartbeat(), format="json").json()
    assert (ack["outcome"], ack["server_registered"]) == ("accepted", False)


def test_the_body_of_the_earlier_systems_agents_is_taken_as_it_is(api: APIClient, keys, reader):
    body = {
        "server_id": "media-server",
        "hostname": "media-server.home.arpa",
        "timestamp": timezone.now().isoformat(),
        "server_guid": "3f2b8c1e-7d54-4a96-9b0e-51c6d2a7f830",
        "agent_version": "2.3.1",
        "agent_mode": "readwrite",
        "config_version": 4,
        "os_info": {"distribution": "Ubuntu", "version": "24.04", "kernel": "6.8.0", "architecture": "x86_64"},
        "cpu_info": {"cpu_model": "Intel(R) N100", "cpu_cores": 4},
        "metrics": {
            "cpu_percent": 12.5, "memory_percent": 41.0, "memory_total_mb": 15_800, "memory_used_mb": 6478,
            "disk_percent": 60.2, "disk_total_gb": 233, "disk_used_gb": 140, "load_1m": 0.4, "load_5m": 0.3,
            "load_15m": None, "uptime_seconds": 86_400, "network_rx_bytes": 123, "network_tx_bytes": 456,
        },
        "services": [{"name": "plex", "status": "running", "pid": 812, "memory_mb": 300.5, "cpu_percent": 1.5}],
        "packages": [{"name": "openssl", "current_version": "3.0.13", "new_version": "3.0.14", "is_security": True}],
        "package_updates": {"updates_available": 1, "security_updates": 1},
        "filesystems": [{"device": "/dev/sda1", "mount_point": "/", "fs_type": "ext4", "total_bytes": 2**38}],
        "network_interfaces": [
            {"name": "eth0", "rx_bytes": 5, "tx_bytes": 6, "rx_packets": 7, "tx_packets": 8, "is_up": True}
        ],
        "command_results": [{"command_id": 12, "exit_code": 0, "stdout": "", "stderr": "", "duration_ms": 40}],
    }  # fmt: skip
    answer = api.post(URL, body, format="json", HTTP_X_API_KEY=keys["shared"])
    assert answer.status_code == 200
    assert (answer.json()["server_registered"], answer.json()["results_acknowledged"]) == (True, [])
    shown = reader.get("/api/v1/servers/media-server").json()
    assert (shown["uptime_seconds"], shown["network_interfaces"][0]["tx_packets"]) == (86_400, 8)


def test_an_older_agent_that_reports_no_interfaces_is_taken(send, heartbeat):
    assert send(heartbeat(network_interfaces=..., boot_id=..., timestamp=timezone.now().isoformat())).status_code == 200
    assert Snapshot.objects.get().network_interfaces == []


# Bad input, in the order of the table


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE"])
def test_another_method_is_405_with_allow(agent: APIClient, method: str):
    answer = agent.generic(method, URL, b"{}", content_type="application/json")
    assert refused(answer, 405)
    assert answer["Allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("slash", ["", "/"])
def test_both_paths_serve_and_none_redirects(agent: APIClient, heartbeat, slash: str):
    assert agent.post(URL + slash, heartbeat(), format="json").status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic YTpi", "Bearer caf\xe9.\xff", "\x00"])
def test_a_wrong_key_gives_the_same_401_as_no_key(api: APIClient, db: None, heartbeat, header: str):
    wrong = api.post(URL, heartbeat(), format="json", HTTP_AUTHORIZATION=header)
    none = api.post(URL, heartbeat(), format="json")
    assert refused(wrong, 401)
    assert wrong.json()["errors"] == none.json()["errors"]


def test_a_revoked_key_gives_the_same_401_as_no_key(agent: APIClient, api: APIClient, heartbeat):
    ApiKey.objects.get(kind="agent").revoke(now=timezone.now())
    revoked = agent.post(URL, heartbeat(), format="json")
    assert refused(revoked, 401)
    assert revoked.json()["errors"] == api.post(URL, heartbeat(), format="json").json()["errors"]


def test_an_expired_key_gives_401(agent: APIClient, heartbeat):
    ApiKey.objects.update(expires_at=timezone.now())
    assert refused(agent.post(URL, heartbeat(), format="json"), 401)


def test_a_key_in_the_query_or_the_body_gives_401(api: APIClient, keys, heartbeat):
    body = heartbeat(api_key=keys["shared"], key=keys["shared"], authorization=f"Bearer {keys['shared']}")
    assert refused(api.post(f"{URL}?api_key={keys['shared']}", body, format="json"), 401)


@pytest.mark.parametrize("kind", ["enrolment", "read"])
def test_a_key_of_another_kind_gives_403(api: APIClient, keys, heartbeat, kind: str):
    assert refused(api.post(URL, heartbeat(), format="json", HTTP_X_API_KEY=keys[kind]), 403)


@pytest.mark.parametrize("server_id", ["other", "pi"])
def test_an_agent_key_with_another_servers_id_gives_403(agent: APIClient, heartbeat, server_id: str):
    Server.objects.create(id="pi", hostname="pi")
    assert refused(agent.post(URL, heartbeat(server_id=server_id), format="json"), 403)
    assert not Heartbeat.objects.exists()


def test_a_body_over_a_mebibyte_is_413(send, heartbeat):
    assert refused(send(heartbeat(padding="x" * 1_048_576)), 413)
    assert send(heartbeat(padding="x" * 1_000_000)).status_code == 200


def test_257_interfaces_are_400(send, heartbeat, interface):
    many = [interface(f"veth{number}") for number in range(257)]
    assert refused(send(heartbeat(network_interfaces=many)), 400, "network_interfaces")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", ""],
)
def test_another_content_type_is_415(send, heartbeat, content_type: str):
    assert refused(send(heartbeat(), content_type), 415)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x", "identity, gzip"])
def test_a_compressed_body_is_415_and_never_inflated(send, encoding: str):
    bomb = gzip.compress(b"0" * 10_000_000)
    assert refused(send(bomb, HTTP_CONTENT_ENCODING=encoding), 415)


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "utf-7", '"utf-16"', "nonsense"])
def test_another_charset_is_415(send, heartbeat, charset: str):
    assert refused(send(heartbeat(), f"application/json; charset={charset}"), 415)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
def test_utf_8_may_be_named(send, heartbeat, charset: str):
    assert send(heartbeat(), f"application/json; charset={charset}").status_code == 200


@pytest.mark.parametrize(
    "data",
    [b'{"hostname": "\xff\xfe"}', '{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-16-le"), b"\xef\xbb\xbf{}"],
    ids=["invalid UTF-8", "UTF-16", "UTF-16 without BOM", "BOM"],
)
def test_bytes_that_are_not_plain_utf_8_are_400(send, data: bytes):
    assert refused(send(data), 400)


@pytest.mark.parametrize("data", [b"", b"{", b"<html></html>", b"[]", b"null", b'"a"', b"1", b"true", b" ", b"{}{}"])
def test_a_body_that_is_no_heartbeat_is_400(send, data: bytes):
    answer = send(data)
    assert answer.status_code == 400
    assert set(answer.json()) == {"type", "errors", "request_id"}


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 2000 + b"]" * 2000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b"[" * 100_000,
        b'{"uptime": ' + b"9" * 5000 + b"}", b'{"uptime": NaN}',
        b'{"uptime": -Infinity}', b'{"uptime": 1e999}', b'{"x": [1e999]}',
    ],
    ids=["2000 lists", "2000 objects", "100000 brackets", "5000 digits", "NaN", "Infinity", "1e999", "1e999 inside"],
)  # fmt: skip
def test_json_that_is_a_trap_is_400(send, data: bytes):
    assert refused(send(data), 400)


def test_an_integer_of_400_digits_is_400(send, heartbeat):
    data = json.dumps(heartbeat(uptime=7777)).replace("7777", "9" * 400).encode()
    assert refused(send(data), 400, "uptime")


@pytest.mark.parametrize("data", [b'{"server_id": "a", "server_id": "b"}', b'{"os_info": {"kernel": 1, "kernel": 2}}'])
def test_duplicate_keys_are_400(send, data: bytes):
    assert refused(send(data), 400)


@pytest.mark.parametrize("value", [-1, 1.5, 1.0, True, None, ..., "12", "invalid", 2**63, 2**64 - 1])
def test_a_counter_that_is_none_is_400_and_named(send, heartbeat, interface, value: Any):
    wrong = [interface("eth0"), interface("eth1", rx_bytes=value)]
    assert refused(send(heartbeat(network_interfaces=wrong)), 400, "network_interfaces.1.rx_bytes")


def test_the_same_interface_twice_is_400(send, heartbeat, interface):
    answer = send(heartbeat(network_interfaces=[interface(), interface()]))
    assert refused(answer, 400, "network_interfaces.1.name")


@pytest.mark.parametrize("interfaces", [{}, None])
def test_interfaces_that_are_no_list_are_400(send, heartbeat, interfaces: Any):
    assert refused(send(heartbeat(network_interfaces=interfaces)), 400, "network_interfaces")


def test_an_empty_list_of_interfaces_is_200(send, heartbeat):
    assert send(heartbeat(network_interfaces=[])).status_code == 200


@pytest.mark.parametrize("name", ["", " ", "e" * 65, "eth\x00", "\ud800", "eth\n0", "\x1b[31m", "eth\u202e0"])
def test_a_name_no_kernel_should_have_is_400(send, heartbeat, interface, name: str):
    assert refused(send(heartbeat(network_interfaces=[interface(name)])), 400, "network_interfaces.0.name")


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", '"onx=1', "a<b>c", "=HYPERLINK(..)", "../../x", "{{7*7}}", "'; DROP TABLE"],
)
def test_an_odd_name_is_200_and_shown_as_it_is(send, reader, heartbeat, interface, name: str):
    assert send(heartbeat(network_interfaces=[interface(name, 7)])).status_code == 200
    assert reader.get("/api/v1/servers/nas").json()["network_interfaces"][0]["name"] == name
    assert reader.get(SPARKLINE, {"interface": name}).json()["data"][0]["rx_bytes"] == 7


def test_unknown_fields_are_200_and_ignored(send, heartbeat):
    extra = {"is_admin": True, "server": "other", "received_at": "2001-01-01T00:00:00Z", "__class__": "x"}
    assert send(heartbeat(**extra)).status_code == 200
    assert timezone.now() - Heartbeat.objects.get().received_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "timestamp",
    [..., "2026-03-01T06:30:00", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 1, "now"],
)
def test_a_timestamp_that_is_none_is_400(send, heartbeat, timestamp: Any):
    assert refused(send(heartbeat(timestamp=timestamp)), 400, "timestamp")


@pytest.mark.parametrize("timestamp", ["1999-01-01T00:00:00Z", "2098-01-01T00:00:00Z"])
def test_a_timestamp_years_off_is_200_with_boot_and_uptime_and_the_skew_is_shown(
    send, reader, heartbeat, timestamp: str
):
    assert send(heartbeat(timestamp=timestamp)).status_code == 200
    assert timezone.now() - Heartbeat.objects.get().collected_at < timedelta(minutes=1)
    assert abs(reader.get("/api/v1/servers/nas").json()["clock_skew_seconds"]) > 10 * 365 * 86_400


def test_readings_older_than_the_retention_are_400_with_a_reason(send, heartbeat):
    old = (timezone.now() - timedelta(days=401)).isoformat()
    answer = send(heartbeat(timestamp=old, boot_id=...))
    assert refused(answer, 400, "timestamp")
    assert "retention" in answer.json()["errors"][0]["detail"]


def test_an_uptime_still_to_come_is_400_with_a_reason(send, heartbeat):
    started_at = timezone.now() - timedelta(seconds=1000)
    Boot.objects.create(server_id="nas", boot_id="boot-1", started_at=started_at, spoke_live=True)
    assert refused(send(heartbeat(uptime=10**10, sent_uptime=...)), 400, "uptime")


@pytest.mark.parametrize(
    ("name", "value"), [("boot_id", "b" * 1_000_000), ("uptime", -1), ("sent_uptime", -0.5), ("uptime", "1")]
)
def test_a_boot_that_is_none_is_400(send, heartbeat, name: str, value: Any):
    assert refused(send(heartbeat(**{name: value})), 400, name)


@pytest.mark.parametrize("server_id", ["A B", "", "a" * 101, "../x"])
def test_a_server_id_that_is_none_is_400(send, heartbeat, server_id: str):
    assert refused(send(heartbeat(server_id=server_id)), 400, "server_id")


def test_a_refusal_never_echoes_what_was_sent(send, heartbeat):
    answer = send(heartbeat(server_id="S3CRET", hostname="\x00S3CRET", timestamp="S3CRET", boot_id=["S3CRET"]))
    assert answer.status_code == 400
    assert b"S3CRET" not in answer.content


# The sparkline


@pytest.fixture
def recent(server: Server, store, interface):
    """Two minutes of eth0 (100 bytes a second in, 10 out) and of an idle eth1, until now."""
    now = timezone.now() - timedelta(seconds=130)
    for seconds in (0, 60, 120):
        store(seconds, now=now, network_interfaces=[interface("eth0", seconds * 100, seconds * 10), interface("eth1")])


def test_a_sparkline_says_what_it_is_of_and_has_its_points(recent, reader: APIClient):
    answer = reader.get(SPARKLINE, {"period": "30m", "interface": "eth0"}).json()
    points = answer.pop("data")
    assert answer == {"server_id": "nas", "metric": "network", "interface": "eth0", "period": "30m"}
    assert [set(point) for point in points] == [{"timestamp", "rx_bytes", "tx_bytes", "rx_rate", "tx_rate"}] * 3
    assert [(point["rx_bytes"], point["rx_rate"]) for point in points] == [(0, None), (6000, 100), (12000, 100)]
    assert [(point["tx_bytes"], point["tx_rate"]) for point in points] == [(0, None), (600, 10), (1200, 10)]


def test_a_sparkline_is_of_an_hour_and_the_total_unless_asked_otherwise(recent, reader: APIClient):
    answer = reader.get(SPARKLINE).json()
    assert (answer["period"], answer["interface"]) == ("1h", None)
    assert [point["rx_rate"] for point in answer["data"]] == [None, 100, 100]


@pytest.mark.parametrize("period", ["30m", "1h", "6h", "24h", "7d", "30d", "12m"])
def test_every_period_is_answered(recent, reader: APIClient, period: str):
    assert len(reader.get(SPARKLINE, {"period": period, "interface": "eth0"}).json()["data"]) >= 1


@pytest.mark.parametrize("period", ["2h", "1H", "-1h", "1h'"])
def test_an_unknown_period_is_400(reader: APIClient, period: str):
    assert refused(reader.get(SPARKLINE, {"period": period}), 400, "period")


def test_an_unknown_interface_is_200_with_empty_data(recent, reader: APIClient):
    answer = reader.get(SPARKLINE, {"interface": "wlan7"})
    assert (answer.status_code, answer.json()["data"]) == (200, [])


@pytest.mark.parametrize("name", ["e" * 65, "eth\x00"])
def test_an_interface_that_no_name_can_be_is_400(reader: APIClient, name: str):
    assert refused(reader.get(SPARKLINE, {"interface": name}), 400, "interface")


@pytest.mark.parametrize("server_id", ["other", "%00", "NAS"])
def test_a_sparkline_of_an_unknown_server_is_404(reader: APIClient, server_id: str):
    assert refused(reader.get(f"/api/v1/metrics/sparkline/{server_id}/network"), 404)


def test_a_sparkline_cannot_be_written(reader: APIClient):
    assert refused(reader.post(SPARKLINE, {}, format="json"), 405)
