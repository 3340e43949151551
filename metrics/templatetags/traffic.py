"""Bytes, rates and charts for templates. The unit of rates is the browser's choice, kept in a cookie."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from django import template
from django.contrib.staticfiles.storage import staticfiles_storage
from django.utils import timezone
from django.utils.formats import date_format

from metrics import charts
from metrics.figures import Figure
from metrics.site import rate_unit

register = template.Library()

register.filter("size", charts.size_text)
register.filter("count", charts.count_text)
register.filter("speed", charts.speed_text)


@register.simple_tag(takes_context=True)
def rate(context: dict[str, Any], bytes_per_second: float | None) -> str:
    return charts.rate_text(bytes_per_second, _unit(context))


@register.filter
def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@register.filter
def moment(instant: datetime) -> str:
    """Return a local day and time, with its year where that is not this one."""
    local = timezone.localtime(instant)
    return date_format(local, "j M H:i" if local.year == timezone.localtime().year else "j M Y H:i")


@register.filter
def days(number: float) -> str:
    """Return a number of days in words that fit."""
    return f"{number:.0f} days" if number < 730 else f"{min(number / 365, 1000):.0f} years"


@register.inclusion_tag("metrics/sparkline.html")
def sparkline(figure: Figure | None, name: object) -> dict[str, Any]:
    is_known = figure is not None and any(rate is not None for rate in (*figure.rx_day, *figure.tx_day))
    return {"spark": _spark(figure.rx_day, figure.tx_day) if figure and is_known else None, "name": name}


_spark = lru_cache(5000)(charts.spark)  # pages draw the same again and again: figures are kept for a minute


@register.inclusion_tag("metrics/chart.html", takes_context=True)
def chart(context: dict[str, Any], series: charts.Series, name: str) -> dict[str, Any]:
    """Draw a chart, and hand its figures to the script that takes over where there is one."""
    unit, zone = _unit(context), timezone.get_current_timezone()
    drawn = charts.chart(series, unit=unit, zone=zone)
    return {
        "chart": drawn,
        "is_empty": series.is_empty,
        "marks": " or ".join(sorted({kind for kinds in series.marks for kind in kinds})),
        "name": name,
        "data": {
            **series._asdict(),
            "ticks": [(tick.rate, tick.text) for tick in drawn.ticks],
            "labels": [(label.at, label.text) for label in drawn.labels],
            "unit": unit,
            "zone": timezone.get_current_timezone_name(),
        },
    }


@register.inclusion_tag("metrics/chart_scripts.html")
def chart_scripts() -> dict[str, Any]:
    """Name the scripts of the charts, where `make` could fetch the library that they need."""
    return {"has_library": staticfiles_storage.exists("vendor/uPlot.iife.min.js")}


def _unit(context: dict[str, Any]) -> str:
    return rate_unit(context["request"])
