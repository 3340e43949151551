"""Single rows of the hot path, by SQL that is written once.

Writing the SQL of a query takes Django several times as long as SQLite takes to answer it. Here the ORM still says
what to ask, converts the values and builds the objects; only the writing is not done again for each heartbeat.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections, models
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
        vendor = connection.vendor
        plan = self.plans.get(vendor)
        if plan is None:
            plan = self.plans[vendor] = self._plan()
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
            with _cursor() as cursor:
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


def insert(row: models.Model) -> None:
    """Insert one row that has all its values; what `save(force_insert=True)` does."""
    values = {field: getattr(row, field.attname) for field in _columns(type(row))}
    _execute(_insert_sql(connection.vendor, type(row)), values)


def update(row: models.Model, **values: Any) -> None:
    """Write these columns of a row that is found by its primary key of one column."""
    columns = {field.name: field for field in _columns(type(row))}
    sql = _update_sql(connection.vendor, type(row), tuple(values))
    _execute(sql, {columns[name]: value for name, value in values.items()}, row.pk)


def _execute(sql: str, values: dict[Any, Any], *more: Any) -> None:
    database = connections[DEFAULT_DB_ALIAS]  # itself: to look it up for each value takes longer than converting it
    converted = [field.get_db_prep_save(value, database) for field, value in values.items()]
    with _cursor() as cursor:
        cursor.execute(sql, [*converted, *more])


def _cursor() -> Any:
    """Return a cursor that prepares what it executes, where the engine has such."""
    return getattr(connection, "prepared_cursor", connection.cursor)()


@cache
def _columns(model: type[models.Model]) -> list[Any]:
    return [field for field in model._meta.local_concrete_fields if field.column]


@cache
def _insert_sql(vendor: str, model: type[models.Model]) -> str:
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in _columns(model))
    places = ", ".join(["%s"] * len(_columns(model)))
    return f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES ({places})"


@cache
def _update_sql(vendor: str, model: type[models.Model], names: tuple[str, ...]) -> str:
    quote = connection.ops.quote_name
    columns = {field.name: quote(field.column) for field in _columns(model)}
    key = next(quote(field.column) for field in _columns(model) if field.primary_key)
    changes = ", ".join(f"{columns[name]} = %s" for name in names)
    return f"UPDATE {quote(model._meta.db_table)} SET {changes} WHERE {key} = %s"
