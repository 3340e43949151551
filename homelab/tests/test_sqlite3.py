"""Writers take turns: of threads, and of processes that hold the file's lock."""

import fcntl
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from django.db import IntegrityError, OperationalError, connection, transaction

from homelab.sqlite3.gate import STUCK_SECONDS, Turn
from homelab.tests.hub import ROOT, Hub, environment
from servers.models import Server

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="a gate is SQLite's")


def test_a_writer_waits_for_another_process_and_goes_on_when_it_ends(tmp_path: Path):
    with open(tmp_path / "db-gate", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.2, other.close).start()
        started = time.monotonic()
        Turn(str(tmp_path / "db"), timeout=5).leave()
    assert 0.15 < time.monotonic() - started < 2


def test_a_writer_that_waits_too_long_says_that_the_database_is_locked(tmp_path: Path):
    turn = Turn(str(tmp_path / "db"), timeout=1)
    with pytest.raises(OperationalError, match="locked"):
        Turn(str(tmp_path / "db"), timeout=0.1)
    turn.leave()
    Turn(str(tmp_path / "db"), timeout=1).leave()


def test_a_failed_wait_for_a_process_lets_the_next_thread_in(tmp_path: Path):
    with open(tmp_path / "db-gate", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OperationalError, match="process"):
            Turn(str(tmp_path / "db"), timeout=0.1)
    Turn(str(tmp_path / "db"), timeout=1).leave()


def test_after_one_waited_in_vain_nobody_waits_long_until_a_turn_comes_again(tmp_path: Path):
    database = str(tmp_path / "db")
    stuck = Turn(database, timeout=1)
    with pytest.raises(OperationalError):
        Turn(database, timeout=0.1)
    began = time.monotonic()
    with pytest.raises(OperationalError):
        Turn(database, timeout=60)
    assert time.monotonic() - began < 2
    stuck.leave()
    first = Turn(database, timeout=60)
    threading.Timer(2 * STUCK_SECONDS, first.leave).start()
    Turn(database, timeout=60).leave()


def test_a_gate_that_cannot_be_opened_is_an_error_of_the_database(tmp_path: Path):
    with pytest.raises(OperationalError, match=r"cannot open .*missing/db-gate: No such file"):
        Turn(str(tmp_path / "missing" / "db"), timeout=1)
    (tmp_path / "missing").mkdir()
    Turn(str(tmp_path / "missing" / "db"), timeout=1).leave()


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_is_a_transaction_of_its_own_takes_its_turn_and_returns_its_rows():
    turns = []
    with connection.cursor() as cursor:
        cursor.cursor.connection.set_trace_callback(lambda _: turns.append(connection._turn is not None))
        cursor.execute("INSERT INTO homelab_probe (written_at) VALUES ('2026-03-01'), ('2026-03-02') RETURNING id")
        assert (turns, connection._turn) == ([True], None)
        assert len(cursor.fetchmany(1) + cursor.fetchall()) == 2
        assert cursor.fetchone() is None
        cursor.execute("INSERT INTO homelab_probe (written_at) VALUES ('2026-03-03') RETURNING written_at")
        assert [row[0].day for row in cursor] == [3]
        assert cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        cursor.executemany("DELETE FROM homelab_probe WHERE id = %s", [(1,), (2,)])
        assert all(turns)
        cursor.execute("SELECT 1")
        assert (turns[-1], cursor.fetchall()) == (False, [(1,)])
        cursor.cursor.connection.set_trace_callback(None)


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_is_begun_by_hand_holds_its_turn_to_its_end():
    with connection.cursor() as cursor:
        for end in ("COMMIT", "ROLLBACK"):
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("SELECT 1")
            assert connection._turn is not None
            cursor.execute(end)
            assert connection._turn is None


@pytest.mark.django_db(transaction=True)
def test_a_reader_waits_for_nobody():
    other = Turn(str(connection.settings_dict["NAME"]), timeout=1)
    began = time.monotonic()
    assert list(Server.objects.all()) == []
    assert time.monotonic() - began < 1
    other.leave()


