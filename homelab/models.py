from django.db import models


class Probe(models.Model):
    """One row that the health check writes, to learn whether the database still takes it."""

    written_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"written at {self.written_at:%Y-%m-%d %H:%M:%S}"
