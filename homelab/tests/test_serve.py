"""`manage.py serve` as a newcomer runs it: a process of its own, on a free port, with an empty data folder."""

import gc
import re
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
import requests
from django.core.management import CommandError, call_command
from django.utils import timezone

from agent.homelab_agent import default_server_id
from homelab import serve
from homelab.tests.hub import ROOT, Hub, environment, hub_on_sqlite, wait_for
from metrics.windows import PERIODS

pytestmark = hub_on_sqlite

PASSWORD = re.compile(r"Sign in as admin with the password (\S+)")
INTERFACES = {name for name in psutil.net_io_counters(pernic=True, nowrap=False) if name != "lo"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    hubs: list[Hub] = []

    def run(*arguments: str) -> Hub:
        hubs.append(Hub(tmp_path, *arguments))
        return hubs[-1]

    yield run
    for hub in hubs:
        if hub.process.poll() is None:
            hub.process.kill()
            hub.process.wait()


def test_this_machine_is_seen_and_only_the_first_start_prints_the_password(start, tmp_path: Path):
    hub = start()
    assert len(PASSWORD.findall(hub.said())) == 1
    bearer = {"Authorization": f"Bearer {hub.createkey('read')}"}

    def reported() -> dict[str, Any] | None:
        (server,) = hub.get("/api/v1/servers", **bearer).json()["servers"]
        return server if server["network_interfaces"] else None

    server = wait_for(reported, seconds=30)
    assert server, hub.said()
    assert server["id"] == default_server_id(socket.gethostname())
    assert server["state"] == "online"
    assert {interface["name"] for interface in server["network_interfaces"]} == INTERFACES
    code, seconds = hub.stop()
    assert (code, seconds < 5) == (0, True)

    again = start()
    assert not PASSWORD.search(again.said())
    (kept,) = again.get("/api/v1/servers", **bearer).json()["servers"]
    assert kept["id"] == server["id"]
    assert again.stop()[0] == 0
    assert "Traceback" not in hub.said() + again.said()


def test_the_printed_password_signs_in(start):
    hub = start("--no-agent")
    session = requests.Session()
    url = f"http://{hub.address}/admin/login/"
    session.get(url, timeout=5)
    form = {"username": "admin", "password": PASSWORD.search(hub.said())[1]}
    token = {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
    answer = session.post(url, {**form, **token}, allow_redirects=False, timeout=5)
    assert answer.status_code == 302
    assert "sessionid" in session.cookies


def test_what_is_secret_is_readable_by_its_owner_only(start, tmp_path: Path):
    start()
    database = ("homelab.sqlite3", "homelab.sqlite3-wal", "homelab.sqlite3-shm")
    for secret in (*database, "secret-key", "agent/agent.env"):
        assert (tmp_path / secret).stat().st_mode & 0o077 == 0, secret


def test_only_static_files_that_are_used_are_collected(tmp_path: Path, settings):
    settings.STATIC_ROOT = tmp_path
    serve._collect_static()
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"homelab/theme.css", "drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"} <= names
    assert not [name for name in names if "redoc" in name or "rest_framework" in name]
    (tmp_path / "left").touch()
    serve._collect_static()
    assert (tmp_path / "left").exists(), "they were collected again, and what else was there is gone"


def test_without_its_agent_it_serves_and_knows_no_server(start):
    hub = start("--no-agent")
    answer = hub.get("/api/v1/servers", **{"X-API-Key": hub.createkey("read")})
    assert answer.json() == {"servers": [], "total": 0}


def test_it_stops_on_sigterm_too(start):
    code, seconds = start("--no-agent").stop(signal.SIGTERM)
    assert (code, seconds < 5) == (0, True)


def test_a_port_in_use_gives_one_clear_line(start, tmp_path: Path):
    hub = start("--no-agent")
    command = [sys.executable, "manage.py", "serve", "--bind", hub.address, "--no-agent"]
    second = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert second.stderr == (
        f"CommandError: Cannot listen on {hub.address}: Address already in use. Choose another with --bind HOST:PORT.\n"
    )


@pytest.mark.parametrize("bind", ["nonsense", "127.0.0.1", "127.0.0.1:", ":x"])
def test_an_address_that_is_none_is_refused(bind: str):
    with pytest.raises(CommandError, match=rf"^--bind takes HOST:PORT, not {bind}\.$"):
        call_command("serve", "--bind", bind)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "postgres://ada:planted@127.0.0.1:1/hub",
            "Connection refused. See that PostgreSQL runs and that DATABASE_URL",
        ),
        ("sqlite:///{data}/broken", "file is not a database. See {data}/broken, or restore a backup"),
    ],
)
def test_a_database_that_cannot_be_used_gives_one_clear_line(tmp_path: Path, url: str, reason: str):
    (tmp_path / "broken").write_bytes(b"no database" * 1000)
    variables = {**environment(tmp_path), "DATABASE_URL": url.format(data=tmp_path)}
    command = [sys.executable, "manage.py", "serve", "--bind", "127.0.0.1:0", "--no-agent"]
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    *logged, said = run.stderr.splitlines()
    assert said.startswith("CommandError: The database cannot be used: ")
    assert reason.format(data=tmp_path) in said
    assert not any("Traceback" in line for line in logged)
    assert "planted" not in run.stderr


