"""Migrations that are there as a whole or not at all, wherever their process is killed."""

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class RecordedAtOnce(BaseDatabaseSchemaEditor):
    """A schema editor that puts nothing off, so that a migration is recorded in the transaction that makes it.

    Django records one that has put off some of its SQL in a transaction of its own. Killed before that, it would be
    made again by the next run, which fails at the first table that is there already.
    """

    may_put_off = False

    def create_model(self, model: Any) -> None:
        super().create_model(model)
        self._catch_up()

    def add_field(self, model: Any, field: Any) -> None:
        super().add_field(model, field)
        self._catch_up()

    def _catch_up(self) -> None:
        while self.deferred_sql and not self.may_put_off:
            self.execute(self.deferred_sql.pop(0))
