"""Writers take turns: of threads, and of processes that hold the file's lock."""

import fcntl
import threading
import time
from pathlib import Path

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from homelab.sqlite3.base import _Gate
from servers.models import Server

pytestmark = pytest.mark.skipif(connection.vendor != "sqlite", reason="a gate is SQLite's")


def test_a_writer_waits_for_another_process_and_goes_on_when_it_ends(tmp_path: Path):
    with open(tmp_path / "db-gate", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.2, other.close).start()
        started = time.monotonic()
        _Gate(str(tmp_path / "db"), timeout=5).leave()
    assert 0.15 < time.monotonic() - started < 2


def test_a_writer_that_waits_too_long_says_that_the_database_is_locked(tmp_path: Path):
    gate = _Gate(str(tmp_path / "db"), timeout=1)
    with pytest.raises(OperationalError, match="locked"):
        _Gate(str(tmp_path / "db"), timeout=0.1)
    gate.leave()
    _Gate(str(tmp_path / "db"), timeout=1).leave()


def test_a_failed_wait_for_a_process_lets_the_next_thread_in(tmp_path: Path):
    with open(tmp_path / "db-gate", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OperationalError, match="process"):
            _Gate(str(tmp_path / "db"), timeout=0.1)
    _Gate(str(tmp_path / "db"), timeout=1).leave()


@pytest.mark.django_db(transaction=True)
def test_the_gate_is_open_again_after_a_commit_and_after_an_error():
    with transaction.atomic():
        Server.objects.create(id="nas", hostname="nas")
        assert connection._gate is not None
    assert connection._gate is None
    with pytest.raises(IntegrityError), transaction.atomic():
        Server.objects.create(id="nas", hostname="again")
    assert connection._gate is None
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
