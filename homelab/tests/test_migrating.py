import pytest
from django.db import connection, models
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from servers.models import Boot, Server


@pytest.mark.django_db(transaction=True)
def test_nothing_that_a_model_or_a_field_needs_is_put_off():
    class Indexed(models.Model):
        server = models.ForeignKey(Server, models.CASCADE, related_name="+")
        boots = models.ManyToManyField(Boot)

        class Meta:
            app_label = "homelab"
            indexes = [models.Index(fields=["server", "id"], name="of_a_test")]

        def __str__(self) -> str:
            return str(self.pk)

    with connection.schema_editor() as editor:
        editor.create_model(Indexed)
        assert editor.deferred_sql == []
        field = models.ForeignKey(Server, models.CASCADE, null=True, related_name="+")
        field.set_attributes_from_name("other")
        editor.add_field(Indexed, field)
        assert editor.deferred_sql == []
        with connection.cursor() as cursor:
            names = connection.introspection.get_constraints(cursor, "homelab_indexed")
        assert "of_a_test" in names
        assert not [name for name in names if name.startswith("new__")]
        editor.delete_model(Indexed)


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_cannot_be_recorded_leaves_nothing(monkeypatch):
    """As one that is killed just then."""

    def is_killed(*_):
        raise KeyboardInterrupt

    executor = MigrationExecutor(connection)
    executor.migrate([("admin", None)])
    try:
        before = set(connection.introspection.table_names())
        with monkeypatch.context() as patched:
            patched.setattr(MigrationRecorder, "record_applied", is_killed)
            executor = MigrationExecutor(connection)
            with pytest.raises(KeyboardInterrupt):
                executor.migrate([("admin", "0001_initial")])
        assert set(connection.introspection.table_names()) == before
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
