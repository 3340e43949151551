"""What Citus asks of tables and statements, held on plain PostgreSQL.

Each distributed table has a stand-in that is partitioned by hash of the same column: where PostgreSQL needs one
partition, Citus needs one shard, and what it cannot find by that column it looks for in all of them.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from homelab.distribution import REFERENCE, TABLES
from metrics import history, seal
from metrics.export import export_hours, export_readings
from metrics.ingest import ingest, ingest_batch
from metrics.models import Chunk, Event, Heartbeat, Interface
from metrics.periods import parse_step
from metrics.serializers import parse_heartbeat
from servers.models import Server

on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="Citus is PostgreSQL's")
pytestmark = pytest.mark.django_db

COLUMNS = {model._meta.db_table: place for model, place in TABLES.items() if place != REFERENCE}
PARTITIONS = 16
NOW = datetime(2026, 3, 20, 12, 30, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")


# The command


def test_without_citus_it_refuses_and_says_what_to_do():
    with pytest.raises(CommandError, match=r"docs/scaling\.md"):
        call_command("distribute")


CITUS = """
CREATE TEMPORARY TABLE pg_extension AS SELECT 'citus' AS extname;
CREATE TEMPORARY TABLE workers (name text);
CREATE TEMPORARY TABLE citus_tables (table_name regclass, citus_table_type text, distribution_column text, beside text);
SET LOCAL search_path = pg_temp, pg_catalog, public;
CREATE FUNCTION public.citus_get_active_worker_nodes() RETURNS SETOF text LANGUAGE sql AS 'SELECT name FROM workers';
CREATE FUNCTION public.create_reference_table(regclass) RETURNS void LANGUAGE sql
    AS $$
        SELECT setval(pg_get_serial_sequence('metrics_interface', 'id'), 1, false);
        INSERT INTO citus_tables VALUES ($1, 'reference', '<none>')
    $$;
