from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from servers.models import Server, Snapshot

SIX = {"name": "eth0", "rx_bytes": 1, "tx_bytes": 2, "rx_packets": 3, "tx_packets": 4, "is_up": True}


def test_the_list_has_every_server_and_their_number(reader: APIClient):
    Server.objects.create(id="backup", hostname="backup")
    answer = reader.get("/api/v1/servers").json()
    assert [server["id"] for server in answer["servers"]] == ["backup", "nas"]
    assert answer["total"] == 2


def test_the_list_takes_as_many_queries_for_fifty_servers_as_for_one(reader: APIClient, django_assert_num_queries):
    reader.get("/api/v1/servers")
    for number in range(50):
        Snapshot.objects.create(server=Server.objects.create(id=f"pi-{number}", hostname="pi"))
    with django_assert_num_queries(2):
        assert reader.get("/api/v1/servers").json()["total"] == 51


def test_a_server_says_who_it_is_and_how_it_is(reader: APIClient, server: Server):
    seen_at = timezone.now()
    Server.objects.filter(id="nas").update(os_kernel="6.1.0", display_name="The NAS")
    Snapshot.objects.create(server=server, last_seen_at=seen_at, clock_skew_seconds=1.5, agent_version="0.1.0")
    answer = reader.get("/api/v1/servers/nas").json()
    assert answer["state"] == "online"
    assert answer["display_name"] == "The NAS"
    assert answer["os_info"] == {"distribution": "", "version": "", "kernel": "6.1.0", "architecture": ""}
    assert answer["clock_skew_seconds"] == 1.5
    assert answer["agent_version"] == "0.1.0"


def test_a_silent_server_is_offline(reader: APIClient, server: Server):
    Snapshot.objects.create(server=server, last_seen_at=timezone.now() - timedelta(minutes=11))
    assert reader.get("/api/v1/servers/nas").json()["state"] == "offline"


def test_an_interface_shows_what_was_reported_and_null_for_what_was_not(reader: APIClient, server: Server):
    Snapshot.objects.create(server=server, network_interfaces=[{**SIX, "rx_rate": 100.0, "mtu": 1500}])
    (shown,) = reader.get("/api/v1/servers/nas").json()["network_interfaces"]
    assert {name: shown[name] for name in SIX} == SIX
    assert (shown["rx_rate"], shown["tx_rate"], shown["mtu"], shown["speed_mbps"]) == (100.0, None, 1500, None)
    assert shown["addresses"] == []


def test_twenty_interfaces_are_shown_all_twenty(reader: APIClient, server: Server):
    interfaces = [{**SIX, "name": f"eth{number}"} for number in range(20)]
    Snapshot.objects.create(server=server, network_interfaces=interfaces)
    shown = reader.get("/api/v1/servers/nas").json()["network_interfaces"]
    assert [interface["name"] for interface in shown] == [f"eth{number}" for number in range(20)]


def test_counters_of_63_bits_stay_exact(reader: APIClient, server: Server):
    Snapshot.objects.create(server=server, network_interfaces=[{**SIX, "rx_bytes": 2**63 - 1}])
    assert b"9223372036854775807" in reader.get("/api/v1/servers/nas").content


@pytest.mark.parametrize("server_id", ["other", "NAS", "%00", "%ED%A0%80", "a" * 300])
def test_an_unknown_server_is_404(reader: APIClient, server_id: str):
    answer = reader.get(f"/api/v1/servers/{server_id}")
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/api/v1/servers", "/api/v1/servers/nas"])
def test_servers_cannot_be_written_over_the_api(reader: APIClient, path: str):
    for method in (reader.post, reader.put, reader.patch, reader.delete):
        assert method(path, {}, format="json").status_code == 405


def test_both_paths_answer_with_a_trailing_slash(reader: APIClient):
    assert reader.get("/api/v1/servers/").status_code == 200
    assert reader.get("/api/v1/servers/nas/").json()["id"] == "nas"
