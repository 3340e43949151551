"""PostgreSQL's database as one file, and back again; and what its programs must not do on the way."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from homelab import demo
from metrics.models import Chunk, Interface
from metrics.seal import seal
from servers.models import Server
from servers.tests.sessions import address

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's programs"),
]

NOW = datetime(2026, 3, 20, 12, 30, tzinfo=UTC)
PASSWORD = "not-in-an-argument"


@pytest.fixture(autouse=True)
def filled(tmp_path: Path, settings: Any) -> Iterator[None]:
    settings.DATA_DIR = tmp_path
    known = dict(connection.settings_dict)
    options = dict(known["OPTIONS"])
    leave()
    connection.settings_dict["OPTIONS"]["pool"] = False
    demo.build_server("nas", interfaces=2, days=1, now=NOW, in_log=True)
    seal("nas", now=NOW)
    yield
    leave()
    connection.settings_dict.update(known, OPTIONS=options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "saved.dump"
    call_command("backup", str(path))
    return path


def leave() -> None:
    connection.close()
    connection.close_pool()


def chunks() -> list[Any]:
    return [(chunk.pk, chunk.rx_bytes, bytes(chunk.hours), bytes(chunk.readings)) for chunk in Chunk.objects.all()]


@pytest.fixture
def wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a script in the place of a program; `$real` is that."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(program: str, script: str) -> None:
        real = shutil.which(program)
        (folder / program).write_text(f"#!/bin/sh\nreal={real}\n{script}\n")
        (folder / program).chmod(0o755)

    return write


def test_what_came_after_the_backup_is_gone_and_the_rest_is_as_it_was(path: Path):
    before = chunks()
    Server.objects.create(id="later")
    Chunk.objects.all().delete()
    with pytest.raises(CommandError, match="--overwrite"):
        call_command("restore", str(path))
    assert Server.objects.filter(id="later").exists()
    call_command("restore", str(path), "--overwrite")
    assert chunks() == before
    assert not Server.objects.filter(id="later").exists()
    newest = max(Interface.objects.values_list("pk", flat=True))
    assert Interface.objects.create(server_id="nas", name="new").pk > newest
    assert path.stat().st_mode & 0o077 == 0


def test_the_password_is_in_no_argument(tmp_path: Path, wrap):
    for program in ("pg_dump", "pg_restore", "psql"):
        wrap(program, f'echo "$PGPASSWORD {program} $@" >> {tmp_path}/seen; exec $real "$@"')
    connection.settings_dict["PASSWORD"] = PASSWORD
    connection.close()
    call_command("backup", str(tmp_path / "saved"))
    call_command("restore", str(tmp_path / "saved"), "--overwrite")
    seen = (tmp_path / "seen").read_text()
    assert (f"{PASSWORD} pg_dump --format" in seen, f"{PASSWORD} psql --no-psqlrc" in seen) == (True, True)
    assert all(PASSWORD not in line.partition(" ")[2] for line in seen.splitlines())


def test_without_the_program_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="pg_dump is not installed here; Debian has it in postgresql-client"):
        call_command("backup", str(tmp_path / "saved"))
    assert list(tmp_path.glob("saved*")) == []


def test_a_program_that_is_older_than_the_server_is_not_tried(tmp_path: Path, wrap):
    wrap("pg_dump", 'echo "pg_dump (PostgreSQL) 9.6.1"')
    with pytest.raises(CommandError, match="install postgresql-client-"):
        call_command("backup", str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_a_dump_that_fails_leaves_no_file(tmp_path: Path, wrap):
    wrap(
        "pg_dump", '[ "$1" = --version ] && exec $real "$@"; $real "$@" && echo "pg_dump: error: no space" >&2; exit 1'
    )
    with pytest.raises(CommandError, match="was not written: pg_dump: error: no space"):
        call_command("backup", str(tmp_path / "saved"))
    assert list(tmp_path.glob("saved*")) == []


def test_a_damaged_backup_is_refused_and_changes_nothing(path: Path):
    before = chunks()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = b"\xff" * 64
    path.write_bytes(damaged)
    with pytest.raises(CommandError, match=r"is no backup of a hub|was not restored"):  # its data, or its statements
        call_command("restore", str(path), "--overwrite")
    path.write_bytes(b"not a dump")
    with pytest.raises(CommandError, match="is no backup of a hub"):
        call_command("restore", str(path), "--overwrite")
    assert chunks() == before


def test_a_restore_that_ends_halfway_changes_nothing(path: Path, wrap, tmp_path: Path):
    Server.objects.create(id="later")
    wrap("pg_restore", '[ "$1" = --no-owner ] || exec $real "$@"; $real "$@" | head -c 20000; echo "died" >&2; exit 1')
    with pytest.raises(CommandError, match="was not restored"):
        call_command("restore", str(path), "--overwrite")
    assert Server.objects.filter(id="later").exists()
    assert Chunk.objects.exists()


def test_a_hub_at_work_keeps_its_database(path: Path):
    with psycopg.connect(**address(), application_name="homelab"), pytest.raises(CommandError, match="Stop it first"):
        call_command("restore", str(path), "--overwrite")
