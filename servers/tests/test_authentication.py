from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from servers.models import ApiKey, KeyKind

SERVERS = "/api/v1/servers"


def test_a_bearer_key_is_taken(api: APIClient, keys: dict[str, str]):
    assert api.get(SERVERS, HTTP_AUTHORIZATION=f"Bearer {keys['read']}").status_code == 200
    assert api.get(SERVERS, HTTP_AUTHORIZATION=f"bearer  {keys['read']} ").status_code == 200


@pytest.mark.parametrize("scheme", ["Basic", "Token", "Bearer Bearer", ""])
def test_a_key_under_another_scheme_is_not_taken(api: APIClient, keys: dict[str, str], scheme: str):
    assert api.get(SERVERS, HTTP_AUTHORIZATION=f"{scheme} {keys['read']}").status_code == 401


def test_an_x_api_key_is_taken(api: APIClient, keys: dict[str, str]):
    assert api.get(SERVERS, HTTP_X_API_KEY=keys["read"]).status_code == 200


def test_a_wrong_bearer_key_is_not_saved_by_a_good_x_api_key(api: APIClient, keys: dict[str, str]):
    answer = api.get(SERVERS, HTTP_AUTHORIZATION="Bearer wrong", HTTP_X_API_KEY=keys["read"])
    assert answer.status_code == 401


def expired() -> str:
    return ApiKey.objects.make(KeyKind.READ, expires_at=timezone.now() - timedelta(seconds=1))[1]


def revoked() -> str:
    key, text = ApiKey.objects.make(KeyKind.READ)
    key.revoke(now=timezone.now())
    return text


@pytest.mark.parametrize("make", [expired, revoked])
def test_a_key_that_ended_gives_the_same_401_as_none(api: APIClient, db: None, make):
    ended = api.get(SERVERS, HTTP_AUTHORIZATION=f"Bearer {make()}")
    none = api.get(SERVERS)
    assert ended.status_code == none.status_code == 401
    assert ended.json()["errors"] == none.json()["errors"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer caf\xe9.\xff", "Bearer \x00123456789.x", "x" * 5000],
)
def test_a_header_that_is_no_key_gives_the_same_401_as_none(api: APIClient, db: None, header: str):
    malformed = api.get(SERVERS, HTTP_AUTHORIZATION=header)
    none = api.get(SERVERS)
    assert malformed.status_code == none.status_code == 401
    assert malformed.json()["errors"] == none.json()["errors"]


def test_a_401_says_how_to_authenticate(api: APIClient, db: None):
    assert api.get(SERVERS)["WWW-Authenticate"] == "Bearer"


def test_a_key_in_the_query_is_not_taken(api: APIClient, keys: dict[str, str]):
    assert api.get(SERVERS, {"api_key": keys["read"], "key": keys["read"]}).status_code == 401


def test_use_is_noted(api: APIClient, keys: dict[str, str]):
    api.get(SERVERS, HTTP_X_API_KEY=keys["read"])
    used = ApiKey.objects.exclude(last_used_at=None)
    assert [key.kind for key in used] == ["read"]


def test_a_request_with_a_key_takes_one_query_to_authenticate(
    api: APIClient, keys: dict[str, str], django_assert_num_queries
):
    api.get(SERVERS, HTTP_X_API_KEY=keys["read"])  # notes the use
    with django_assert_num_queries(2):
        api.get(SERVERS, HTTP_X_API_KEY=keys["read"])
