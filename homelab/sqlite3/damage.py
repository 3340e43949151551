"""What SQLite has said of a damaged database, until the hub starts again: other pages may be well."""

import logging

from django.db import connection

logger = logging.getLogger(__name__)

_said: dict[str, str] = {}


def note(database: str, message: str) -> None:
    if _said.setdefault(database, message) is message:
        logger.error("The database is damaged: %s. Stop the hub and restore a backup: docs/commands.md.", message)


def is_known() -> bool:
    """Tell whether SQLite has found the hub's database damaged."""
    return str(connection.settings_dict["NAME"]) in _said