@pytest.mark.django_db(transaction=True)
def test_the_gate_is_open_again_after_a_commit_and_after_an_error():
    with transaction.atomic():
        Server.objects.create(id="nas", hostname="nas")
        assert connection._turn is not None
    assert connection._turn is None
    with pytest.raises(IntegrityError), transaction.atomic():
        Server.objects.create(id="nas", hostname="again")
    assert connection._turn is None
    assert list(Server.objects.values_list("id", flat=True)) == ["nas"]


@pytest.mark.django_db(transaction=True)
def test_sixteen_threads_that_read_and_then_write_lose_nothing():
    Server.objects.create(id="nas", hostname="0")

    def count_up() -> None:
        with transaction.atomic():
            server = Server.objects.get()
            Server.objects.update(hostname=str(int(server.hostname) + 1))
        connection.close()

    threads = [threading.Thread(target=count_up) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Server.objects.get().hostname == "16"


# Every write, of every command, as the kernel sees it

CALLS = "openat,close,flock,write,pwrite64,pwritev,fdatasync,fsync,ftruncate,fallocate,unlink"
WRITES = re.compile(
    r"(?:pwrite64|pwritev|write|fdatasync|fsync|ftruncate|fallocate)\(\d+<[^>]*homelab\.sqlite3(-wal)?>"
)
STRACE = ("strace", "-f", "--seccomp-bpf", "-y", "-qqq", "-e", f"trace={CALLS}", "-o")
BY_HAND = """
from homelab.models import Probe
from django.db import connection
from django.utils import timezone
for number in range(600):
    Probe.objects.create(written_at=timezone.now())
connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
Probe.objects.all().delete()
connection.cursor().execute("VACUUM")
"""


def writes_out_of_turn(trace: Path) -> tuple[int, list[str]]:
    """Return how often the files of the database were written, and those lines of the trace where nobody had the turn.

    The turn is a thread's from when its flock() of the gate returns until the gate is closed.
    """
    holder, writes, out_of_turn = "", 0, []
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if "flock" in call and call.endswith("= 0"):  # nothing else in the hub takes such a lock
            holder = thread
        elif call.startswith("close(") and "-gate>" in call and holder == thread:
            holder = ""
        elif WRITES.match(call):
            writes += 1
            out_of_turn += [line] if holder != thread else []
    return writes, out_of_turn


def test_every_write_and_every_checkpoint_of_every_command_is_in_its_turn(tmp_path: Path):
    commands = [
        ["migrate", "-v0"],
        ["createkey", "--kind", "read"],
        ["demo", "--servers", "1", "--interfaces", "2", "--days", "1"],
        ["tick"],
        ["shell", "-v0", "-c", BY_HAND],
    ]
    for number, command in enumerate(commands):
        trace = tmp_path / f"trace-{number}"
        under = [*STRACE, str(trace), sys.executable, "manage.py", *command]
        subprocess.run(under, cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True, timeout=120)
        writes, out_of_turn = writes_out_of_turn(trace)
        assert (writes > 10 or command == ["tick"], out_of_turn) == (True, []), command
    assert "unlink" in trace.read_text()  # the last connection moved the log into the database


def test_every_write_of_the_threads_of_a_hub_is_in_its_turn(tmp_path: Path, heartbeat):
    hub = Hub(tmp_path, "--no-agent")
    key = {"X-API-Key": hub.createkey("shared")}
    hub.stop()
    hub.start(*STRACE, str(tmp_path / "trace"))

    def beat(server: int) -> None:
        for number in range(25):
            body = heartbeat(server_id=f"server-{server}", uptime=float(number), sent_uptime=float(number))
            answer = requests.post(f"http://{hub.address}/api/v1/agents/heartbeat", json=body, headers=key, timeout=20)
            assert answer.status_code == 200

    with ThreadPoolExecutor(4) as agents:
        list(agents.map(beat, range(8)))
    (traced,) = psutil.Process(hub.process.pid).children()
    traced.send_signal(signal.SIGINT)
    hub.process.wait(timeout=20)
    writes, out_of_turn = writes_out_of_turn(tmp_path / "trace")
    assert (writes > 400, out_of_turn) == (True, [])