# What only a real server shows


def status_of(hub: Hub, request: bytes) -> int:
    host, port = hub.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.replace(b"\r\n", b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n", 1))
        return int(connection.recv(65_536).split()[1])


def test_odd_requests_get_an_answer_and_leave_the_hub_standing(start):
    hub = start("--no-agent")
    post = b"POST /api/v1/agents/heartbeat HTTP/1.1\r\n"
    odd = {
        b"GET /api/%00 HTTP/1.1\r\n\r\n": 404,
        post + b"Authorization: Bearer caf\xe9.\xff\r\nContent-Length: 2\r\n\r\n{}": 401,
        post + b"Authorization: Bearer \x00123456789.x\r\nContent-Length: 2\r\n\r\n{}": 400,
        post + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": 401,
        post + b"Content-Length: -1\r\n\r\n": 400,
        post + b"Content-Length: 10000000\r\n\r\n" + b"x" * 100_000: 413,
        b"GET /api/v1/servers HTTP/1.1\r\n\r\n": 401,
    }
    assert [status_of(hub, request) for request in odd] == list(odd.values())


@pytest.mark.django_db(transaction=True)
def test_it_reads_ahead_at_the_start_and_once_an_hour_is_sealed(monkeypatch):
    start = datetime(2026, 3, 1, 10, 58, 20, tzinfo=UTC)
    asked: list[tuple[str, int]] = []
    clock, stop = {"minute": 0}, Event()
    monkeypatch.setattr(timezone, "now", lambda: start + timedelta(minutes=clock["minute"]))
    monkeypatch.setattr(serve.pages, "read_ahead", lambda period, now: asked.append((period, clock["minute"])))
    real = serve.tick

    def tick(*, now: datetime) -> dict[str, int]:
        if clock["minute"] in (2, 3):
            raise OSError("No space left on device")
        return real(now=now)

    monkeypatch.setattr(serve, "tick", tick)
    job = serve._tick_job()
    for minute in range(65):
        clock["minute"] = minute
        job(stop)
    assert asked == [(period, minute) for minute in (0, 4, 62) for period in PERIODS]
    clock["minute"] = 200
    stop.set()
    job(stop)
    assert len(asked) == 3 * len(PERIODS), "it stops between two periods"


def test_sweeps_for_garbage_pass_over_what_is_kept_but_not_over_what_became_garbage_since():
    class Thing:
        pass

    try:
        thing = Thing()
        thing.itself = thing
        seen = weakref.ref(thing)
        serve._settle()
        before = gc.get_freeze_count()
        kept = [[] for _ in range(100_000)]
        del thing
        serve._settle()
        assert gc.get_freeze_count() > before + len(kept) // 2
        assert seen() is None
    finally:
        gc.unfreeze()
