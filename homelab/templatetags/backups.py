"""The newest of the nights' backups, for the storage page."""

from datetime import timedelta
from typing import Any

from django import template
from django.conf import settings

from homelab import nightly

register = template.Library()

LATE_AFTER = timedelta(hours=36)


@register.inclusion_tag("metrics/last_backup.html", takes_context=True)
def last_backup(context: dict[str, Any]) -> dict[str, Any]:
    now, newest = context["now"], next(iter(nightly.kept()), None)
    is_late = newest is None or now - newest.made_at > LATE_AFTER
    return {"folder": settings.BACKUP_DIR, "newest": newest, "is_late": is_late, "now": now}
