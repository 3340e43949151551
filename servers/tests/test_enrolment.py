"""A machine gets a key of its own, once for each use of an enrolment key, and takes no other machine's place."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from servers.enrolment import KeySpent, enrol
from servers.models import ApiKey, KeyKind, Server

URL = "/api/v1/agents/enrol"
GUID = "3f2b8c1e-7d54-4a96-9b0e-51c6d2a7f830"
PI = {"server_id": "pi", "hostname": "pi.home.arpa"}


def enrolment_key(**changes: Any) -> str:
    return ApiKey.objects.make(KeyKind.ENROLMENT, **{"uses_left": 1, **changes})[1]


@pytest.fixture
def ask(api: APIClient, db: None) -> Callable[..., Any]:
    """Enrol server `pi` with a key; with a fresh one-time key unless told."""

    def post(key: str | None = None, /, **changes: Any) -> Any:
        body = json.dumps({**PI, **changes})
        header = f"Bearer {key or enrolment_key()}"
        return api.post(URL, body, content_type="application/json", HTTP_AUTHORIZATION=header)

    return post


def live_keys() -> int:
    return ApiKey.objects.live(now=timezone.now()).filter(kind=KeyKind.AGENT).count()


def test_an_unknown_machine_gets_a_server_and_a_key(ask):
    answer = ask(server_guid=GUID)
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    assert set(answer.json()) == {"server_id", "key"}
    server = Server.objects.get()
    assert (server.id, server.hostname, server.guid) == ("pi", "pi.home.arpa", UUID(GUID))
    assert ApiKey.objects.verify(answer.json()["key"], now=timezone.now()).server == server


def test_the_new_key_reports_its_server_and_no_other(ask, api: APIClient, heartbeat):
    key = ask().json()["key"]
    for server_id, status in (("pi", 200), ("nas", 403)):
        body = heartbeat(server_id=server_id)
        assert api.post("/api/v1/agents/heartbeat", body, format="json", HTTP_X_API_KEY=key).status_code == status


def test_a_one_time_key_is_spent_after_one_machine(ask):
    key = enrolment_key()
    assert ask(key).status_code == 201
    assert ask(key, server_id="other").status_code == 401
    assert not Server.objects.filter(id="other").exists()


def test_a_spent_key_gives_the_same_401_as_none(ask, api: APIClient):
    spent, none = ask(enrolment_key(uses_left=0)), api.post(URL, PI, format="json")
    assert spent.status_code == none.status_code == 401
    assert spent.json()["errors"] == none.json()["errors"]


def test_a_key_adds_as_many_machines_as_it_may(ask):
    key = enrolment_key(uses_left=2)
    assert [ask(key, server_id=f"pi-{number}").status_code for number in range(3)] == [201, 201, 401]


def test_a_key_that_is_not_counted_adds_any_number(ask):
    key = enrolment_key(uses_left=None)
    assert [ask(key, server_id=f"pi-{number}").status_code for number in range(3)] == [201] * 3


def test_an_expired_enrolment_key_is_401(ask):
    assert ask(enrolment_key(expires_at=timezone.now() - timedelta(seconds=1))).status_code == 401


def test_a_refused_request_uses_nothing(ask):
    key = enrolment_key()
    assert ask(key, server_id="A B").status_code == 400
    assert ask(key).status_code == 201


# No other machine's place


def test_a_server_with_a_live_key_is_409_and_nothing_changes(ask, server: Server, keys):
    before = ApiKey.objects.count()
    key = enrolment_key()
    answer = ask(key, server_id="nas", server_guid=GUID, hostname="evil")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (409, "server_exists")
    assert Server.objects.get().guid is None
    assert ApiKey.objects.count() == before + 1
    assert ApiKey.objects.verify(key, now=timezone.now()).uses_left == 1


@pytest.mark.parametrize("guid", [None, "5f0c3f4e-6d0b-4c0e-9a52-3a1f6f5d2b11"])
def test_another_machine_than_the_known_one_is_409(ask, guid: str | None):
    ask(server_guid=GUID)
    assert ask(server_guid=guid).status_code == 409
    assert live_keys() == 1


def test_the_same_machine_gets_another_key_and_keeps_its_first(ask):
    first, second = (ask(server_guid=GUID).json()["key"] for _ in range(2))
    assert first != second
    assert all(ApiKey.objects.verify(key, now=timezone.now()) for key in (first, second))


def test_a_server_whose_keys_are_revoked_may_be_enrolled_anew(ask):
    ask(server_guid=GUID)
    ApiKey.objects.get(kind=KeyKind.AGENT).revoke(now=timezone.now())
    other = uuid4()
    assert ask(server_guid=str(other)).status_code == 201
    assert (Server.objects.get().guid, live_keys()) == (other, 1)


def test_revoking_the_enrolment_key_leaves_the_machines_key(ask):
    key = enrolment_key()
    text = ask(key).json()["key"]
    ApiKey.objects.get(kind=KeyKind.ENROLMENT).revoke(now=timezone.now())
    assert ApiKey.objects.verify(text, now=timezone.now()) is not None


# Bad input


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_id", "A B"), ("server_id", ""), ("server_id", "a" * 101), ("server_id", "../x"), ("server_id", "pi\n"),
        ("server_id", None), ("server_id", []), ("server_id", 5), ("hostname", ""), ("hostname", "h" * 256),
        ("hostname", 5), ("hostname", "a\x00"), ("hostname", "a\x1b[31m"), ("hostname", "\ud800"), ("hostname", {}),
        ("server_guid", "1"), ("server_guid", 5),
        ("server_guid", "3f2b8c1e-7d54-1a96-9b0e-51c6d2a7f830"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_400_and_named(ask, name: str, value: Any):
    answer = ask(**{name: value})
    assert answer.status_code == 400
    assert {error["attr"] for error in answer.json()["errors"]} == {name}
    assert not Server.objects.exists()


@pytest.mark.parametrize("body", [[], None, "a", 1])
def test_a_body_that_is_no_object_is_400(api: APIClient, db: None, body: Any):
    answer = api.post(URL, body, format="json", HTTP_X_API_KEY=enrolment_key())
    assert answer.status_code == 400


def test_unknown_fields_are_ignored(ask):
    assert ask(kind="read", key="mine", uses_left=100).status_code == 201
    assert ApiKey.objects.filter(kind=KeyKind.READ).count() == 0


# At once, on the real database


def at_once(count: int, work) -> list:
    barrier = Barrier(count)

    def run(number: int):
        try:
            barrier.wait()
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.django_db(transaction=True)
def test_of_eight_at_once_one_gets_the_last_use():
    key, _ = ApiKey.objects.make(KeyKind.ENROLMENT, uses_left=1)

    def work(number: int) -> bool:
        try:
            return bool(enrol(key, f"pi-{number}", "pi", guid=None, now=timezone.now()))
        except KeySpent:
            return False

    assert at_once(8, work).count(True) == Server.objects.count() == live_keys() == 1


@pytest.mark.django_db(transaction=True)
def test_of_eight_that_claim_one_name_at_once_one_gets_it():
    text = enrolment_key(uses_left=None)

    def work(number: int) -> int:
        return APIClient().post(URL, PI, format="json", HTTP_X_API_KEY=text).status_code

    assert sorted(at_once(8, work)) == [201] + [409] * 7
    assert live_keys() == 1
