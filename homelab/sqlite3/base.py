"""One writer at a time, of all threads and processes that open the same file.

SQLite lets a writer that finds the database locked sleep and try again, ever longer, and whoever comes at the right
moment gets in first. Here whoever writes first takes its turn, and the database's own lock is free by then.

A turn also covers every checkpoint: those that follow a commit, those asked for, and the last connection's when it is
closed. In SQLite 3.7.0 to 3.51.2 a commit that starts the log anew while a checkpoint runs can lose committed rows;
here the two never meet.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

from django.db import OperationalError
from django.db.backends.sqlite3 import base
from django.db.backends.sqlite3.schema import DatabaseSchemaEditor
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from homelab.migrating import RecordedAtOnce
from homelab.sqlite3 import ballast, damage
from homelab.sqlite3.gate import Turn

CLOSE_SECONDS = 1.0
ANY_PAGES = 2**32 - 2
SHORT_LOG_BYTES = 2**20
SHORT_LOG_SECONDS = 0.5  # that readers of an older state may hold up whoever shortens the log
# All else may write, or move the log into the database. A pragma that is wrongly taken for a write only waits.
READS = re.compile(
    r"\s*(SELECT|VALUES|EXPLAIN|PRAGMA\s+(?![\w.]*(checkpoint|journal|vacuum|optimize|version|application_id)))\b",
    re.IGNORECASE,
)


_opened: "WeakSet[DatabaseWrapper]" = WeakSet()


def close_all() -> None:
    """Close the connections of all threads, which have ended: they would be closed without a turn."""
    for wrapper in list(_opened):
        if wrapper.connection is not None:
            wrapper._close()


class SchemaEditor(RecordedAtOnce, DatabaseSchemaEditor):
    def _remake_table(self, *of: Any, **more: Any) -> None:
        """Make the table anew under another name; its indexes follow, under their own, once it has its name."""
        self.may_put_off = True
        try:
            super()._remake_table(*of, **more)  # type: ignore[misc] # the stubs leave it out
        finally:
            self.may_put_off = False


class DatabaseWrapper(base.DatabaseWrapper):
    SchemaEditorClass = SchemaEditor
    _turn: Turn | None = None
    _impatient_seconds: float | None = None
    _most_pages = ANY_PAGES

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        return ErrorWrapper(self)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Open the database. Whoever opens one that is still empty writes its first page."""
        _opened.add(self)
        self._most_pages = ANY_PAGES
        path = Path(conn_params["database"])
        if self.is_in_memory_db() or (path.exists() and path.stat().st_size):
            return super().get_new_connection(conn_params)
        self._take_turn(self._timeout)
        try:
            with suppress(OSError):  # which SQLite then says in its own words
                path.touch(mode=0o600)  # for its owner only, whatever the folder lets others see; its log follows it
            return super().get_new_connection(conn_params)
        finally:
            self._leave()

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = self.connection.cursor(factory=Cursor)
        cursor.wrapper = self
        return cursor

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the turn while the block runs, and on until the transaction that it opens is over."""
        self._take_turn(self._timeout)
        try:
            self._spare_room()
            yield
        finally:
            if not self.connection.in_transaction:
                self._leave()

    @contextmanager
    def waiting_at_most(self, seconds: float) -> Iterator[None]:
        """In the block, writing raises OperationalError where others write for longer than this."""
        self.ensure_connection()
        self._impatient_seconds = seconds
        try:
            with self._waiting(seconds):
                yield
        finally:
            self._impatient_seconds = None

    @contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        """Have SQLite itself wait no longer than this for others."""
        before = self.connection.execute("PRAGMA busy_timeout").fetchone()[0]
        self.connection.execute(f"PRAGMA busy_timeout={round(1000 * seconds)}").fetchall()
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout={before}").fetchall()

    def _commit(self) -> None:
        try:
            super()._commit()  # type: ignore[misc]
        finally:
            if not self.connection.in_transaction:
                self._leave()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._leave()

    def _close(self) -> None:
        with suppress(OperationalError):  # without it, the last connection has SQLite's own lock: nobody else is there
            self._take_turn(CLOSE_SECONDS)
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._leave()

    @property
    def _timeout(self) -> float:
        if self._impatient_seconds is not None:
            return self._impatient_seconds
        return float(self.settings_dict["OPTIONS"].get("timeout", 5))

    def _take_turn(self, timeout: float) -> None:
        if self._turn is None and not self.is_in_memory_db():
            is_patient = self._impatient_seconds is None
            self._turn = Turn(str(self.settings_dict["NAME"]), timeout, is_patient=is_patient)

    def _spare_room(self) -> None:
        """Before a transaction, while the ballast is given up: keep the log short, and the database as large as it is.

        Where there is room again, the ballast is made again.
        """
        if self.connection.in_transaction:
            return
        database = str(self.settings_dict["NAME"])
        is_full = ballast.is_given_up(database) and not ballast.reserve(database)
        if is_full:
            self._shorten_log(Path(f"{database}-wal"))
        if is_full or self._most_pages != ANY_PAGES:
            # A number that is smaller than the pages it has means: no more than these.
            self._most_pages = ANY_PAGES if ballast.may_grow.get() or not is_full else 1
            self.connection.execute(f"PRAGMA max_page_count={self._most_pages}").fetchall()

    def _shorten_log(self, log: Path) -> None:
        if not log.exists() or log.stat().st_size < SHORT_LOG_BYTES:
            return
        with self._waiting(SHORT_LOG_SECONDS), suppress(sqlite3.OperationalError):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _leave(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.leave()


class ErrorWrapper(DatabaseErrorWrapper):
    """Sees whatever SQLite raises, and has what concerns more than one statement remembered."""

    wrapper: DatabaseWrapper

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        database = str(self.wrapper.settings_dict["NAME"])
        if code == sqlite3.SQLITE_FULL and not self.wrapper.is_in_memory_db():
            ballast.give_up(database)
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            damage.note(database, str(error))
        super().__exit__(kind, error, traceback)


class Cursor(base.SQLiteCursorWrapper):
    """Takes the turn for what writes. A statement that is a transaction of its own is brought to its end in there."""

    wrapper: DatabaseWrapper
    _rows: Iterator[Any] | None = None  # what such a statement returned

    def execute(self, query: str, params: Any = None) -> Any:
        self._rows = None
        if READS.match(query):
            return super().execute(query, params)
        with self.wrapper.writing():
            super().execute(query, params)
            self._finish()
        return self

    def executemany(self, query: str, param_list: Any) -> Any:
        self._rows = None
        with self.wrapper.writing():
            return super().executemany(query, param_list)

    def executescript(self, script: Any) -> Any:
        self._rows = None
        with self.wrapper.writing():
            return super().executescript(script)

    def _finish(self) -> None:
        if not self.wrapper.connection.in_transaction:
            self._rows = iter(super().fetchall())

    def fetchone(self) -> Any:
        return super().fetchone() if self._rows is None else next(self._rows, None)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return super().fetchmany(size) if self._rows is None else list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return super().fetchall() if self._rows is None else list(self._rows)

    def __next__(self) -> Any:
        return super().__next__() if self._rows is None else next(self._rows)
