"""Single rows of the hot path, by queries that the ORM writes once.

Writing the SQL of a query takes Django several times as long as SQLite takes to answer it. Here the ORM still writes
it, reads the row and builds the objects; only the writing is not done again for each heartbeat.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import connection, models
from django.db.models.query import get_related_populators

Row = TypeVar("Row", bound=models.Model)

_VALUE = "\x00{}"  # stands for a value that changes


class PreparedGet(Generic[Row]):
    """`queryset(*values).get()` for a query in which each value is a text that is compared with a column."""

    def __init__(self, queryset: Callable[..., "models.QuerySet[Row]"], values: int = 1) -> None:
        self.queryset = queryset
        self.places = [_VALUE.format(index) for index in range(values)]
        self.plans: dict[str, Callable[[dict[str, str]], Row | None]] = {}

    def __call__(self, *values: str) -> Row | None:
        """Return the row, or None where there is none."""
        plan = self.plans.get(connection.vendor)
        if plan is None:
            plan = self.plans[connection.vendor] = self._plan()
        return plan(dict(zip(self.places, values, strict=True)))

    def _plan(self) -> Callable[[dict[str, str]], Row | None]:
        query = self.queryset(*self.places).query
        compiler = query.get_compiler(connection=connection)
        sql, parameters = compiler.as_sql()
        select, class_info = compiler.select, compiler.klass_info
        own = class_info["select_fields"]
        names = [select[index][0].target.attname for index in own]
        # The stubs are of a newer Django, where this takes one more argument.
        populators = get_related_populators(class_info, select, connection.alias)  # type: ignore[call-arg]
        converters = compiler.get_converters([column[0] for column in select])
        model: type[Row] = class_info["model"]

        annotated = compiler.annotation_col_map or {}

        def get(values: dict[str, str]) -> Row | None:
            with connection.cursor() as cursor:
                cursor.execute(sql, [values.get(parameter, parameter) for parameter in parameters])
                rows: Any = cursor.fetchmany(2)
            if not rows:
                return None
            row = list(next(iter(compiler.apply_converters(rows[:1], converters)))) if converters else rows[0]
            found = model.from_db(connection.alias, names, row[own[0] : own[-1] + 1])
            for populator in populators:
                populator.populate(row, found)
            for name, index in annotated.items():
                setattr(found, name, row[index])
            return found

        return get
