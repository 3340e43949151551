"""Who asks too often waits, and nobody else does."""

from threading import Thread
from typing import Any

import pytest
from rest_framework.test import APIClient

from servers import throttling
from servers.models import ApiKey, KeyKind
from servers.throttling import BURST, Buckets

BEAT = "/api/v1/agents/heartbeat"
BATCH = "/api/v1/agents/heartbeats"
SERVERS = "/api/v1/servers"


@pytest.fixture
def throttled(settings, monkeypatch) -> None:
    """Throttling, while time stands still: on a busy machine tokens would flow in between two requests."""
    monkeypatch.setattr(throttling, "monotonic", lambda: 1000.0)
    settings.THROTTLE = True
    throttling.reports.clear()
    throttling.failures.clear()


def send(client: APIClient, url: str, body: Any, count: int = BURST + 1) -> list[int]:
    return [client.post(url, body, format="json").status_code for _ in range(count)]


# The bucket


def test_a_burst_goes_through_and_the_next_waits():
    buckets = Buckets(per_second=2, burst=3)
    assert [buckets.take("a", now=10.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]


def test_tokens_flow_in_with_time_up_to_the_burst():
    buckets = Buckets(per_second=2, burst=3)
    for _ in range(3):
        buckets.take("a", now=0)
    assert [buckets.take("a", now=now) for now in (0.25, 0.5, 0.5)] == [0.25, 0, 0.5]
    assert [buckets.take("a", now=1000) for _ in range(4)] == [0, 0, 0, 0.5]


def test_names_do_not_share_a_bucket():
    buckets = Buckets(per_second=2, burst=1)
    assert [buckets.take(name, now=0) for name in ("a", "b", "a")] == [0, 0, 0.5]


def test_a_clock_that_stands_still_or_goes_back_gives_no_tokens():
    buckets = Buckets(per_second=2, burst=1)
    assert [buckets.take("a", now=now) for now in (10, 9, 9.4)] == [0, 0.5, 0.5]


def test_the_names_used_last_are_remembered_and_no_more():
    buckets = Buckets(per_second=2, burst=1, remembered=2)
    for name in ("a", "b", "a", "c"):
        buckets.take(name, now=0)
    assert len(buckets._buckets) == 2
    assert [buckets.take(name, now=0) for name in ("a", "b")] == [0.5, 0]


def test_threads_take_no_more_than_there_is():
    buckets, waits = Buckets(per_second=0.001, burst=100), []
    threads = [Thread(target=lambda: waits.extend(buckets.take("a", now=0) for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(waits), waits.count(0)) == (400, 100)


# Agents


@pytest.mark.parametrize("url", [BEAT, BATCH])
def test_a_server_that_reports_too_often_is_429_with_retry_after(throttled, agent: APIClient, heartbeat, url: str):
    body = heartbeat() if url == BEAT else {"heartbeats": [heartbeat()]}
    assert send(agent, url, body) == [200] * BURST + [429]
    answer = agent.post(url, body, format="json")
    assert (answer.status_code, answer["Retry-After"]) == (429, "1")
    assert set(answer.json()) == {"type", "errors", "request_id"}


def test_a_full_batch_counts_once(throttled, agent: APIClient, heartbeat):
    body = {"heartbeats": [heartbeat(uptime=1000.0 + number, sent_uptime=2000.0) for number in range(200)]}
    assert send(agent, BATCH, body, count=3) == [200] * 3


def test_other_servers_of_the_same_shared_key_are_unharmed(throttled, shared: APIClient, heartbeat):
    assert send(shared, BEAT, heartbeat())[-1] == 429
    assert send(shared, BEAT, heartbeat(server_id="pi"), count=1) == [200]
    assert send(shared, BATCH, {"heartbeats": [heartbeat(server_id="pi")]}, count=1) == [200]
    assert send(shared, BATCH, {"heartbeats": [heartbeat(server_id="pi"), heartbeat()]}, count=1) == [429]


def test_another_key_of_the_same_server_is_unharmed(throttled, agent: APIClient, shared: APIClient, heartbeat):
    assert send(agent, BEAT, heartbeat())[-1] == 429
    assert send(shared, BEAT, heartbeat(), count=1) == [200]


@pytest.mark.parametrize("body", [[], {}, {"server_id": 1}, {"server_id": "A B"}, {"heartbeats": [{}]}])
def test_what_names_no_server_counts_too_and_harms_none(throttled, shared: APIClient, heartbeat, body: Any):
    assert send(shared, BEAT, body) == [400] * BURST + [429]
    assert send(shared, BEAT, heartbeat(), count=1) == [200]


def test_enrolling_is_throttled(throttled, api: APIClient, db: None):
    _, text = ApiKey.objects.make(KeyKind.ENROLMENT)
    api.credentials(HTTP_X_API_KEY=text)
    assert send(api, "/api/v1/agents/enrol", {"server_id": "pi", "hostname": "pi"})[-1] == 429


# Guesses


def test_of_1000_guessed_keys_all_but_a_burst_are_429_and_a_valid_key_is_unharmed(
    throttled, api: APIClient, agent: APIClient, reader: APIClient, heartbeat
):
    guesses = [api.get(SERVERS, HTTP_X_API_KEY=f"{number:010x}.guess") for number in range(1000)]
    statuses = [answer.status_code for answer in guesses]
    assert statuses.count(401) + statuses.count(429) == 1000
    assert BURST <= statuses.count(401) <= BURST + 20  # as many as flow in meanwhile
    assert int(guesses[-1]["Retry-After"]) >= 1
    assert reader.get(SERVERS).status_code == 200
    assert send(agent, BEAT, heartbeat(), count=1) == [200]


def test_asking_without_any_key_counts_as_a_guess(throttled, api: APIClient, db: None):
    assert [api.get(SERVERS).status_code for _ in range(BURST + 1)] == [401] * BURST + [429]


def test_another_address_may_still_try(throttled, api: APIClient, db: None):
    for _ in range(BURST + 1):
        api.get(SERVERS, REMOTE_ADDR="2001:db8::1")
    addresses = ("2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "")
    assert [api.get(SERVERS, REMOTE_ADDR=address).status_code for address in addresses] == [429, 401, 401, 401]


def test_what_a_request_says_of_its_address_is_not_believed(throttled, api: APIClient, db: None):
    answers = [api.get(SERVERS, HTTP_X_FORWARDED_FOR=f"192.0.2.{number}") for number in range(BURST + 1)]
    assert answers[-1].status_code == 429
