"""System checks: what is wrong with the set-up, each with an id and a way out."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import connections

from homelab.mounts import mount_of

LITTLE_BYTES = 100 * 2**20  # a few months of a small fleet

Found = list[checks.CheckMessage]


@checks.register(checks.Tags.security)
def secret_key_is_private(app_configs: Any, **kwargs: Any) -> Found:
    path = settings.DATA_DIR / "secret-key"
    if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [
            checks.Warning(
                "Others on this machine can read the hub's secret key.",
                hint=f"chmod 600 {os.path.relpath(path)}",
                id="homelab.W001",
            )
        ]
    return []


# These look at the machine, where a database is named: `serve` and `check --database default` do, and `migrate`.


@checks.register(checks.Tags.database)
def sqlite_loses_no_rows(databases: Sequence[str] | None = None, **kwargs: Any) -> Found:
    if not _files(databases) or not loses_rows(sqlite3.sqlite_version_info):
        return []
    return [
        checks.Info(
            f"SQLite {sqlite3.sqlite_version} can lose committed rows when a commit meets a checkpoint.",
            hint="Homelab keeps the two apart, so nothing needs to be done. Write to the database with no other program"
            " while the hub runs, or update SQLite to 3.51.3.",
            id="homelab.I001",
        )
    ]


@checks.register(checks.Tags.database)
def database_is_on_a_local_disk(databases: Sequence[str] | None = None, **kwargs: Any) -> Found:
    mounts = [mount for mount in map(mount_of, _files(databases)) if mount is not None and mount.is_network]
    return [
        checks.Error(
            f"The database would be on a network file system, {mount.kind} at {mount.point}, which damages SQLite's.",
            hint="Set HOMELAB_DATA_DIR to a folder on a disk of this machine, or DATABASE_URL to a PostgreSQL.",
            id="homelab.E001",
        )
        for mount in mounts
    ]


@checks.register(checks.Tags.database)
def disk_has_room(databases: Sequence[str] | None = None, **kwargs: Any) -> Found:
    free = [shutil.disk_usage(path.parent).free for path in _files(databases)]
    return [
        checks.Warning(
            f"Only {each // 2**20} MiB are free on the disk of the database.",
            hint="Free some, or keep readings for a shorter time: docs/settings.md, HOMELAB_RETENTION_READINGS_DAYS.",
            id="homelab.W002",
        )
        for each in free
        if each < LITTLE_BYTES
    ]


def loses_rows(version: tuple[int, ...]) -> bool:
    """Tell whether this SQLite has the fault of 3.7.0, that was mended in 3.51.3, 3.50.7 and 3.44.6."""
    mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return version >= (3, 7) and not mended


def _files(databases: Sequence[str] | None) -> list[Path]:
    """Return those of the databases that are files, SQLite's."""
    named = [connections[alias] for alias in databases or ()]
    return [Path(str(each.settings_dict["NAME"])) for each in named if each.vendor == "sqlite"]
