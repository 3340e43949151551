"""The batch over its real URL: each heartbeat is taken or rejected alone."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from metrics.models import Heartbeat
from servers.models import Server

URL = "/api/v1/agents/heartbeats"


@pytest.fixture
def beats(heartbeat) -> Callable[..., list[dict[str, Any]]]:
    """Build heartbeats of `nas`, a minute apart; the last was read just now."""

    def build(count: int, **changes: Any) -> list[dict[str, Any]]:
        uptimes = [1000.0 + 60 * number for number in range(count)]
        return [heartbeat(uptime=uptime, sent_uptime=uptimes[-1], **changes) for uptime in uptimes]

    return build


def send(client: APIClient, heartbeats: Any) -> Any:
    return client.post(URL, {"heartbeats": heartbeats}, format="json")


def outcomes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.json()
    return [result["outcome"] for result in answer.json()["results"]]


def refused(answer: Any, status: int) -> bool:
    assert answer.status_code == status, answer.json()
    return set(answer.json()) == {"type", "errors", "request_id"} and not Heartbeat.objects.exists()


def test_a_batch_is_acknowledged(agent: APIClient, beats):
    answer = send(agent, beats(2)).json()
    assert abs(timezone.now() - datetime.fromisoformat(answer.pop("server_time"))) < timedelta(minutes=1)
    assert answer == {"status": "ok", "results": [{"outcome": "accepted"}, {"outcome": "accepted"}]}
    assert Heartbeat.objects.count() == 2


def test_a_batch_again_is_all_duplicates(agent: APIClient, beats):
    batch = beats(3)
    send(agent, batch)
    assert outcomes(send(agent, batch)) == ["duplicate"] * 3


def test_500_heartbeats_are_taken_and_501_refused_whole(agent: APIClient, beats):
    answer = send(agent, beats(501))
    assert refused(answer, 400)
    assert (answer.json()["type"], answer.json()["errors"][0]["attr"]) == ("validation_error", "heartbeats")
    assert outcomes(send(agent, beats(500))) == ["accepted"] * 500


def test_more_than_500_items_are_not_looked_at(agent: APIClient, db: None):
    assert refused(send(agent, [0] * 100_000), 400)


def test_a_batch_over_a_mebibyte_is_413(agent: APIClient, beats):
    assert refused(send(agent, beats(2, padding="x" * 600_000)), 413)


def test_a_poison_heartbeat_is_rejected_alone_and_says_why(agent: APIClient, beats, interface):
    batch = beats(60)
    batch[17] = {**batch[17], "network_interfaces": [interface(rx_bytes=-1)]}
    results = send(agent, batch).json()["results"]
    error = {"code": "min_value", "detail": "At least 0.", "attr": "network_interfaces.0.rx_bytes"}
    assert results[17] == {"outcome": "rejected", "error": {"type": "validation_error", "errors": [error]}}
    assert [result["outcome"] for result in results].count("accepted") == Heartbeat.objects.count() == 59


@pytest.mark.parametrize("item", [None, [], "a", 1, {}, {"heartbeats": []}])
def test_what_is_no_heartbeat_is_rejected_alone(agent: APIClient, beats, item: Any):
    assert outcomes(send(agent, [item, *beats(1)])) == ["rejected", "accepted"]


def test_a_heartbeat_of_another_server_is_rejected_alone(agent: APIClient, beats):
    results = send(agent, [*beats(1, server_id="pi"), *beats(1)]).json()["results"]
    assert [result["outcome"] for result in results] == ["rejected", "accepted"]
    assert results[0]["error"]["errors"][0]["code"] == "permission_denied"
    assert not Server.objects.filter(id="pi").exists()


def test_a_heartbeat_that_is_too_old_is_rejected_alone(agent: APIClient, beats):
    old = beats(1, boot_id=..., timestamp=(timezone.now() - timedelta(days=401)).isoformat())
    results = send(agent, [*old, *beats(1)]).json()["results"]
    assert [result["outcome"] for result in results] == ["rejected", "accepted"]
    error = results[0]["error"]["errors"][0]
    assert (error["code"], error["attr"]) == ("too_old", "timestamp")
    assert "retention" in error["detail"]


def test_a_heartbeat_still_to_come_is_rejected_alone(agent: APIClient, beats):
    ahead = {**beats(1)[0], "uptime": 10**9}
    del ahead["sent_uptime"]
    results = send(agent, [*beats(1), ahead]).json()["results"]
    assert [result["outcome"] for result in results] == ["accepted", "rejected"]
    error = results[1]["error"]["errors"][0]
    assert (error["code"], error["attr"]) == ("too_new", "uptime")


def test_a_shared_key_reports_several_servers_at_once(shared: APIClient, beats):
    batch = [*beats(1, server_id="pi"), *beats(1, server_id="backup"), *beats(1)]
    assert outcomes(send(shared, batch)) == ["accepted"] * 3
    assert set(Heartbeat.objects.values_list("server_id", flat=True)) == {"backup", "nas", "pi"}


def test_an_empty_batch_is_200(agent: APIClient, db: None):
    assert outcomes(send(agent, [])) == []


@pytest.mark.parametrize("body", [[], None, 1, {}, {"heartbeats": None}, {"heartbeats": {}}, {"heartbeats": "a"}])
def test_a_body_that_is_no_batch_is_400(agent: APIClient, body: Any):
    answer = agent.post(URL, body, format="json")
    assert refused(answer, 400)
    assert answer.json()["errors"][0]["attr"] == "heartbeats"


def test_a_rejection_never_echoes_what_was_sent(agent: APIClient, beats):
    answer = send(agent, beats(1, boot_id=["S3CRET"], timestamp="S3CRET", hostname="\x00S3CRET"))
    assert outcomes(answer) == ["rejected"]
    assert b"S3CRET" not in answer.content
