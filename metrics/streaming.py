"""Rows with large values, of which only some are held at a time."""

from collections.abc import Iterator
from typing import Any

from django.db import connections, models


def stream(queryset: "models.QuerySet[Any, tuple[Any, ...]]", at_once: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a `values_list`, as they arrive where the engine can, or `at_once`.

    Until the last one, the database may not be asked for anything else.
    """
    database = connections[queryset.db]
    if not hasattr(database, "stream"):
        yield from queryset.iterator(at_once)
        return
    compiler = queryset.query.get_compiler(connection=database)
    sql, parameters = compiler.as_sql()
    yield from compiler.results_iter([database.stream(sql, parameters)], tuple_expected=True)
