"""The database of the first hub there was, migrated by the one of now: nothing is lost, and the way back is there."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection

from homelab.backup import before_upgrade
from homelab.tests.hub import Hub

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="one run on SQLite is enough")

FIRST = Path(__file__).with_name("first_hub.sql")
DAY = "start=2026-11-24T00:00:00Z&end=2026-11-25T00:00:00Z&tz=UTC"
FOR_EVER = {"HOMELAB_RETENTION_READINGS_DAYS": "36500"}
KEPT = ("servers_server", "servers_boot", "servers_apikey", "servers_snapshot", "metrics_interface", "auth_user")

# Each boot has 12 heartbeats; nas has rebooted once, from when on its counters began at 0.
STEP = {"eth0": 123_457, "wlan0": 999_983}
AFTER_REBOOT = {"eth0": 1_000_000, "wlan0": 10**12}


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_the_first_hub_of_all_is_upgraded_and_can_be_had_back(tmp_path: Path):
    database = tmp_path / "homelab.sqlite3"
    with closing(sqlite3.connect(database)) as first:
        first.executescript(FIRST.read_text())
        migrations = first.execute("SELECT app, name FROM django_migrations ORDER BY id").fetchall()
        log = first.execute("SELECT * FROM metrics_heartbeat ORDER BY 1, 2").fetchall()
    (tmp_path / "backups").mkdir()
    for age in (1, 2, 3):
        (tmp_path / "backups" / f"before-{age}.sqlite3").touch()
        os.utime(tmp_path / "backups" / f"before-{age}.sqlite3", (1e9 - age, 1e9 - age))
    hub = Hub(tmp_path, "--no-agent", **FOR_EVER)
    try:
        key = {"Authorization": f"Bearer {hub.createkey('read')}"}
        usage = hub.get(f"/api/v1/metrics/usage?by=interface&period=day&{DAY}", **key).json()["rows"]
        export = hub.get(f"/api/v1/metrics/export?format=csv&{DAY}", **key).text.splitlines()
    finally:
        hub.stop()
    passed = {(row["server_id"], row["interface"]): row["rx_bytes"] for row in usage}
    expected = {("router", name): 11 * step for name, step in STEP.items()}
    expected |= {("nas", name): 22 * step + AFTER_REBOOT[name] for name, step in STEP.items()}
    assert passed == expected
    assert len(export) - 1 == 2 * 36

    older, newest, saved = sorted((tmp_path / "backups").iterdir())
    assert (older.name, newest.name) == ("before-1.sqlite3", "before-2.sqlite3")
    assert str(saved) in hub.said()
    assert saved.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(saved)) as before:
        assert before.execute("SELECT app, name FROM django_migrations ORDER BY id").fetchall() == migrations
        assert before.execute("SELECT * FROM metrics_heartbeat ORDER BY 1, 2").fetchall() == log
    for table in KEPT:
        assert count(database, table) == count(saved, table) + (table == "servers_apikey"), table  # the one made here


@pytest.mark.django_db
def test_a_database_that_is_up_to_date_is_not_backed_up(settings, tmp_path: Path):
    settings.DATA_DIR = tmp_path
    assert before_upgrade(None) is None
    assert list(tmp_path.iterdir()) == []
