"""A file that takes up room on the database's disk, to be given up when the disk is full.

To make room needs room: what is deleted goes through SQLite's log first. So once the ballast is gone, only what makes
room may let the database grow; all else has the pages that are free in it, or is refused, until there is room for
ballast again. The log is kept short meanwhile.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from django.db import connection

logger = logging.getLogger(__name__)

BYTES = 8 * 2**20  # twice the log, before SQLite moves it into the database
SHARE = 8  # of a small disk, it is one part in so many
FEW_PAGES = 16  # that a heartbeat may need

may_grow = ContextVar("may_grow", default=False)
_given_up: set[str] = set()


def keep() -> None:
    """Have ballast beside the hub's database. On PostgreSQL, nothing."""
    if connection.vendor == "sqlite":
        reserve(str(connection.settings_dict["NAME"]))


def reserve(database: str) -> bool:
    """Make ballast where there is none, and as much room is left as it takes. Tell whether there is ballast."""
    path = _path(database)
    disk = shutil.disk_usage(path.parent)
    size = min(BYTES, disk.total // SHARE)
    if not path.exists() and not (disk.free > 2 * size and _fill(path, size)):
        _given_up.add(database)
        return False
    if database in _given_up:
        _given_up.discard(database)
        logger.info("There is room on the database's disk again.")
    return True


def give_up(database: str) -> None:
    """The disk is full: let what makes room have that of the ballast."""
    _path(database).unlink(missing_ok=True)
    if database not in _given_up:
        _given_up.add(database)
        logger.warning("The database's disk is full. Until there is room, only pages that are free are written.")


def is_given_up(database: str) -> bool:
    return database in _given_up


def is_full() -> bool:
    """Tell whether the ballast is given up, and hardly a page is free in the hub's database."""
    if connection.vendor != "sqlite" or not is_given_up(str(connection.settings_dict["NAME"])):
        return False
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA freelist_count")
        return cursor.fetchone()[0] < FEW_PAGES


@contextmanager
def for_making_room() -> Iterator[None]:
    """Let what this thread writes in the block have the room of the ballast."""
    token = may_grow.set(True)
    try:
        yield
    finally:
        may_grow.reset(token)


def _path(database: str) -> Path:
    return Path(f"{database}-ballast")


def _fill(path: Path, size: int) -> bool:
    """Write it beside, and give it its name once all of it is there."""
    draft = path.with_name(f"{path.name}.part")
    try:
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            os.posix_fallocate(file.fileno(), 0, size)
        draft.rename(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        return False
    return True
