"""What the hub says when its database cannot be written: to anyone who asks how it is, and to an agent."""

import sqlite3
import threading
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from psycopg import errors as postgresql
from rest_framework.test import APIClient

from homelab import health
from homelab.errors import condition
from homelab.models import Probe
from metrics.models import Heartbeat

URL = "/api/v1/system/health"
BEAT = "/api/v1/agents/heartbeat"

on_sqlite = pytest.mark.skipif("sqlite" not in settings.DATABASES["default"]["ENGINE"], reason="breaks SQLite's files")


@pytest.fixture(autouse=True)
def unknown() -> None:
    health.forget()


@pytest.fixture
def pragma(db: None):
    """Set a pragma of the connection; all are set back."""
    before = []

    def set_to(name: str, value: Any) -> None:
        with connection.cursor() as cursor:
            before.append((name, cursor.execute(f"PRAGMA {name}").fetchone()[0]))
            cursor.execute(f"PRAGMA {name}={value}")

    yield set_to
    with connection.cursor() as cursor:
        for name, value in before:
            cursor.execute(f"PRAGMA {name}={value}")


@pytest.fixture
def agent(agent: APIClient) -> APIClient:
    agent.raise_request_exception = False
    return agent


def pages() -> int:
    with connection.cursor() as cursor:
        return cursor.execute("PRAGMA page_count").fetchone()[0]


def test_a_hub_that_is_well_says_ok_and_nothing_else(api: APIClient, db: None):
    answer = api.get(URL)
    assert (answer.status_code, answer.json(), answer["Cache-Control"]) == (200, {"status": "ok"}, "no-store")
    assert Probe.objects.count() == 1


@pytest.mark.parametrize("header", ["Bearer wrong", "nonsense", ""])
def test_a_wrong_key_does_not_matter(api: APIClient, db: None, header: str):
    assert api.get(URL, HTTP_AUTHORIZATION=header).status_code == 200


def test_however_many_ask_the_database_is_asked_once(api: APIClient, db: None):
    api.get(URL)
    with CaptureQueriesContext(connection) as captured:
        assert [api.get(URL).status_code for _ in range(20)] == [200] * 20
    assert len(captured) == 0


def test_it_looks_again_after_a_while(api: APIClient, db: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "EVERY_SECONDS", 0.0)
    with CaptureQueriesContext(connection) as captured:
        api.get(URL)
    assert len(captured) > 0


def test_who_asks_while_another_waits_for_the_database_is_told_busy(api: APIClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "WAIT_SECONDS", 0.01)
    with health._lock:
        answer = api.get(URL)
    assert (answer.status_code, answer.json()) == (503, {"status": "busy"})


@on_sqlite
def test_a_read_only_database_is_503(api: APIClient, pragma):
    pragma("query_only", "ON")
    answer = api.get(URL)
    assert (answer.status_code, answer.json()) == (503, {"status": "readonly"})


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_full_disk_is_503_and_heartbeats_are_507_while_reads_go_on(
    api: APIClient, agent: APIClient, reader: APIClient, heartbeat, interface, pragma
):
    big = heartbeat(network_interfaces=[interface("x" * 60 + str(number)) for number in range(256)])
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # what tests before this one have left free is no room
    pragma("max_page_count", pages())
    answer = agent.post(BEAT, big, format="json")
    assert (answer.status_code, answer["Retry-After"]) == (507, "60")
    assert answer.json()["errors"] == [{"code": "disk_full", "detail": "The hub's disk is full.", "attr": None}]
    assert not Heartbeat.objects.exists()
    assert reader.get("/api/v1/servers").status_code == 200


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_locked_database_is_503_and_serves_again_at_once(
    api: APIClient, agent: APIClient, reader: APIClient, heartbeat, pragma
):
    pragma("busy_timeout", 20)
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = agent.post(BEAT, heartbeat(), format="json")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert api.get(URL).json() == {"status": "busy"}
    assert reader.get("/api/v1/servers").status_code == 200
    other.close()
    assert agent.post(BEAT, heartbeat(), format="json").status_code == 200


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        (postgresql.DiskFull(), "full"),
        (postgresql.DeadlockDetected(), "busy"),
        (postgresql.ReadOnlySqlTransaction(), "readonly"),
        (postgresql.AdminShutdown(), "failing"),
        (postgresql.OperationalError("connection refused"), "failing"),
        (None, "failing"),
    ],
)
def test_a_condition_has_a_word(cause: Exception | None, word: str):
    error = OperationalError("secret")
    error.__cause__ = cause
    assert condition(error) == word


def test_threads_share_one_look(db: None, monkeypatch: pytest.MonkeyPatch):
    looks = []
    monkeypatch.setattr(health, "_probe", lambda: looks.append(1) or "ok")
    threads = [threading.Thread(target=health.condition_of_database) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1
