"""F30, the hub's share: what each agent that was ever handed out sends is taken by the hub of today, over HTTP.

`agents/` has a body of each, which is never changed: a version that sends another one adds a file. The agent's share,
hubs of other versions, is in agent/tests/test_versions.py.
"""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from agent import homelab_agent
from homelab.tests.hub import Hub, hub_on_sqlite

pytestmark = hub_on_sqlite

Body = dict[str, Any]

AGENTS = Path(__file__).parent / "agents"
VERSIONS = sorted(path.stem for path in AGENTS.iterdir())
STRANGE = {"is_admin": True, "received_at": "1999-01-01T00:00:00Z", "server": {"id": "other"}, "future": [{"a": None}]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("versions"), "--no-agent")
    try:
        yield hub
    finally:
        hub.stop()


@pytest.fixture(scope="module")
def key(hub: Hub) -> str:
    return hub.createkey("shared")


@pytest.fixture(scope="module")
def reader(hub: Hub) -> dict[str, str]:
    return {"Authorization": f"Bearer {hub.createkey('read')}"}


def body_of(version: str, **changes: Any) -> Body:
    """What this agent would send now; its clock is all that is not as it was."""
    body = json.loads((AGENTS / f"{version}.json").read_text())
    return {**body, "timestamp": datetime.now(UTC).isoformat(), **changes}


def send(hub: Hub, key: str, body: Body) -> Body:
    """Send as that agent does: those of HomelabCmd have a header of their own for the key."""
    header = {"X-API-Key": key} if "agent_mode" in body else {"Authorization": f"Bearer {key}"}
    answer = requests.post(f"http://{hub.address}/api/v1/agents/heartbeat", json=body, headers=header, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def later(body: Body, seconds: int) -> Body:
    """The same machine's next heartbeat, with 1,000 bytes more in and 10 more out on each interface."""
    body = copy.deepcopy(body)
    body["timestamp"] = (datetime.fromisoformat(body["timestamp"]) + timedelta(seconds=seconds)).isoformat()
    for holder, name in ((body, "uptime"), (body, "sent_uptime"), (body.get("metrics", {}), "uptime_seconds")):
        if name in holder:
            holder[name] += seconds
    for interface in body["network_interfaces"]:
        interface["rx_bytes"] += 1000
        interface["tx_bytes"] += 10
    return body


def with_strange_fields(body: Body) -> Body:
    """Fields that no hub knows, at every level."""
    body = {**copy.deepcopy(body), **STRANGE}
    for holder in (body["os_info"], body.setdefault("metrics", {}), body.setdefault("agent_stats", {})):
        holder.update(STRANGE)
    body["network_interfaces"] = [{**interface, **STRANGE} for interface in body["network_interfaces"]]
    return body


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_sends_is_acknowledged_stored_once_and_shown(hub: Hub, key: str, reader, version: str):
    body = body_of(version, server_id=f"{version.replace('.', '-')}-known")
    first, again = send(hub, key, body), send(hub, key, body)
    assert (first["status"], first["server_registered"], first["outcome"]) == ("ok", True, "accepted")
    assert (again["status"], again["server_registered"], again["outcome"]) == ("ok", False, "duplicate")
    assert (first["pending_commands"], first["results_acknowledged"]) == ([], [])

    server = hub.get(f"/api/v1/servers/{body['server_id']}", **reader).json()
    assert (server["hostname"], server["os_info"], server["state"]) == (body["hostname"], body["os_info"], "online")
    for sent, shown in zip(body["network_interfaces"], server["network_interfaces"], strict=True):
        assert {name: shown[name] for name in sent} == sent


@pytest.mark.parametrize("version", VERSIONS)
def test_what_passed_between_two_of_its_heartbeats_is_counted_to_the_byte(hub: Hub, key: str, reader, version: str):
    body = body_of(version, server_id=f"{version.replace('.', '-')}-counted")
    body["timestamp"] = (datetime.now(UTC) - timedelta(seconds=60)).isoformat()
    for heartbeat in (body, later(body, 60)):
        assert send(hub, key, heartbeat)["outcome"] == "accepted"
    for interface in body["network_interfaces"]:
        path = f"/api/v1/metrics/history/{body['server_id']}/network?start=now-1h&interface={interface['name']}"
        total = hub.get(path, **reader).json()["total"]
        assert (total["rx_bytes"], total["tx_bytes"], total["resets"]) == (1000, 10, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_that_the_hub_does_not_know_change_nothing(hub: Hub, key: str, reader, version: str):
    plain = body_of(version, server_id=f"{version.replace('.', '-')}-plain", server_guid=None)
    strange = with_strange_fields({**plain, "server_id": f"{version.replace('.', '-')}-strange"})
    assert [send(hub, key, body)["outcome"] for body in (plain, strange)] == ["accepted"] * 2
    shown, other = (hub.get(f"/api/v1/servers/{body['server_id']}", **reader).json() for body in (plain, strange))
    differ = {name for name in shown if shown[name] != other[name]}
    assert differ <= {"id", "last_seen_at", "created_at", "uptime_seconds", "clock_skew_seconds"}
    assert set(STRANGE) & set(other) == set()


def test_the_agent_of_today_has_its_body_here():
    today = json.loads((AGENTS / f"homelab-{homelab_agent.VERSION}.json").read_text())
    assert today == json.loads((Path(homelab_agent.__file__).parents[1] / "docs" / "heartbeat.json").read_text())
