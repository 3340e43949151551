"""Hubs to break: made once, copied for each test with their database and keys, on SQLite or PostgreSQL."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests

from homelab.tests.faults.audit import Auditor
from homelab.tests.faults.machines import Machine, Sender, drain
from homelab.tests.hub import ROOT, Hub

SERVER = os.environ.get("DATABASE_URL", "")
ON_POSTGRESQL = SERVER.startswith(("postgres:", "postgresql:"))
sqlite_only = pytest.mark.skipif(ON_POSTGRESQL, reason="what is broken here is SQLite's")

SERVES_WITHIN = 5.0  # seconds from the start to the first answer

MAKE_AGENT_KEYS = """
import json, sys
from django.db import transaction
from servers.models import ApiKey, Server
with transaction.atomic():
    servers = [Server.objects.create(id=name, hostname=name) for name in json.load(sys.stdin)]
    print(json.dumps([ApiKey.objects.make("agent", server=server)[1] for server in servers]))
"""

_numbers = count(1)


class BreakableHub(Hub):
    """A hub with keys, as the machines, their agents and the auditor use them."""

    shared: str
    read: str
    enrolment: str
    password: str  # of its admin

    def sender(self, key: str | None = None) -> Sender:
        return Sender(self.address, key or self.shared)

    def auditor(self) -> Auditor:
        return Auditor(self.address, self.read)

    def sign_in(self) -> requests.Session:
        """Return what a person browses the admin with."""
        session = requests.Session()
        url = f"http://{self.address}/admin/login/"
        session.get(url, timeout=10)
        form = {"username": "admin", "password": self.password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        answer = session.post(url, {**form, "next": "/admin/"}, timeout=10, allow_redirects=False)
        assert answer.status_code == 302, answer.text
        return session

    def drain(self, machines: Iterable[Machine]) -> None:
        drain(self.address, self.shared, machines)

    def restart(self) -> float:
        """Start it anew after a kill. Return after how many seconds it answered that it is well."""
        seconds = self.start()
        answer = self.get("/api/v1/system/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"}), self.said()
        return seconds

    def assert_intact(self) -> None:
        """Look at the database as a whole, while the hub runs."""
        if not ON_POSTGRESQL:
            assert self.rows("PRAGMA integrity_check") == [("ok",)]
            assert self.rows("PRAGMA foreign_key_check") == []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if ON_POSTGRESQL:
            with psycopg.connect(self.environment["DATABASE_URL"]) as database:
                return database.execute(query).fetchall()
        # Read-only: the last connection to close would otherwise tidy up what the kill has left.
        with closing(sqlite3.connect(f"file:{self.data / 'homelab.sqlite3'}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    def log_length(self) -> int:
        """Return how many heartbeats are not sealed."""
        return self.rows("SELECT count(*) FROM metrics_heartbeat")[0][0]

    def stored(self) -> dict[str, int]:
        """Return how many heartbeats of each server it has ever stored, sealed ones too."""
        return dict(self.rows("SELECT server_id, revision FROM servers_snapshot"))

    def make_agent_keys(self, server_ids: Sequence[str]) -> list[str]:
        """Make servers, and a key for each."""
        printed = subprocess.check_output(
            self.manage("shell", "-v0", "-c", MAKE_AGENT_KEYS), cwd=ROOT, env=self.environment, text=True,
            input=json.dumps(server_ids),
        )  # fmt: skip
        return json.loads(printed)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of manage.py beside it, to be killed."""
        return subprocess.Popen(
            self.manage(*arguments), cwd=ROOT, env=self.environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@contextmanager
def new_hub(folder: Path, **variables: str) -> Iterator[BreakableHub]:
    """Start a hub whose database is empty and its own, without keys. Whatever is left of it in the end is killed."""
    database = _create() if ON_POSTGRESQL else None
    hub = BreakableHub(folder, "--no-agent", **_variables(database), **variables)
    with _ended(hub, database):
        yield hub


@contextmanager
def _ended(hub: BreakableHub, database: str | None) -> Iterator[None]:
    try:
        yield
    finally:
        if hub.process.poll() is None:
            hub.kill()
        if database:
            drop(database)


class Origin:
    """A hub that was set up and stopped: the database, the static files and the keys of every copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = _create() if ON_POSTGRESQL else None
        hub = BreakableHub(folder, "--no-agent", **_variables(self.database))
        self.shared, self.read = (hub.createkey(kind) for kind in ("shared", "read"))
        self.password = hub.said().partition("the password ")[2].split()[0]
        assert hub.stop()[0] == 0, hub.said()

    @contextmanager
    def copy(self, folder: Path, of_hub: type[BreakableHub] = BreakableHub, **variables: str) -> Iterator[BreakableHub]:
        """Start a copy. Whatever is left of it in the end is killed."""
        if not folder.exists():
            shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("static", "*-ballast"))
            (folder / "static").symlink_to(self.folder / "static")
        database = _create(self.database) if self.database else None
        hub = of_hub(folder, "--no-agent", **{"HOMELAB_THROTTLE": "off", **_variables(database), **variables})
        hub.shared, hub.read, hub.password = self.shared, self.read, self.password
        with _ended(hub, database):
            yield hub


def drop(database: str) -> None:
    with psycopg.connect(SERVER, autocommit=True) as server:
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")


def _create(template: str = "template0") -> str:
    name = f"homelab_faults_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(SERVER, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return name


def _variables(database: str | None) -> dict[str, str]:
    return {"DATABASE_URL": urlsplit(SERVER)._replace(path=f"/{database}").geturl()} if database else {}
