from django.core.serializers.json import DjangoJSONEncoder
from django.db import models


class Probe(models.Model):
    """One row that the health check writes, to learn whether the database still takes it."""

    written_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"written at {self.written_at:%Y-%m-%d %H:%M:%S}"


class Move(models.Model):
    """How far `migratedata` has copied a table into this database. None are left once all of it is here."""

    table = models.CharField(primary_key=True, max_length=100, help_text="Empty: the source.")
    last = models.JSONField(null=True, encoder=DjangoJSONEncoder, help_text="The last key that was copied.")

    def __str__(self) -> str:
        return f"{self.table} to {self.last}"
