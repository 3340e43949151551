"""System checks: what is wrong with the set-up, each with an id and a way out."""

import os
import stat
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register(checks.Tags.security)
def secret_key_is_private(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    path = settings.DATA_DIR / "secret-key"
    if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [
            checks.Warning(
                "Others on this machine can read the hub's secret key.",
                hint=f"chmod 600 {os.path.relpath(path)}",
                id="homelab.W001",
            )
        ]
    return []
