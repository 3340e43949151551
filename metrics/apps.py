from typing import Any

from django.apps import AppConfig
from django.db import transaction
from django.db.models.signals import post_delete

from metrics import memory


class MetricsConfig(AppConfig):
    name = "metrics"
    verbose_name = "Metrics"

    def ready(self) -> None:
        post_delete.connect(_forget, sender="servers.Server")


def _forget(using: str, **_: Any) -> None:
    """One that comes again under the same id begins with the same revisions."""
    transaction.on_commit(memory.forget, using=using)
