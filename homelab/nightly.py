"""A backup each night in a folder of its own, of which the newest few are kept."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings

from homelab.backup import BackupError, backup, suffix

HOUR = 3  # of the night, in the hub's time zone
AGAIN_AFTER = timedelta(minutes=10)  # one that failed
TRIED = "nightly-lock"  # held while a backup is made; its time is that of the last try
NAME = re.compile(r"homelab-\d{4}-\d\d-\d\d\.(sqlite3|dump)")

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    path: Path
    made_at: datetime
    size: int  # bytes


def nightly(*, now: datetime) -> Path | None:
    """Make this night's backup where it is due, and remove those that are too many then. Return it, or None.

    It is due from three o'clock on, in the hub's time zone, until it is there. One that fails is logged, removes
    nothing, and is tried again ten minutes later.
    """
    folder = settings.BACKUP_DIR
    night = now.astimezone(ZoneInfo(settings.TIME_ZONE))
    if folder is None or night.hour < HOUR:
        return None
    path = folder / f"homelab-{night:%Y-%m-%d}{suffix()}"
    try:
        if path.exists():
            return None
        with _one_at_a_time(now) as may:
            return _make(path) if may else None
    except (BackupError, OSError) as error:
        logger.error("The nightly backup failed, and will be tried again: %s", error)
        return None


def kept() -> list[Kept]:
    """Return the backups of the nights, the newest first."""
    found = []
    with suppress(OSError):  # the folder is not there, or not now
        for path in settings.BACKUP_DIR.iterdir() if settings.BACKUP_DIR else ():
            if NAME.fullmatch(path.name):
                known = path.stat()
                found.append(Kept(path, datetime.fromtimestamp(known.st_mtime, UTC), known.st_size))
    return sorted(found, key=lambda each: each.path.name, reverse=True)


def _make(path: Path) -> Path:
    if not path.parent.is_dir():  # and is not made: it may be where a disk is not mounted now
        raise BackupError(f"the folder {path.parent} of HOMELAB_BACKUP_DIR is not there.")
    backup(path, overwrite=False, out=None)
    for old in kept()[max(settings.BACKUP_KEEP, 1) :]:
        old.path.unlink(missing_ok=True)
    for part in path.parent.glob("homelab-*.part*"):  # of a night in which the hub was killed
        part.unlink(missing_ok=True)
    return path


@contextmanager
def _one_at_a_time(now: datetime) -> Iterator[bool]:
    """Tell whether this process is to make the backup: no other makes it, and none has tried just now."""
    path = settings.DATA_DIR / TRIED
    if not path.exists():
        path.touch(mode=0o600)
        os.utime(path, (0, 0))
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        is_over = abs(now.timestamp() - path.stat().st_mtime) >= AGAIN_AFTER.total_seconds()
        if is_over:
            os.utime(path, (now.timestamp(), now.timestamp()))
        yield is_over