CREATE FUNCTION public.create_distributed_table(regclass, text, colocate_with text) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO citus_tables VALUES ($1, 'distributed', $2, $3) $$;
CREATE FUNCTION public.truncate_local_data_after_distributing_table(regclass) RETURNS void LANGUAGE sql AS '';
"""


@pytest.fixture
def citus(db: None) -> Callable[[str], list[Any]]:
    """A stand-in that writes down where it is told to place each table, and numbers anew; returns how to ask it."""

    def ask(sql: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    ask(CITUS)
    return ask


@on_postgresql
def test_it_refuses_to_begin_without_a_worker(citus):
    with pytest.raises(CommandError, match="citus_add_node"):
        call_command("distribute")


@on_postgresql
def test_it_places_every_table_and_a_second_run_none(citus, capsys):
    citus("INSERT INTO workers VALUES ('one')")
    call_command("distribute")
    assert citus("SELECT table_name::text, distribution_column, beside FROM citus_tables") == [
        ("servers_server", "<none>", None),
        ("servers_boot", "<none>", None),
        ("servers_apikey", "<none>", None),
        ("metrics_interface", "<none>", None),
        ("servers_snapshot", "server_id", "none"),
        ("metrics_heartbeat", "server_id", "servers_snapshot"),
        ("metrics_event", "server_id", "servers_snapshot"),
        ("metrics_chunk", "interface_id", "none"),
    ]
    call_command("distribute")
    assert citus("SELECT count(*) FROM citus_tables") == [(8,)]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Distributed servers_server, ")
    assert second == "Every table is where it belongs already."


@on_postgresql
def test_a_run_that_was_ended_halfway_is_finished_by_the_next(citus, capsys):
    citus("INSERT INTO workers VALUES ('one')")
    citus(
        "INSERT INTO citus_tables VALUES ('servers_server', 'reference', '<none>'), ('servers_boot', 'local', '<none>')"
    )
    call_command("distribute")
    assert "servers_boot" in capsys.readouterr().out
    assert len(citus("SELECT DISTINCT table_name FROM citus_tables WHERE citus_table_type <> 'local'")) == 8


@on_postgresql
def test_what_comes_after_is_numbered_after_what_was_there(citus, server):
    before = Interface.objects.create(server=server, name="eth0")
    citus("INSERT INTO workers VALUES ('one')")
    call_command("distribute")
    assert Interface.objects.create(server=server, name="eth1").pk == before.pk + 1


@on_postgresql
def test_a_table_that_lies_elsewhere_is_left_and_told_of(citus):
    citus("INSERT INTO workers VALUES ('one')")
    citus("INSERT INTO citus_tables VALUES ('metrics_chunk', 'distributed', 'start')")
    with pytest.raises(CommandError, match="undistribute_table"):
        call_command("distribute")
    assert citus("SELECT count(*) FROM citus_tables") == [(1,)]


def test_every_table_of_ours_has_its_place():
    ours = {model for room in ("servers", "metrics") for model in apps.get_app_config(room).get_models()}
    assert set(TABLES) == ours


# The tables


def asked(sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


@on_postgresql
def test_every_unique_key_of_a_distributed_table_has_its_column():
    keys = asked(
        "SELECT c.relname, i.indexrelid::regclass::text, array_agg(a.attname::text) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey::int2[])"
        " WHERE i.indisunique AND c.relname = ANY(%s) GROUP BY 1, 2",
        list(COLUMNS),
    )
    assert {table for table, _, _ in keys} == set(COLUMNS)
    assert [key for table, key, columns in keys if COLUMNS[table] not in columns] == []


@on_postgresql
def test_a_foreign_key_leads_to_a_reference_table_from_ours_only():
    places = {model._meta.db_table: place for model, place in TABLES.items()}
    keys = asked(
        "SELECT conname, conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
    )
    into_ours = [(name, table) for name, table, target in keys if target in places]
    assert len(into_ours) >= len(TABLES) - 1
    assert [name for name, table in into_ours if table not in places] == []
    assert [name for name, table, target in keys if table in places and places.get(target) != REFERENCE] == []


@on_postgresql
def test_a_table_is_placed_after_those_it_refers_to():
    order = [model._meta.db_table for model in TABLES]
    keys = asked("SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'")
    assert [
        (table, target) for table, target in keys if table in order and order.index(target) > order.index(table)
    ] == []


@on_postgresql
def test_numbers_that_the_database_gives_are_of_64_bits():
    """Citus takes no others."""
    tables = [model._meta.db_table for model in TABLES]
    identity = (
        "SELECT table_name, data_type FROM information_schema.columns"
        " WHERE is_identity = 'YES' AND table_name = ANY(%s)"
    )
    assert set(asked(identity, tables)) == {("servers_boot", "bigint"), ("metrics_interface", "bigint")}


# The statements


@pytest.fixture
def stand_ins(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA spread")
        for table, column in COLUMNS.items():
            cursor.execute(
                f"CREATE TABLE spread.{table} (LIKE {table} INCLUDING INDEXES INCLUDING DEFAULTS)"
                f" PARTITION BY HASH ({column})"
            )
            for number in range(PARTITIONS):
                cursor.execute(
                    f"CREATE TABLE spread.{table}_part_{number} PARTITION OF spread.{table}"
                    f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
                )


@contextmanager
def captured() -> Iterator[list[tuple[str, dict[str, int]]]]:
    """Give the statements on distributed tables, with how many partitions of which they need, once they are over."""
    found: list[tuple[str, dict[str, int]]] = []
    with CaptureQueriesContext(connection) as queries:
        yield found
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path = spread, public")
        for sql in dict.fromkeys(query["sql"] for query in queries):
            if any(table in sql for table in COLUMNS):
                found.append((sql, _needed(sql)))
        cursor.execute("SET LOCAL search_path = public")


def _needed(sql: str) -> dict[str, int]:
    with connection.cursor() as cursor:
        if sql.startswith("INSERT"):
            table = re.match(r'INSERT INTO "(\w+)"', sql)[1]
            cursor.execute("SAVEPOINT inserted")
            cursor.execute(f"WITH new AS ({sql} RETURNING tableoid) SELECT count(DISTINCT tableoid) FROM new")
            ((count,),) = cursor.fetchall()
            cursor.execute("ROLLBACK TO inserted")
            return {table: count}
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
        ((plan,),) = cursor.fetchall()
    partitions = set(
        re.findall(r'"Relation Name": "(\w+)_part_(\d+)"', plan if isinstance(plan, str) else json.dumps(plan))
    )
    tables = {table for table, _ in partitions}
    return {table: sum(of == table for of, _ in partitions) for table in tables}


def writes(statements: list[tuple[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return {sql: needed for sql, needed in statements if not sql.startswith("SELECT") or "FOR UPDATE" in sql}


def assert_one_shard_each(statements: list[tuple[str, dict[str, int]]]) -> None:
    assert statements
    assert [(sql, needed) for sql, needed in statements if any(count > 1 for count in needed.values())] == []


@pytest.fixture
def report(heartbeat, interface) -> Callable[..., Any]:
    def build(
        server_id: str = "nas", minute: int = 0, names: tuple[str, ...] = ("eth0", "eth1"), **changes: Any
    ) -> Any:
        times = {"uptime": 1000.0 + 60 * minute, "sent_uptime": 1000.0 + 60 * minute}
        of_names = [interface(name, rx_bytes=1000 * minute) for name in names]
        return parse_heartbeat(heartbeat(server_id=server_id, network_interfaces=of_names, **{**times, **changes}))

    return build


@pytest.fixture
def fleet(report) -> None:
    """Three servers that have reported for half a day, of which the first half is sealed."""
    for minute in range(0, 720, 20):
        at = NOW - timedelta(minutes=720 - minute)
        ingest_batch([report(server_id, minute) for server_id in ("nas", "pi", "router")], may_register=True, now=at)
        if minute == 360:
            seal.tick(now=at)


@on_postgresql
def test_the_stand_ins_tell_one_shard_from_many(stand_ins, fleet):
    with captured() as statements:
        list(Heartbeat.objects.filter(server="nas"))
        list(Heartbeat.objects.filter(server__in=["nas", "pi", "router"]))
        Heartbeat.objects.filter(uptime_ms=1).delete()
        Event.objects.bulk_create(
            [Event(server_id=of, number=1, at=NOW, kind="reboot") for of in ("nas", "pi", "router")]
        )
    one, three, all_of_them, inserted = (sum(needed.values()) for _, needed in statements)
    assert one == 1
    assert 1 < three <= 3
    assert all_of_them == PARTITIONS
    assert 1 < inserted <= 3


@on_postgresql
def test_a_heartbeat_needs_one_shard_whatever_it_brings(stand_ins, report):
    with captured() as statements:
        for minute, changes in enumerate(
            ({}, {}, {"names": ("eth0", "wg0")}, {"boot_id": "boot-2"}, {"hostname": "other"})
        ):
            ingest(report(minute=minute, **changes), may_register=True, now=NOW + timedelta(minutes=minute))
        ingest(report(minute=1), may_register=True, now=NOW + timedelta(minutes=5))  # late, and a duplicate
    assert {"servers_snapshot", "metrics_heartbeat", "metrics_event"} <= {
        name for _, needed in statements for name in needed
    }
    assert any("FOR UPDATE" in sql for sql, _ in statements)
    assert_one_shard_each(statements)


@on_postgresql
def test_a_late_batch_of_several_servers_needs_one_shard_a_statement(stand_ins, fleet, report):
    sent = {"sent_uptime": 1000.0 + 60 * 720}
    late = [report(server_id, minute, **sent) for server_id in ("nas", "pi", "router") for minute in range(10, 130, 10)]
    with captured() as statements:
        ingest_batch(late, may_register=True, now=NOW)
    assert "metrics_chunk" in {name for _, needed in statements for name in needed}  # looked for among the sealed
    assert_one_shard_each(statements)


@on_postgresql
def test_sealing_merging_and_pruning_write_one_shard_a_statement(stand_ins, fleet, settings):
    settings.RETENTION_HOURS_DAYS = 400
    Event.objects.bulk_create([Event(server_id=of, number=1, at=NOW, kind="reboot") for of in ("nas", "pi", "router")])
    with captured() as statements:
        for days in (0, 14, 500):
            assert any(seal.tick(now=NOW + timedelta(days=days, hours=1)).values())
    assert not Chunk.objects.exists()
    assert not Event.objects.exists()
    assert {name for needed in writes(statements).values() for name in needed} == set(COLUMNS)
    assert_one_shard_each(list(writes(statements).items()))


@on_postgresql
def test_a_question_about_one_interface_reads_one_shard_of_each_table(stand_ins, fleet):
    start = NOW - timedelta(hours=10)
    seal.tick(now=NOW - timedelta(hours=1))
    with captured() as statements:
        interfaces = history.interfaces_of("nas", "eth0")
        for step in ("5m", "1h", "1d", "raw"):
            assert history.series(interfaces, start, NOW, parse_step(step), UTC_ZONE).total("rx_bytes")
        history.fingerprint(interfaces, start, NOW)
        assert history.sparkline("nas", "24h", "eth0", now=NOW)
        assert history.totals(interfaces, UTC_ZONE, now=NOW)
        assert list(export_readings(interfaces, start, NOW))
        assert list(export_hours(interfaces, start, NOW))
        list(Event.objects.filter(server="nas")[:30])
        Server.objects.with_snapshot().get(id="nas")
    assert {name for _, needed in statements for name in needed} == set(COLUMNS)
    assert_one_shard_each(statements)


@on_postgresql
def test_no_question_asks_row_by_row_across_shards(stand_ins, admin_client, reader, fleet):
    """Citus refuses a subquery on a distributed table that refers to a row of a reference table."""
    with captured() as statements:
        seal.tick(now=NOW + timedelta(days=500))
        history.fleet_top(NOW - timedelta(days=1), NOW, now=NOW)
        servers = list(Server.objects.all())
        for by_server in (True, False):
            history.usage(
                history.fleet(servers, by_server=by_server),
                NOW - timedelta(days=1),
                NOW,
                parse_step("1d"),
                UTC_ZONE,
                by_server=by_server,
            )
        for path in ("/api/v1/servers", "/api/v1/events", "/metrics"):
            assert reader.get(path).status_code == 200
        for path in ("", "servers/server/", "servers/server/nas/change/", "metrics/interface/", "top/", "storage/"):
            assert admin_client.get(f"/admin/{path}").status_code == 200, path
    # A part of a UNION stands in parentheses, too.
    inner = re.compile(r"(?<!^)(?<!UNION ALL )\(\s*SELECT\b[^()]*\b(" + "|".join(COLUMNS) + r")\b", re.IGNORECASE)
    assert len(statements) > 20
    assert [sql for sql, _ in statements if inner.search(sql)] == []


@on_postgresql
def test_a_deleted_server_is_looked_for_by_its_column(stand_ins, fleet, admin_client):
    with captured() as statements:
        admin_client.post("/admin/servers/server/nas/delete/", {"post": "yes"})
    assert not Server.objects.filter(id="nas").exists()
    assert not Heartbeat.objects.filter(server="nas").exists()
    assert Interface.objects.count() == 4
    # Its interfaces lie in several shards, and forgetting its boots asks all of them; that is done one after another.
    several = {next(iter(needed)) for _, needed in statements if any(count > 1 for count in needed.values())}
    assert several <= {"metrics_chunk", "servers_snapshot"}
    assert asked("SHOW citus.multi_shard_modify_mode") == [("sequential",)]
