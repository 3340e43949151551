"""Which table lies where on Citus: on every node as a whole, or in shards by its server or its interface.

What is written with each heartbeat is distributed, by the column that it is always found by: so it needs one shard.
What these refer to is small and hardly ever written, and every node has it. Django's own tables, which nothing of ours
refers to, stay on the coordinator, where the hub connects.
"""

from typing import Any, TextIO

from django.db import connection, models, transaction
from django.db.models import Max
from tqdm import tqdm

from metrics.models import Chunk, Event, Heartbeat, Interface
from servers.models import ApiKey, Boot, Server, Snapshot

REFERENCE = "reference"
TABLES: dict[type[models.Model], str] = {  # a table comes after those it refers to
    Server: REFERENCE,
    Boot: REFERENCE,
    ApiKey: REFERENCE,
    Interface: REFERENCE,
    Snapshot: "server_id",
    Heartbeat: "server_id",
    Event: "server_id",
    Chunk: "interface_id",
}


class NotDistributable(Exception):
    """Why the tables cannot be distributed, and what to do."""


def distribute(out: TextIO) -> list[str]:
    """Put each table where it belongs, with its rows. Return the tables that were moved: none when all were there.

    Each is one transaction; what one run has done, the next leaves alone. Progress goes to `out`. Raises
    NotDistributable.
    """
    _check_for_citus()
    missing = [model for model, place in TABLES.items() if not _is_placed(model, place, _placed())]
    for model in tqdm(missing, desc="Distributing", unit="table", file=out, disable=not missing):
        with transaction.atomic():
            _ask("SET LOCAL statement_timeout = 0")
            _ask("SET LOCAL lock_timeout = '60s'")
            _ask("SET LOCAL client_min_messages = 'warning'")
            _place(model, TABLES[model])
            _number_on()
    for model in TABLES:  # what an earlier run has left behind, too, if it was ended halfway
        _ask("SELECT truncate_local_data_after_distributing_table(%s)", model._meta.db_table)
    return [model._meta.db_table for model in missing]


def _check_for_citus() -> None:
    if connection.vendor != "postgresql":
        raise NotDistributable(
            "The hub runs on SQLite, which is one file on one machine. Citus is PostgreSQL: set DATABASE_URL to the"
            " coordinator's database first; docs/scaling.md says how."
        )
    if not _ask("SELECT 1 FROM pg_extension WHERE extname = 'citus'"):
        raise NotDistributable(
            "This PostgreSQL has no Citus, and does not need it to run the hub. To spread the hub over several"
            " machines, install Citus on each and run CREATE EXTENSION citus in this database; docs/scaling.md says"
            " how."
        )
    if not _ask("SELECT 1 FROM citus_get_active_worker_nodes()"):
        raise NotDistributable(
            "Citus knows no worker yet: on the coordinator, run SELECT citus_add_node('HOST', 5432) for each."
        )
    tables = set(connection.introspection.table_names())
    if not {model._meta.db_table for model in TABLES} <= tables:
        raise NotDistributable("The tables are not there yet: run manage.py migrate first.")


def _placed() -> dict[str, str]:
    """Return, of each table that Citus has placed, the column it is distributed by, or `reference`."""
    rows = _ask(
        "SELECT table_name::text, citus_table_type, distribution_column FROM citus_tables"
        " WHERE citus_table_type IN ('reference', 'distributed')"
    )
    return {name: REFERENCE if kind == REFERENCE else column for name, kind, column in rows}


def _is_placed(model: type[models.Model], place: str, placed: dict[str, str]) -> bool:
    table = model._meta.db_table
    if table in placed and placed[table] != place:
        raise NotDistributable(
            f"{table} is placed already, and otherwise than here: {placed[table]}, not {place}."
            f" Run SELECT undistribute_table('{table}', cascade_via_foreign_keys => true), then this again."
        )
    return table in placed


def _place(model: type[models.Model], place: str) -> None:
    if place == REFERENCE:
        _ask("SELECT create_reference_table(%s)", model._meta.db_table)
        return
    beside = Snapshot._meta.db_table if place == "server_id" and model is not Snapshot else "none"
    _ask("SELECT create_distributed_table(%s, %s, colocate_with => %s)", model._meta.db_table, place, beside)


def _number_on() -> None:
    """Let new rows be numbered after those that are there.

    Citus makes the sequences anew, of a table and of all that refer to it, and begins them at 1.
    """
    for model in TABLES:
        if model._meta.auto_field is not None:
            newest = model._default_manager.aggregate(newest=Max("pk"))["newest"]
            # Not in the same query: that might run on a worker, and count up the sequence there.
            sequence = "pg_get_serial_sequence(%s, %s)"
            names = (model._meta.db_table, model._meta.auto_field.column)
            _ask(f"SELECT setval({sequence}, %s, %s)", *names, newest or 1, newest is not None)


def _ask(sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []
