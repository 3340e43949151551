"""A whole hub from one database into another: SQLite's into PostgreSQL, or back.

Every table is copied in order of its keys, a batch and how far it came in one transaction. So a move that was killed
goes on where it was, and until it is done the hub does not serve from the half of its data.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TextIO

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, connection, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Max, Min
from tqdm import tqdm

from homelab.backup import no_hub
from homelab.engines import database
from homelab.models import Move, Probe
from metrics import history, memory
from metrics.counters import COUNTERS
from metrics.models import Chunk, Heartbeat, Interface, day_start, from_ms
from metrics.periods import parse_step, parse_zone
from servers.models import Server

BATCH = 500  # rows, or fewer where they are large
BATCH_BYTES = 8_000_000
SOURCE = "source"
MADE_BY_MIGRATE: tuple[type[models.Model], ...] = (Permission, ContentType)  # in an empty database, too
OF_ONE_DATABASE = (Probe, Move)  # what these say is of no use in another


class MoveError(Exception):
    """It was not done, or not to its end. The message says why, and what to do."""


def move(out: TextIO) -> int:
    """Copy all that the source holds into the empty database of the settings, and compare the two.

    Return how many rows that were. Progress goes to `out`. What a run that was killed has copied stays. Raises
    MoveError and
    BackupError.
    """
    with ExitStack() as stack:
        source = stack.enter_context(opened_source())
        stack.enter_context(no_hub(source, connection))
        _check_schema(source)
        _begin(source)
        moved = models_in_order()
        counts = {model: model._base_manager.using(SOURCE).count() for model in moved}
        with tqdm(desc="Copying", total=sum(counts.values()), unit="row", file=out) as bar:
            for model in moved:
                _copy(model, bar)
        _number_on(moved)
        _compare(source, counts, out)
        Move.objects.all().delete()
    return sum(counts.values())


def is_unfinished() -> bool:
    """Tell whether the database holds only what a move has copied until it ended before its time."""
    return Move._meta.db_table in connection.introspection.table_names() and Move.objects.exists()


@contextmanager
def opened_source() -> Iterator[BaseDatabaseWrapper]:
    """Give the database to copy from, as one more connection of Django's."""
    known = database(settings.SOURCE_URL, pool_size=1)
    same = ("ENGINE", "NAME", "HOST", "PORT")
    if all(str(known.get(name, "")) == str(connection.settings_dict.get(name, "")) for name in same):
        raise MoveError(
            "The hub's database would be copied onto itself. Set DATABASE_URL to the new one; HOMELAB_SOURCE_URL says"
            " which the old one is, where that is not SQLite's in the data folder."
        )
    if known["ENGINE"] == "homelab.sqlite3" and not Path(known["NAME"]).exists():
        raise MoveError(f"There is no {known['NAME']} to copy. HOMELAB_SOURCE_URL says where the hub's data is.")
    ours = connections.settings[DEFAULT_DB_ALIAS]
    connections.settings[SOURCE] = connections.configure_settings({DEFAULT_DB_ALIAS: ours, SOURCE: known})[SOURCE]
    try:
        yield connections[SOURCE]
    finally:
        connections[SOURCE].close()
        del connections[SOURCE], connections.settings[SOURCE]


def _check_schema(source: BaseDatabaseWrapper) -> None:
    """See that both databases are of this version of the hub. One that is still empty is made so."""
    known = set(MigrationLoader(None).disk_migrations or ())
    if newer := set(MigrationRecorder(source).applied_migrations()) - known:
        raise MoveError(f"{_name(source)} is of a newer hub, which has {sorted(newer)[0][1]}. Update this one first.")
    if missing := known - set(MigrationRecorder(source).applied_migrations()):
        raise MoveError(
            f"{_name(source)} is of an earlier hub, without {sorted(missing)[0][1]}. Run manage.py migrate on it first."
        )
    if newer := set(MigrationRecorder(connection).applied_migrations()) - known:
        raise MoveError(f"{_name(connection)} is of another hub, which has {sorted(newer)[0][1]}. Give an empty one.")
    if Move.objects.using(SOURCE).exists():
        raise MoveError(f"{_name(source)} holds only the half of a hub: a move into it has not been finished.")
    if not is_unfinished():  # it would make rows that are still to come
        call_command("migrate", verbosity=0, interactive=False)


