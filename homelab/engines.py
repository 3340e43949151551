"""What a connection to a database is set to, by its engine.

A row is acknowledged once it is on the disk (synchronous=FULL), and a writer takes its lock when its transaction
begins, so that it never fails halfway (IMMEDIATE). SQLite maps as much of its file as it can, just below 2 GiB.
"""

from typing import Any

from environ import Env

from homelab.postgresql.options import options

SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
    " PRAGMA cache_size=-16000; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=2147418112;",
}


def database(url: str, *, pool_size: int) -> dict[str, Any]:
    """Return Django's settings for the database at `url`."""
    known = dict(Env.db_url_config(url))
    if known["ENGINE"] == "django.db.backends.sqlite3":  # the same, with writers that wait in line
        known |= {"ENGINE": "homelab.sqlite3", "CONN_MAX_AGE": None, "OPTIONS": SQLITE}
    elif known["ENGINE"] == "django.db.backends.postgresql":  # the same, with a pool of connections that are alive
        known |= {"ENGINE": "homelab.postgresql", "OPTIONS": options(known.get("OPTIONS", {}), pool_size=pool_size)}
    return known
