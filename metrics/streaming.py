"""Rows with large values, of which only some are held at a time."""

from collections.abc import Generator
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections, models

AT_ONCE = 200  # rows


def stream(queryset: "models.QuerySet[Any, tuple[Any, ...]]") -> Generator[tuple[Any, ...], None, None]:
    """Yield the rows of a `values_list`: one by one as they arrive where the engine can, else AT_ONCE at a time.

    Until the last, or until the generator is closed, nothing else can be asked of this connection: PostgreSQL's waits
    for ever. To close it early in a transaction ends that. A statement's time-out counts what is done between two rows.
    """
    database = connections[queryset.db]
    if not hasattr(database, "stream"):
        yield from queryset.iterator(AT_ONCE)
        return
    compiler = queryset.query.get_compiler(connection=database)
    try:
        sql, parameters = compiler.as_sql()
    except EmptyResultSet:
        return
    yield from compiler.results_iter([database.stream(sql, parameters)], tuple_expected=True)
