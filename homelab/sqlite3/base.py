"""One write transaction at a time, of all threads and processes that open the same file.

SQLite lets a writer that finds the database locked sleep and try again, ever longer, and whoever comes at the right
moment gets in first. Here a transaction first takes its turn: a lock of the process, then a lock of a file beside the
database for the other processes. The database's own lock is free by then.
"""

import fcntl
import os
import threading
import time
from collections import defaultdict

from django.db import OperationalError
from django.db.backends.sqlite3 import base

_POLL_SECONDS = 0.002
_process_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)


class DatabaseWrapper(base.DatabaseWrapper):
    _gate: "_Gate | None" = None

    def _start_transaction_under_autocommit(self) -> None:
        name = str(self.settings_dict["NAME"])
        if not self.is_in_memory_db():
            self._gate = _Gate(name, float(self.settings_dict["OPTIONS"].get("timeout", 5)))
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._leave()
            raise

    def _commit(self) -> None:
        try:
            super()._commit()  # type: ignore[misc]
        finally:
            self._leave()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._leave()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._leave()

    def _leave(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave()


class _Gate:
    """A turn to write. Raises OperationalError when it does not come in time."""

    def __init__(self, database: str, timeout: float) -> None:
        self.lock = _process_locks[database]
        until = time.monotonic() + timeout
        if not self.lock.acquire(timeout=timeout):
            raise OperationalError("database is locked: another thread is writing")
        try:
            self.file = os.open(f"{database}-gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                    raise OperationalError("database is locked: another process is writing") from None
                time.sleep(_POLL_SECONDS)

    def leave(self) -> None:
        os.close(self.file)  # which ends the lock
        self.lock.release()
