"""A hub that moves: from SQLite into the database of this suite, killed anywhere on its way, and back."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings

from homelab import demo, moving, serve
from homelab.backup import BackupError
from homelab.models import Move
from homelab.moving import SOURCE, MoveError, asking, move, opened_source
from homelab.tests.hub import ROOT, environment
from metrics import seal
from metrics.models import Chunk, Heartbeat, Interface
from servers.models import ApiKey, KeyKind, Server
from servers.tests.sessions import address

pytestmark = pytest.mark.django_db(transaction=True)

KILLS = int(os.environ.get("MOVE_KILLS", "5"))
NOW = datetime(2026, 3, 20, 12, 30, tzinfo=UTC)
HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    with override_settings(SOURCE_URL=f"sqlite:///{path}"), opened_source() as source:
        yield source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any) -> Path:
    """A hub in SQLite: chunks, a log, keys, a person; the names of its servers sort otherwise on other engines."""
    path = tmp_path_factory.mktemp("source") / "homelab.sqlite3"
    path.touch()
    with django_db_blocker.unblock(), opened(path) as source:
        call_command("migrate", database=SOURCE, verbosity=0)
        with asking(source):
            for name in ("n-2", "nas"):
                demo.build_server(name, interfaces=2, days=1, now=NOW, in_log=True)
            seal.seal("nas", now=NOW)
            ApiKey.objects.make(KeyKind.AGENT, server=Server.objects.get(id="nas"))
            user = get_user_model().objects.create_user("ada", password="not a secret")
            user.user_permissions.set([1, 7])
            user.logentry_set.create(content_type_id=3, object_id="nas", action_flag=1)
            assert Chunk.objects.exists()
            assert Heartbeat.objects.filter(server="n-2").count() > 500
    return path


@pytest.fixture(autouse=True)
def source(made: Path, tmp_path: Path, settings: Any, db: None, django_db_blocker: Any) -> Iterator[Path]:
    """A copy of it, to be moved into the database of this suite, which is as `migrate` leaves it."""
    path = tmp_path / "homelab.sqlite3"
    shutil.copy(made, path)
    settings.DATA_DIR = tmp_path
    settings.SOURCE_URL = f"sqlite:///{path}"
    options = dict(connection.settings_dict["OPTIONS"])
    leave()
    if connection.vendor == "postgresql":
        connection.settings_dict["OPTIONS"]["application_name"] = "tests"  # who looks on is no hub
    with django_db_blocker.unblock():  # Django's tests know of one database only
        yield path
    leave()
    connection.settings_dict["OPTIONS"] = options


def leave() -> None:
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()


def move_here() -> None:
    leave()
    move(StringIO())


def rows() -> dict[str, list[Any]]:
    """Return every row of every table that is moved."""
    return {
        model._meta.db_table: sorted(map(comparable, model._base_manager.values_list()), key=repr)
        for model in moving.models_in_order()
    }


def comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)


def rows_of(path: Path) -> dict[str, list[Any]]:
    with opened(path) as source, asking(source):
        return rows()


def killed_when(far_enough: Callable[[], bool]) -> bool:
    """Move in a process of its own, and kill it once it came so far. Tell whether it was killed, and had not ended."""
    leave()
    child = os.fork()
    if child == 0:
        moving.BATCH = 5
        try:
            move(StringIO())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    until = time.monotonic() + 60
    while not far_enough() and time.monotonic() < until:
        time.sleep(0.002)
        connection.close()
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_move_that_is_killed_again_and_again_ends_with_every_row(source: Path):
    before = rows_of(source)
    assert killed_when(lambda: True)
    for goal in sorted(random.sample(range(len(before["metrics_heartbeat"]) // 2), KILLS - 1)):
        assert killed_when(lambda: Heartbeat.objects.count() > goal)  # noqa: B023
        assert Heartbeat.objects.count() < len(before["metrics_heartbeat"])
        with pytest.raises(serve.Unfit, match="migratedata"):
            serve.set_up(StringIO())
    move_here()
    assert rows() == before
    assert not Move.objects.exists()


def test_what_is_new_is_numbered_after_what_came(source: Path):
    move_here()
    newest = max(Interface.objects.values_list("pk", flat=True))
    assert Interface.objects.create(server_id="nas", name="new").pk > newest


def test_the_command_says_what_it_did_and_does_it_once(source: Path, capsys: pytest.CaptureFixture[str]):
    call_command("migratedata")
    assert "every total is the same" in capsys.readouterr().out
    leave()
    with pytest.raises(CommandError, match="has data already, in servers_server"):
        call_command("migratedata")


def test_it_does_not_go_on_with_a_source_that_has_changed(source: Path):
    assert killed_when(lambda: Heartbeat.objects.exists())
    time.sleep(0.01)
    with opened(source) as database, asking(database):
        Server.objects.filter(id="nas").update(notes="changed")
    with pytest.raises(MoveError, match="has changed since"):
        move_here()


def test_totals_that_are_not_the_same_are_told(source: Path):
    assert killed_when(lambda: Chunk.objects.exists())
    chunk = Chunk.objects.first()
    hours = chunk.get_hours()
    hours.sums["rx_bytes"][3] += 1
    chunk.set_hours(hours)
    chunk.save()
    with pytest.raises(MoveError, match=r"What passed \w+ of nas is not what it was"):
        move_here()
    assert Move.objects.exists()


def test_it_refuses_what_would_do_damage(source: Path, settings: Any, tmp_path: Path):
    with opened(source) as database, asking(database):
        call_command("migrate", "metrics", "0002", database=SOURCE, verbosity=0)
    with pytest.raises(MoveError, match="is of an earlier hub, without 0003_events"):
        move_here()
    settings.SOURCE_URL = f"sqlite:///{tmp_path / 'nothing'}"
    with pytest.raises(MoveError, match="There is no"):
        move_here()
    assert not (tmp_path / "nothing").exists()
    assert not Server.objects.exists()


def test_it_refuses_while_a_hub_serves(source: Path):
    hub = subprocess.Popen(
        [sys.executable, "-c", HOLD, source.parent / "serving-lock"], stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout.readline() == "held\n"
    with pytest.raises(CommandError, match="Stop it first"):
        call_command("migratedata")
    hub.kill()
    hub.communicate()


on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's sessions")


@on_postgresql
def test_it_refuses_while_another_hub_is_connected(source: Path):
    with psycopg.connect(**address(), application_name="homelab"), pytest.raises(BackupError, match="Stop it first"):
        move_here()


@on_postgresql
def test_it_moves_back(source: Path, tmp_path: Path):
    before = rows_of(source)
    move_here()
    leave()
    back = tmp_path / "back"
    back.mkdir()
    known = address()
    url = f"postgres://{known['user']}:{known.get('password', '')}@{known['host']}:{known['port']}/{known['dbname']}"
    command = [sys.executable, "manage.py", "migratedata"]
    variables = {**environment(back), "HOMELAB_SOURCE_URL": url}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows_of(back / "homelab.sqlite3") == before
