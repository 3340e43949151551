"""Sessions that neither wait nor run for ever, and how many of them."""

from typing import Any

# What a connection is made with; a parameter in DATABASE_URL wins. Where the other end is gone without a word, TCP
# finds out in half a minute.
CONNECTION = {
    "application_name": "homelab",
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

# What a session is set to. An ack is on the disk, whatever the server's default. On Citus, reading and writing more
# than one shard goes over one connection a node: otherwise a reference table could not be written after that in the
# same transaction. Everywhere else nobody reads that name. Pages are on flash or in memory, where the next one costs
# hardly less than any other: as if on a disk, all chunks would be looked at to find a day's.
SESSION = {
    "synchronous_commit": "on",
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "citus.multi_shard_modify_mode": "sequential",
    "random_page_cost": "1.1",
}

# A thread waits this long for a connection: for a place in the pool, or for a database that restarts. Who then still
# has none is told to come again; the next one to ask makes the pool try again at once.
POOL = {"min_size": 1, "timeout": 5.0, "reconnect_timeout": 3.0, "max_lifetime": 3600.0}


def options(asked: dict[str, Any], *, pool_size: int) -> dict[str, Any]:
    """Return Django's OPTIONS: ours, with what DATABASE_URL asks for."""
    session = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    return {
        "prepare_threshold": 0,  # of the cursors that prepare at all: those of servers/prepared.py
        **CONNECTION,
        **asked,
        "options": f"{session} {asked.get('options', '')}".strip(),
        "pool": {**POOL, "max_size": pool_size},
    }