def _begin(source: BaseDatabaseWrapper) -> None:
    """Remember what is copied; go on only with the same, unchanged."""
    seen = _as_it_is(source)
    if begun := Move.objects.filter(table="").first():
        if begun.last != seen:
            raise MoveError(
                f"{_name(connection)} holds the half of another hub, or {_name(source)} has changed since that half was"
                " copied. Empty it and begin anew."
            )
        return
    for model in models_in_order():
        if model not in MADE_BY_MIGRATE and model._base_manager.exists():
            raise MoveError(f"{_name(connection)} has data already, in {model._meta.db_table}. Give an empty one.")
    Move.objects.create(table="", last=seen)


def _as_it_is(source: BaseDatabaseWrapper) -> str:
    """Return words that are the same for as long as nobody has written to the source."""
    with source.cursor() as cursor:
        if source.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            path = Path(source.settings_dict["NAME"]).resolve()
            return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
        cursor.execute("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")
        return f"{_name(source)} {cursor.fetchone()[0]}"


def models_in_order() -> list[type[models.Model]]:
    """Return the models to copy, each after those that it refers to."""
    known = [model for model in apps.get_models(include_auto_created=True) if model not in OF_ONE_DATABASE]
    refers: dict[Any, set[Any]] = {
        model: {field.related_model for field in model._meta.concrete_fields if field.remote_field} for model in known
    }
    return list(TopologicalSorter(refers).static_order())


def _copy(model: type[models.Model], bar: Any) -> None:
    rows = model._base_manager.using(SOURCE).order_by("pk")
    step, _ = Move.objects.get_or_create(table=model._meta.db_table)
    bar.update(rows.filter(pk__lte=step.last).count() if step.last is not None else 0)
    limit = min(BATCH, 10)
    while batch := list((rows if step.last is None else rows.filter(pk__gt=step.last))[:limit]):
        with transaction.atomic():
            if model in MADE_BY_MIGRATE and step.last is None:
                model._base_manager.all().delete()
            model._base_manager.using(DEFAULT_DB_ALIAS).bulk_create(batch)
            step.last = batch[-1].pk
            step.save()
        bar.update(len(batch))
        limit = max(min(BATCH, BATCH_BYTES * len(batch) // _size(batch)), 1)


def _size(batch: list[models.Model]) -> int:
    """Return how many bytes the rows are, roughly."""
    values = [value for row in batch for value in vars(row).values()]
    return sum(len(value) if isinstance(value, bytes | str | memoryview) else 8 for value in values)


def _number_on(moved: list[type[models.Model]]) -> None:
    """Let new rows be numbered after those that came."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), moved):
            cursor.execute(statement)
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE")


def _compare(source: BaseDatabaseWrapper, counts: dict[type[models.Model], int], out: TextIO) -> None:
    for model, count in counts.items():
        if (found := model._base_manager.count()) != count:
            raise MoveError(f"{model._meta.db_table} has {found} rows, and had {count}. Begin anew, in an empty one.")
    for server in tqdm(Server.objects.order_by("pk"), desc="Comparing", unit="server", file=out):
        ours = _usage(server)
        with asking(source):
            theirs = _usage(server)
        for name, usage in theirs.items():
            if ours.get(name) != usage:
                raise MoveError(f"What passed {name} of {server.pk} is not what it was. Begin anew, in an empty one.")


def _usage(server: Server) -> dict[str, history.Series]:
    """Return what passed each interface in each month since its first reading, by every counter."""
    of_server = Interface.objects.filter(server=server)
    sealed = Chunk.objects.filter(interface__in=of_server).aggregate(start=Min("start"), end=Max("last_at"))
    waiting = Heartbeat.objects.filter(server=server).aggregate(start=Min("collected_at"), end=Max("collected_at"))
    starts = [from_ms(day_start(sealed["start"])) if sealed["start"] else None, waiting["start"]]
    start, end = (
        min(filter(None, starts), default=None),
        max(filter(None, [sealed["end"], waiting["end"]]), default=None),
    )
    if start is None or end is None:
        return {}
    groups = {interface.name: [interface] for interface in of_server}
    return history.series_by(groups, start, end, parse_step("1month"), parse_zone("UTC"), counters=COUNTERS)


@contextmanager
def asking(source: BaseDatabaseWrapper) -> Iterator[None]:
    """Let every question go to the source."""
    ours = connections[DEFAULT_DB_ALIAS]
    memory.forget()
    connections[DEFAULT_DB_ALIAS] = source
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = ours
        memory.forget()


def _name(database: BaseDatabaseWrapper) -> str:
    known = database.settings_dict
    return f"{known['NAME']} at {known['HOST']}" if known["HOST"] else str(known["NAME"])
