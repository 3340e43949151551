"""A turn to write: a lock of the process for its threads, then a lock of a file for the other processes."""

import fcntl
import os
import sqlite3
import threading
import time
from collections import defaultdict

from django.db import OperationalError

POLL_SECONDS = 0.002
STUCK_SECONDS = 0.25

_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
_stuck: set[str] = set()


class Turn:
    """The turn to write to a database, until it is left. Raises OperationalError when it does not come in time.

    Once somebody has waited in vain, nobody waits long until a turn comes again: whoever holds it may be stopped for
    good, and threads that wait for him serve no readers.
    """

    def __init__(self, database: str, timeout: float, *, is_patient: bool = True) -> None:
        self.lock = _locks[database]
        try:
            self._wait(database, min(timeout, STUCK_SECONDS) if database in _stuck else timeout)
        except OperationalError:
            if is_patient:
                _stuck.add(database)
            raise
        _stuck.discard(database)

    def _wait(self, database: str, timeout: float) -> None:
        until = time.monotonic() + timeout
        if not self.lock.acquire(timeout=timeout):
            raise OperationalError("database is locked: another thread is writing") from _busy()
        try:
            self.file = _open(f"{database}-gate")
            self._take_file(until)
        except BaseException:
            self.lock.release()
            raise

    def _take_file(self, until: float) -> None:
        while True:
            try:
                return fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(self.file)
                    raise OperationalError("database is locked: another process is writing") from _busy()
                time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        os.close(self.file)  # which ends the lock
        self.lock.release()


def _busy() -> sqlite3.OperationalError:
    """Return what SQLite itself would have said."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationalError(f"cannot open {path}: {error.strerror}") from error
