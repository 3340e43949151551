"""A pool whose dead connections are never handed out, and cursors that Django has not."""

import select
from collections.abc import Iterator
from typing import Any

from django.db.backends.postgresql import base, operations
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from psycopg import capabilities

from homelab.migrating import RecordedAtOnce

# One by one, each row is a wait of its own; libpq hands several on from version 17.
ROWS_AT_ONCE = 50 if capabilities.has_stream_chunked() else 1


class SchemaEditor(RecordedAtOnce, DatabaseSchemaEditor):
    def __enter__(self) -> Any:
        editor = super().__enter__()
        if self.atomic_migration:
            self.execute("SET LOCAL statement_timeout = 0")  # a big table takes its time
        return editor


class DatabaseOperations(operations.DatabaseOperations):
    def last_executed_query(self, cursor: Any, sql: str, params: Any) -> str:
        """Return the query with its values, of a prepared cursor too, which sends them apart from it."""
        return super().last_executed_query(cursor, sql, params) or self.compose_sql(sql, params)


class DatabaseWrapper(base.DatabaseWrapper):
    SchemaEditorClass = SchemaEditor
    ops_class = DatabaseOperations

    def prepared_cursor(self) -> Any:
        """Return a cursor whose statements the server parses once a connection, and plans once."""
        self.ensure_connection()
        with self.wrap_database_errors:
            return self._prepare_cursor(base.ServerBindingCursor(self.connection))  # type: ignore[attr-defined, call-arg]

    def stream(self, sql: str, parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query as they arrive, in PostgreSQL's format; until the last the connection is taken.

        A cursor of the server would first write all of them to a file, and each byte of a value as two.
        """
        composed = self.ops.compose_sql(sql, parameters)  # the protocol takes 65,535 parameters, SQL any number
        if self.queries_logged:
            self.queries_log.append({"sql": composed, "time": ""})
        with self.prepared_cursor() as cursor, self.wrap_database_errors:
            yield from cursor.stream(composed, binary=True, size=ROWS_AT_ONCE)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection that the server has not ended: what one has to say while nobody asks is good-bye.

        To look at the socket costs nothing, where to ask the server costs each request a round trip.
        """
        connection = super().get_new_connection(conn_params)
        while self.pool and _has_word(connection.fileno()):
            connection.close()
            self.pool.putconn(connection)  # which makes another in its place
            connection = super().get_new_connection(conn_params)
        return connection


def _has_word(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
