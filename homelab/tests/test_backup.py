"""The restore drill: a backup of a hub at work, in an empty folder and in the place of what came after it."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from django.db import connection

from homelab.tests.hub import ROOT, Hub, environment, wait_for
from homelab.tests.test_nightly import at_night

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has pg_dump")

KILLS = int(os.environ.get("BACKUP_KILLS", "3"))
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
WINDOW = f"start={TODAY - timedelta(days=3):%FT%TZ}&end={TODAY + timedelta(days=1):%FT%TZ}&tz=UTC"


def manage(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(data), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("filled")
    for command in (("migrate", "-v", "0"), ("demo", "--servers", "1", "--interfaces", "2", "--days", "2")):
        assert manage(data, *command).returncode == 0
    return data


@pytest.fixture(scope="module")
def saved(filled: Path) -> Path:
    path = filled / "saved"
    done = manage(filled, "backup", str(path))
    assert done.returncode == 0, done.stderr
    return path


class Agent(threading.Thread):
    """Sends a heartbeat after another, each a second of uptime further."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.url = f"http://{hub.address}/api/v1/agents/heartbeat"
        self.key = hub.createkey("shared")
        self.acknowledged = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            sent = self.acknowledged + 1
            eth0 = dict.fromkeys(("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"), 1000 * sent)
            body = {
                "server_id": "pi", "hostname": "pi", "timestamp": "2026-03-01T06:30:00+00:00", "boot_id": "one",
                "uptime": sent, "sent_uptime": 100_000, "network_interfaces": [{"name": "eth0", "is_up": True, **eth0}],
            }  # fmt: skip
            headers = {"Authorization": f"Bearer {self.key}"}
            if requests.post(self.url, json=body, headers=headers, timeout=30).status_code == 200:
                self.acknowledged = sent


@pytest.fixture
def hubs() -> Iterator[list[Hub]]:
    started: list[Hub] = []
    yield started
    for hub in started:
        if hub.process.poll() is None:
            hub.stop()


def answers(hub: Hub, key: str, server: str) -> list[str]:
    """Return the usage and every reading of a server."""
    headers = {"Authorization": f"Bearer {key}"}
    calls = f"usage?by=interface&period=day&server={server}&{WINDOW}", f"export?server={server}&format=csv&{WINDOW}"
    found = [hub.get(f"/api/v1/metrics/{call}", **headers) for call in calls]
    assert [answer.status_code for answer in found] == [200, 200], [answer.text for answer in found]
    return [answer.text for answer in found]


def demo_server(data: Path) -> str:
    with sqlite3.connect(data / "homelab.sqlite3") as database:
        (name,) = database.execute("SELECT id FROM servers_server WHERE id <> 'pi'").fetchone()
    return str(name)


def test_what_was_acknowledged_before_a_backup_is_in_it_and_the_history_is_the_same(
    filled: Path, tmp_path: Path, hubs: list[Hub]
):
    nights = tmp_path / "nights"
    nights.mkdir()
    variables = {"HOMELAB_BACKUP_DIR": str(nights), "HOMELAB_TIME_ZONE": at_night()}
    hub = Hub(filled, "--no-agent", HOMELAB_THROTTLE="off", **variables)
    hubs.append(hub)
    key = hub.createkey("read")
    agent = Agent(hub)
    agent.start()
    assert wait_for(lambda: agent.acknowledged >= 20, seconds=20)
    before = agent.acknowledged
    hub.run("backup", str(tmp_path / "saved"))
    during = agent.acknowledged + 1  # one may be stored and its ack under way
    agent.stopped.set()
    agent.join()
    then = answers(hub, key, demo_server(filled))
    assert wait_for(lambda: list(nights.glob("homelab-*.sqlite3")), seconds=20), hub.said()

    other = tmp_path / "other"
    assert manage(other, "restore", str(tmp_path / "saved")).returncode == 0
    restored = Hub(other, "--no-agent")
    hubs.append(restored)
    assert answers(restored, key, demo_server(other)) == then
    readings = answers(restored, key, "pi")[1].count("\n") - 1
    assert 20 <= before <= readings <= during


def test_a_hub_that_serves_keeps_its_database(filled: Path, saved: Path, tmp_path: Path, hubs: list[Hub]):
    hubs.append(Hub(filled, "--no-agent"))
    done = manage(filled, "restore", str(saved), "--overwrite")
    assert (done.returncode, "Stop it first" in done.stderr) == (1, True), done.stderr


def test_nothing_is_written_over_unless_one_says_so(filled: Path, saved: Path, tmp_path: Path):
    assert "--overwrite" in manage(filled, "restore", str(saved)).stderr
    assert "--overwrite" in manage(filled, "backup", str(saved)).stderr
    assert manage(filled, "backup", str(saved), "--overwrite").returncode == 0


def test_restoring_leaves_out_what_came_after_the_backup(saved: Path, tmp_path: Path):
    assert manage(tmp_path, "restore", str(saved)).returncode == 0
    assert manage(tmp_path, "createkey", "--kind", "agent", "--server", "later").returncode == 0
    assert manage(tmp_path, "restore", str(saved), "--overwrite").returncode == 0
    with sqlite3.connect(tmp_path / "homelab.sqlite3") as database:
        assert not database.execute("SELECT 1 FROM servers_server WHERE id = 'later'").fetchall()


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 8192])
def test_what_is_no_backup_is_refused_and_changes_nothing(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    done = manage(tmp_path, "restore", str(tmp_path / "file"))
    assert (done.returncode, done.stderr.startswith("CommandError: ")) == (1, True), done.stderr
    assert not (tmp_path / "homelab.sqlite3").exists()


def test_a_damaged_backup_is_refused(saved: Path, tmp_path: Path):
    damaged = bytearray(saved.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4096] = b"\xff" * 4096
    (tmp_path / "damaged").write_bytes(damaged)
    done = manage(tmp_path, "restore", str(tmp_path / "damaged"))
    assert (done.returncode, (tmp_path / "homelab.sqlite3").exists()) == (1, False), done.stderr


def test_a_backup_that_is_killed_leaves_no_file_of_its_name(filled: Path, tmp_path: Path):
    killed = 0
    for round_ in range(KILLS):
        path = tmp_path / f"saved-{round_}"
        process = subprocess.Popen(
            [sys.executable, "manage.py", "backup", str(path)],
            cwd=ROOT, env=environment(filled), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        draft = path.with_name(path.name + ".part")
        assert wait_for(lambda: draft.exists() or process.poll() is not None, seconds=20)  # noqa: B023
        time.sleep(0.02 * round_ / KILLS)
        process.kill()
        killed += process.wait() == -9
        if path.exists():
            with sqlite3.connect(path) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert killed
