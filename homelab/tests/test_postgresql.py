"""Sessions of PostgreSQL that end, wait or are cut: what an agent and a person are told, and what is stored."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from typing import Any

import psycopg
import pytest
from django.db import connection
from rest_framework.test import APIClient

from homelab import health
from homelab.postgresql.options import options
from metrics.models import Chunk, Heartbeat, Interface
from metrics.streaming import stream
from servers.models import ApiKey, KeyKind, Server, Snapshot
from servers.tests.sessions import Cutter, address, end_session

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's sessions")
on_real_transactions = pytest.mark.django_db(transaction=True)

BEAT = "/api/v1/agents/heartbeat"
READS = (
    "/api/v1/servers",
    "/api/v1/servers/nas",
    "/api/v1/metrics/sparkline/nas/network?period=1h&interface=eth0",
    "/api/v1/metrics/history/nas/network?start=now-1h&end=now",
    "/api/v1/metrics/usage?by=server&period=day",
    "/api/v1/metrics/top?window=24h",
    "/api/v1/events",
    "/metrics",
)


@pytest.fixture
def reported(agent: APIClient, heartbeat) -> None:
    """Server `nas` has reported once."""
    assert agent.post(BEAT, heartbeat(), format="json").status_code == 200


class Ending:
    """Ends the session before the statement number `at` of a request, once."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.has_ended = at, 0, False

    def __call__(self, execute: Any, *arguments: Any) -> Any:
        self.seen += 1
        if self.seen == self.at and not self.has_ended:
            self.has_ended = True
            end_session()
        return execute(*arguments)


def ended_at_each_statement(ask) -> Iterator[Any]:
    """Yield the answer to a request whose session ends before its first statement, before its second, to its last."""
    for at in range(1, 100):
        ending = Ending(at)
        with connection.execute_wrapper(ending):
            answer = ask(at)
        connection.close()  # as the end of a request does
        if not ending.has_ended:
            assert at > 1
            return
        yield answer


# Sessions


