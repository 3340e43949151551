"""The database as one file, written while the hub runs, and back again: SQLite's own copy, or PostgreSQL's pg_dump.

A file is whole under its name, or not there: it is written beside it, checked, and put in its place at the end.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from tqdm import tqdm

from homelab.postgresql import dump
from homelab.postgresql.dump import DumpError
from homelab.sqlite3.gate import Turn

STEP_PAGES = 1024
TURN_SECONDS = 20.0  # for whoever is writing
SERVING = "serving-lock"
UPGRADES_KEPT = 3
GONE_WITHIN_SECONDS = 3.0  # the session of a process that was killed
OURS = ("homelab", "servers", "metrics")
FAILURES = (OSError, sqlite3.Error, DumpError)


class BackupError(Exception):
    """It was not done. The message says why, and what to do."""


def backup(path: Path, *, overwrite: bool, out: TextIO | None) -> None:
    """Write the database as it is now to `path`, while others go on writing. Progress goes to `out`.

    Raises BackupError.
    """
    if path.exists() and not overwrite:
        raise BackupError(f"{path} exists. Name another file, or say --overwrite.")
    try:
        with _drafted(path) as draft:
            if connection.vendor == "sqlite":
                _copy(_database(), draft, "Backing up", out)
            else:
                dump.dump(draft, out)
            _check(draft)
    except FAILURES as error:
        raise BackupError(f"{path} was not written: {error}.") from error


def restore(path: Path, *, overwrite: bool, out: TextIO) -> None:
    """Put a backup in the place of the database, and migrate it. Nothing is changed when it is refused.

    Raises BackupError where a hub runs, where there is data already, or where the file is not a backup of this version
    of the hub or an earlier one.
    """
    try:
        _check(path)
    except FAILURES as error:
        raise BackupError(f"{path} is no backup of a hub on this database: {error}.") from error
    if not overwrite and _is_there():
        raise BackupError(f"{connection.settings_dict['NAME']} exists. Say --overwrite to lose what is in it.")
    with no_hub(connection):
        connection.close()
        try:
            if connection.vendor == "sqlite":
                _replace(_database(), path, out)
            else:
                dump.load(path, out)
        except FAILURES as error:
            raise BackupError(f"{path} was not restored: {error}.") from error
    call_command("migrate", verbosity=0, interactive=False)


def before_upgrade(out: TextIO | None) -> Path | None:
    """Back an SQLite database up that is about to be migrated, in the data folder. Return where, or None.

    It is named by the first migration that it has not been through, so that starting again and again makes one. The
    newest few are kept. Raises BackupError.
    """
    if connection.vendor != "sqlite" or not _database().exists():
        return None
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not plan or not executor.loader.applied_migrations:
        return None
    folder = settings.DATA_DIR / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"before-{plan[0][0]}.sqlite3"
    backup(path, overwrite=True, out=out)
    kept = sorted(folder.glob("before-*.sqlite3"), key=lambda each: each.stat().st_mtime, reverse=True)
    for old in kept[UPGRADES_KEPT:]:
        old.unlink()
    return path


def suffix() -> str:
    """Return how the names of this engine's backups end."""
    return ".sqlite3" if connection.vendor == "sqlite" else ".dump"


def serve_from_here() -> None:
    """Be a hub of this data folder until the process ends. Raises BackupError while its database is being replaced."""
    _lock(fcntl.LOCK_SH, f"The database in {settings.DATA_DIR} is being replaced. Start when that is done.")


@contextmanager
def no_hub(*databases: BaseDatabaseWrapper) -> Iterator[None]:
    """Keep every hub of this data folder from starting while the block runs.

    Raises BackupError where one serves, or is at work on one of the databases.
    """
    descriptor = _lock(fcntl.LOCK_EX, f"A hub is serving from {settings.DATA_DIR}. Stop it first.")
    try:
        for database in databases:
            if database.vendor == "postgresql":
                _check_that_nobody_is_there(database)
        yield
    finally:
        os.close(descriptor)


def _check_that_nobody_is_there(database: BaseDatabaseWrapper) -> None:
    database.settings_dict["OPTIONS"]["pool"] = False  # a pool would be somebody
    until = time.monotonic() + GONE_WITHIN_SECONDS
    while _others(database):
        if time.monotonic() > until:
            raise BackupError(f"A hub is at work on {database.settings_dict['NAME']}. Stop it first.")
        time.sleep(0.1)


def _others(database: BaseDatabaseWrapper) -> int:
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name = 'homelab'"
        )
        return int(cursor.fetchone()[0])


def _lock(how: int, refusal: str) -> int:
    """Take the lock of the data folder, which ends with its process, however that ends."""
    descriptor = os.open(settings.DATA_DIR / SERVING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BackupError(refusal) from None
    return descriptor


def _database() -> Path:
    return Path(connection.settings_dict["NAME"])


def _is_there() -> bool:
    if connection.vendor == "sqlite":
        return _database().exists()
    return bool(connection.introspection.table_names())


@contextmanager
def _drafted(path: Path) -> Iterator[Path]:
    """Give a file to be written, for its owner only; put it in the place of `path` once the block has ended well."""
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)  # of a run that was killed
    draft.touch(mode=0o600)
    try:
        yield draft
        _sync(draft)
        os.replace(draft, path)
        _sync(path.parent)
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _copy(source: Path, draft: Path, what: str, out: TextIO | None) -> None:
    with (
        closing(_read(source)) as reader,
        closing(sqlite3.connect(draft, isolation_level=None)) as writer,
        tqdm(desc=what, file=out, unit="page", disable=out is None) as bar,
    ):

        def step(status: int, remaining: int, total: int) -> None:
            bar.total = total
            bar.update(total - remaining - bar.n)

        # Whoever writes meanwhile would make SQLite begin the copy anew; a reader in a transaction sees no one write.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reader.backup(writer, pages=STEP_PAGES, progress=step, sleep=0)
        writer.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it


def _check(path: Path) -> None:
    """Read the whole file. Raise BackupError where it is not a sound database of a hub that this code can read."""
    seen = _migrations(path) if connection.vendor == "sqlite" else dump.migrations(path)
    if not any(app in ("servers", "metrics") for app, _ in seen):
        raise BackupError(f"{path} is no backup of a hub: it has none of its tables.")
    loader = MigrationLoader(None)
    unknown = {key for key in seen - set(loader.disk_migrations or ()) if key[0] in OURS}
    if unknown:
        raise BackupError(f"{path} is of a newer hub, which has {sorted(unknown)[0][1]}. Update this one first.")


def _migrations(path: Path) -> set[tuple[str, str]]:
    with closing(_read(path)) as database:
        (word,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if word != "ok":
            raise BackupError(f"{path} is damaged: {word}.")
        return set(database.execute("SELECT app, name FROM django_migrations"))


def _replace(database: Path, path: Path, out: TextIO) -> None:
    with _drafted(database) as draft:
        _copy(path, draft, "Restoring", out)
        _check(draft)
        _fold(database)


def _fold(database: Path) -> None:
    """Make what is about to be replaced one file, so that nothing of it is taken for the log of the new one."""
    turn = Turn(str(database), TURN_SECONDS)
    try:
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(database)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
    finally:
        turn.leave()


def _read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, isolation_level=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
