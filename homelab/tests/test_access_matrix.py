"""Who may call what: each route of the API, with each kind of caller. A route without a row here fails the suite."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.contrib.auth import get_user_model
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver
from django.utils import timezone
from rest_framework.test import APIClient

from metrics.models import Interface
from servers.models import ApiKey, KeyKind, Server

NOBODY = {
    "no key": 401, "wrong key": 401, "revoked": 401, "expired": 401,
    "agent": 403, "agent of another": 403, "enrolment": 403, "shared": 403, "read": 403, "staff": 403, "user": 403,
}  # fmt: skip
READERS = {**NOBODY, "read": 200, "staff": 200}
AGENTS = {**NOBODY, "agent": 200, "shared": 200}
BATCHES = {**AGENTS, "agent of another": 200}  # each heartbeat is rejected alone
ENROLLERS = {**NOBODY, "enrolment": 201}
ANYONE = dict.fromkeys(NOBODY, 200)
NOTHING = dict.fromkeys(NOBODY, 404)


class Row(NamedTuple):
    """How to call a route, what is expected of whom, and the kind of key that may: revoked and expired ones are it."""

    call: str
    expected: dict[str, int]
    kind: str = KeyKind.READ


ROWS = {
    "api/v1/agents/enrol": Row("POST /api/v1/agents/enrol", ENROLLERS, KeyKind.ENROLMENT),
    "api/v1/agents/heartbeat": Row("POST /api/v1/agents/heartbeat", AGENTS, KeyKind.AGENT),
    "api/v1/agents/heartbeats": Row("POST /api/v1/agents/heartbeats", BATCHES, KeyKind.AGENT),
    "api/v1/servers": Row("GET /api/v1/servers", READERS),
    "api/v1/servers/<slug:server_id>": Row("GET /api/v1/servers/nas", READERS),
    "api/v1/servers/<slug:server_id>/interfaces": Row("GET /api/v1/servers/nas/interfaces", READERS),
    "api/v1/servers/<slug:server_id>/interfaces/<path:name>": Row("GET /api/v1/servers/nas/interfaces/eth0", READERS),
    "api/v1/metrics/sparkline/<slug:server_id>/network": Row("GET /api/v1/metrics/sparkline/nas/network", READERS),
    "api/v1/metrics/history/<slug:server_id>/network": Row("GET /api/v1/metrics/history/nas/network", READERS),
    "api/v1/metrics/usage": Row("GET /api/v1/metrics/usage", READERS),
    "api/v1/metrics/top": Row("GET /api/v1/metrics/top", READERS),
    "api/v1/metrics/export": Row("GET /api/v1/metrics/export", READERS),
    "api/v1/events": Row("GET /api/v1/events", READERS),
    "api/v1/system/health": Row("GET /api/v1/system/health", ANYONE),
    "api/schema": Row("GET /api/schema", READERS),
    "api/docs": Row("GET /api/docs", READERS),
    "metrics": Row("GET /metrics", READERS),
    "^api(/.*)?$": Row("GET /api/v1/nonsense", NOTHING),
}


def routes(patterns: list[Any], before: str = "") -> Iterator[str]:
    for pattern in patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path


def is_api(path: str) -> bool:
    return path.lstrip("^").startswith(("api", "metrics"))


def call(client: APIClient, row: Row, heartbeat: Any) -> int:
    method, _, path = row.call.partition(" ")
    bodies = {
        "api/v1/agents/enrol": {"server_id": "pi", "hostname": "pi"},
        "api/v1/agents/heartbeat": heartbeat(),
        "api/v1/agents/heartbeats": {"heartbeats": [heartbeat()]},
    }
    if method == "GET":
        return client.get(path).status_code
    return client.post(path, bodies[path.strip("/")], format="json").status_code


@pytest.fixture
def client_of(server: Server, keys: dict[str, str]):
    """Return a client that calls as the named caller."""
    Interface.objects.create(server=server, name="eth0")

    def key(kind: str, **changes: Any) -> tuple[ApiKey, str]:
        of_agent = {"server": server} if kind == KeyKind.AGENT else {}
        return ApiKey.objects.make(kind, **{**of_agent, **changes})

    def build(who: str, kind: str) -> APIClient:
        client = APIClient()
        if who in ("staff", "user"):
            client.force_login(get_user_model().objects.create_user("ada", is_staff=who == "staff"))
            return client
        if who == "revoked":
            revoked, text = key(kind)
            revoked.revoke(now=timezone.now())
        elif who == "expired":
            text = key(kind, expires_at=timezone.now() - timedelta(seconds=1))[1]
        elif who == "agent of another":
            text = key(KeyKind.AGENT, server=Server.objects.create(id="other", hostname="other"))[1]
        else:
            text = keys.get(who, "0123456789.wrong")
        if who != "no key":
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        return client

    return build


def test_every_route_of_the_api_has_a_row():
    found = {path for path in routes(get_resolver().url_patterns) if is_api(path)}
    assert found == set(ROWS)


@pytest.mark.parametrize("who", NOBODY)
@pytest.mark.parametrize("route", ROWS)
def test_who_may_call_what(client_of, heartbeat, route: str, who: str):
    row = ROWS[route]
    assert call(client_of(who, row.kind), row, heartbeat) == row.expected[who]


@pytest.mark.parametrize("route", ["api/v1/agents/enrol", "api/v1/agents/heartbeat", "api/v1/agents/heartbeats"])
def test_a_session_writes_nothing_without_a_csrf_token_either(client_of, heartbeat, route: str):
    client = client_of("staff", KeyKind.AGENT)
    client.handler.enforce_csrf_checks = True
    assert call(client, ROWS[route], heartbeat) == 403