def show(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return cursor.fetchone()[0]


@on_real_transactions
def test_an_ack_is_on_the_disk_whatever_the_database_says():
    name = connection.settings_dict["NAME"]
    with psycopg.connect(**address(), autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        try:
            connection.close()
            connection.close_pool()
            assert show("synchronous_commit") == "on"
        finally:
            other.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')


def test_what_database_url_asks_for_wins():
    asked = {"connect_timeout": 9, "sslmode": "require", "options": "-c lock_timeout=1s"}
    given = options(asked, pool_size=3)
    assert (given["connect_timeout"], given["sslmode"], given["pool"]["max_size"]) == (9, "require", 3)
    with psycopg.connect(**address(), options=given["options"]) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("1s",)
        assert other.execute("SHOW statement_timeout").fetchone() == ("1min",)


@on_real_transactions
def test_a_migration_may_take_its_time():
    with connection.schema_editor():
        assert show("statement_timeout") == "0"
    assert show("statement_timeout") == "1min"


@on_real_transactions
def test_a_statement_of_the_hot_path_is_prepared_once(agent: APIClient, heartbeat):
    for second in range(3):
        beat = heartbeat(uptime=1000.0 + second, sent_uptime=1000.0 + second)
        assert agent.post(BEAT, beat, format="json").status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        prepared = [statement for (statement,) in cursor.fetchall()]
    for part in ('INSERT INTO "metrics_heartbeat"', 'UPDATE "servers_snapshot"', "FOR UPDATE", '"servers_apikey"'):
        assert any(part in statement for statement in prepared), part


# Lost


@on_real_transactions
def test_sessions_that_ended_while_nobody_asked_are_not_noticed(reader: APIClient, agent: APIClient, heartbeat):
    for _ in range(3):
        connection.ensure_connection()
        pid = connection.connection.info.backend_pid
        connection.close()
        with psycopg.connect(**address()) as other:
            assert other.execute("SELECT pg_terminate_backend(%s::int, 5000::bigint)", [pid]).fetchone() == (True,)
        assert reader.get("/api/v1/servers").status_code == 200
        connection.close()
    assert agent.post(BEAT, heartbeat(), format="json").status_code == 200


@on_real_transactions
@pytest.mark.parametrize("path", READS)
def test_a_read_whose_session_ends_is_503_and_the_next_one_is_answered(path: str, reader: APIClient, reported):
    reader.raise_request_exception = False
    for answer in ended_at_each_statement(lambda _: reader.get(path)):
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert answer.json()["errors"][0]["code"] == "unavailable"
        assert reader.get(path).status_code == 200


@on_real_transactions
def test_a_page_whose_session_ends_is_503_and_the_next_one_is_answered(admin_client, reported):
    admin_client.raise_request_exception = False
    for answer in ended_at_each_statement(lambda _: admin_client.get("/admin/servers/server/")):
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert admin_client.get("/admin/servers/server/").status_code == 200


@on_real_transactions
@pytest.mark.parametrize("changes", [{}, {"interfaces": 2}, {"hostname": "another"}])
def test_a_heartbeat_whose_session_ends_is_stored_once_or_refused(agent: APIClient, heartbeat, interface, changes):
    agent.raise_request_exception = False
    statuses = []

    def beat(at: int) -> dict[str, Any]:
        names = [f"eth{number}" for number in range(at * changes.get("interfaces", 0) + 1)]
        named = {"hostname": f"{changes['hostname']}-{at}"} if "hostname" in changes else {}
        times = {"uptime": 1000.0 + 60 * at, "sent_uptime": 1000.0 + 60 * at}
        return heartbeat(network_interfaces=[interface(name, rx_bytes=at) for name in names], **times, **named)

    for answer in ended_at_each_statement(lambda at: agent.post(BEAT, beat(at), format="json")):
        statuses.append(answer.status_code)
        assert answer.status_code == 200 or answer["Retry-After"] == "5"
    # Without its key nothing is known of it; from then on each is one transaction, which is run again.
    assert statuses[0] == 503
    assert set(statuses[1:]) == {200}
    assert len(statuses) >= 4
    stored = list(Heartbeat.objects.order_by("uptime_ms").values_list("uptime_ms", flat=True))
    assert stored == [round(beat(at)["uptime"] * 1000) for at in range(2, len(statuses) + 2)]  # the last was not ended
    assert Snapshot.objects.get().revision == len(stored)


@on_real_transactions
def test_enrolling_in_a_session_that_ends_makes_one_key_and_spends_one_use(api: APIClient):
    key, text = ApiKey.objects.make(KeyKind.ENROLMENT, uses_left=100)
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    api.raise_request_exception = False

    def enrol(at: int) -> Any:
        return api.post("/api/v1/agents/enrol", {"server_id": f"pi-{at}", "hostname": "pi"}, format="json")

    statuses = [answer.status_code for answer in ended_at_each_statement(enrol)]
    assert statuses[0] == 503
    # Writing down that the key was used is no part of the enrolment, and may fail; then the enrolment is run again.
    assert set(statuses[1:]) == {201}
    keys = ApiKey.objects.filter(kind=KeyKind.AGENT)
    assert sorted(keys.values_list("server", flat=True)) == sorted(f"pi-{at}" for at in range(2, len(statuses) + 2))
    key.refresh_from_db()
    assert key.uses_left == 100 - keys.count()


# Committed, and not heard of


@pytest.fixture
def cutter(db: None) -> Iterator[Cutter]:
    known = connection.settings_dict
    with ExitStack() as stack:
        cutter = Cutter()
        stack.callback(cutter.close)
        before = {name: known[name] for name in ("HOST", "PORT")}
        stack.callback(connection.close_pool)
        stack.callback(known.update, before)
        stack.callback(connection.close)
        connection.close()
        connection.close_pool()
        known.update({"HOST": "127.0.0.1", "PORT": str(cutter.port)})
        yield cutter


@on_real_transactions
def test_a_heartbeat_whose_commit_was_not_heard_of_is_a_duplicate_of_itself(
    agent: APIClient, heartbeat, cutter: Cutter
):
    assert agent.post(BEAT, heartbeat(), format="json").json()["outcome"] == "accepted"
    cutter.is_armed = True
    answer = agent.post(BEAT, heartbeat(uptime=1060.0, sent_uptime=1060.0), format="json")
    assert cutter.cuts == 1
    assert (answer.status_code, answer.json()["outcome"]) == (200, "duplicate")
    assert list(Heartbeat.objects.order_by("uptime_ms").values_list("uptime_ms", flat=True)) == [1_000_000, 1_060_000]
    assert Snapshot.objects.get().revision == 2


@on_real_transactions
def test_an_enrolment_whose_commit_was_not_heard_of_gives_the_key_that_it_made(api: APIClient, cutter: Cutter):
    key, text = ApiKey.objects.make(KeyKind.ENROLMENT, uses_left=1)
    key.note_use(now=key.created_at)
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    cutter.is_armed = True
    answer = api.post("/api/v1/agents/enrol", {"server_id": "pi", "hostname": "pi"}, format="json")
    assert cutter.cuts == 1
    assert answer.status_code == 201
    made = ApiKey.objects.get(kind=KeyKind.AGENT)
    assert answer.json()["key"].startswith(made.prefix)
    key.refresh_from_db()
    assert key.uses_left == 0


# Held


@on_real_transactions
def test_a_table_that_a_stuck_process_holds_is_503_and_serves_at_once_when_that_dies(
    agent: APIClient, reader: APIClient, api: APIClient, heartbeat
):
    agent.raise_request_exception = False
    known = address()
    environment = {**os.environ, "PGPASSWORD": known.pop("password", "")}
    conninfo = psycopg.conninfo.make_conninfo(**known)
    holder = subprocess.Popen(
        ["psql", "-qX", conninfo], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdin.write("BEGIN; LOCK TABLE metrics_heartbeat, homelab_probe; \\echo held\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        answer = agent.post(BEAT, heartbeat(), format="json")
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert 4 < time.monotonic() - started < 8
        assert reader.get("/api/v1/servers").status_code == 200
        health.forget()
        assert api.get("/api/v1/system/health").json() == {"status": "busy"}
    finally:
        holder.kill()
        holder.wait()
    started = time.monotonic()
    assert agent.post(BEAT, heartbeat(), format="json").status_code == 200
    assert time.monotonic() - started < 1
    assert Heartbeat.objects.count() == 1


@on_real_transactions
def test_a_server_is_deleted_while_it_reports(admin_client, shared: APIClient, reported, heartbeat):
    """What it reports waits for the deletion, and makes it anew: a shared key may."""
    statuses: list[int] = []
    over = threading.Event()

    def report() -> None:
        for second in range(2000):
            if over.is_set():
                break
            times = {"uptime": 2000.0 + second, "sent_uptime": 2000.0 + second}
            statuses.append(shared.post(BEAT, heartbeat(**times), format="json").status_code)
        connection.close()

    reporter = threading.Thread(target=report)
    reporter.start()
    for _ in range(10):
        while not Server.objects.filter(id="nas").exists():
            time.sleep(0.01)
        answer = admin_client.post("/admin/servers/server/nas/delete/", {"post": "yes"})
        assert answer.status_code == 302
    over.set()
    reporter.join()
    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert Interface.objects.filter(server="nas").count() <= 1


@pytest.mark.django_db
def test_rows_are_streamed_of_more_interfaces_than_a_statement_takes_parameters():
    server = Server.objects.create(id="nas", hostname="nas")
    eth0 = Interface.objects.create(server=server, name="eth0")
    Chunk.objects.create(interface=eth0, start=date(2026, 3, 2), readings=b"\x00\xff")
    of_many = Chunk.objects.filter(interface__in=range(eth0.pk, eth0.pk + 70_000))
    assert list(stream(of_many.values_list("interface_id", "readings"))) == [(eth0.pk, b"\x00\xff")]
