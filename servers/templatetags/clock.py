"""How long ago, for people, with the exact instant for those who ask."""

from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone

register = template.Library()

UNITS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min"))


@register.inclusion_tag("servers/ago.html", takes_context=True)
def ago(context: dict[str, Any], instant: datetime | None, never: str = "never") -> dict[str, Any]:
    """Render an instant as how long it is ago, at the page's `now`; one to come (a clock was set back) as just now."""
    now = context.get("now") or timezone.now()
    text = f"{duration(max((now - instant).total_seconds(), 0))} ago" if instant else never
    return {"instant": instant, "text": text}


@register.filter
def duration(seconds: Any) -> str:
    """Return seconds in the largest unit that fits, such as `12 s`, `3 h` or `14 d`; a dash where they are unknown."""
    if not isinstance(seconds, int | float):
        return "–"
    size, unit = next(((size, unit) for size, unit in UNITS if abs(seconds) >= size), (1, "s"))
    return f"{int(seconds / size)} {unit}"
