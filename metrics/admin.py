"""Servers and interfaces: what passed, drawn. Everything measured is read-only, and what is read comes from history."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from django.contrib import admin
from django.db.models import Exists, OuterRef, Prefetch, QuerySet, prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from metrics import charts, history
from metrics.models import Interface, to_ms
from metrics.periods import PeriodError, parse_instant, sensible_step
from servers.models import Server, ServerQuerySet, State

BYTES = ("rx_bytes", "tx_bytes")
PERIODS = {name: history.SPARKLINE_PERIODS[name] for name in ("1h", "6h", "24h", "7d", "30d", "12m")}
DEFAULT_PERIOD = "24h"
DAY = timedelta(days=1)
NOTABLE_SKEW_SECONDS = 5
STATES = (State.OFFLINE, State.LATE, State.NEW, State.ONLINE)  # by trouble

Groups = Mapping[int | None, Sequence[Interface]]


class ServerRow(NamedTuple):
    """A server in a list: rates are bytes per second, and None when they are not known now."""

    server: Server
    state: State
    rx_rate: float | None
    tx_rate: float | None
    links: dict[str, int]


class InterfaceRow(NamedTuple):
    """An interface in a list: its row, its latest reading, and what to draw of it."""

    interface: Interface
    latest: dict[str, Any]
    link: str
    rx_rate: float | None
    tx_rate: float | None
    drawn: charts.Series | None = None


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.value) for state in reversed(STATES)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Server]) -> QuerySet[Server]:
        state = self.value()
        return cast(ServerQuerySet, queryset).in_state(state, now=timezone.now()) if state else queryset


class SystemFilter(admin.SimpleListFilter):
    title = "system"
    parameter_name = "system"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        systems = Server.objects.exclude(os_distribution="").order_by("os_distribution")
        return [(name, name) for name in systems.values_list("os_distribution", flat=True).distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Server]) -> QuerySet[Server]:
        return queryset.filter(os_distribution=self.value()) if self.value() else queryset


class MeasuredAdmin(admin.ModelAdmin):
    """Rows that the agents make: they can be looked at, and a little about them can be set."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = None
    list_display = ("__str__",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        now = timezone.now()
        title = str(self.opts.verbose_name_plural).capitalize()
        response = super().changelist_view(request, {"now": now, "title": title, **(extra_context or {})})
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["rows"] = self.rows(list(context["cl"].result_list), now)
        return response

    def rows(self, found: list[Any], now: datetime) -> list[Any]:
        raise NotImplementedError

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        now = timezone.now()
        context |= {"now": now, "show_save_and_add_another": False, "show_save_and_continue": False}
        context |= self.page(request, context["original"], now)
        return super().render_change_form(request, context, *args, **kwargs)

    def page(self, request: HttpRequest, found: Any, now: datetime) -> dict[str, Any]:
        raise NotImplementedError


@admin.register(Server)
class ServerAdmin(MeasuredAdmin):
    list_filter = (StateFilter, SystemFilter)
    search_fields = ("id", "hostname", "display_name", "notes")
    list_per_page = 400
    fields = ("display_name", "notes")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        return super().get_queryset(request).select_related("snapshot")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        counted = Prefetch("interfaces", Interface.objects.in_totals(), to_attr="counted")
        prefetch_related_objects(changelist.result_list, counted)
        return changelist

    def rows(self, found: list[Server], now: datetime) -> list[ServerRow]:
        rows = [server_row(server, server.counted, now) for server in found]  # type: ignore[attr-defined]
        return sorted(rows, key=lambda row: (STATES.index(row.state), str(row.server).lower()))

    def page(self, request: HttpRequest, found: Server, now: datetime) -> dict[str, Any]:
        in_totals = Exists(Interface.objects.in_totals().filter(pk=OuterRef("pk")))
        interfaces = {row.name: row for row in Interface.objects.filter(server=found).annotate(is_counted=in_totals)}
        counted = [row for row in interfaces.values() if row.is_counted] or list(interfaces.values())
        chosen = interfaces.get(request.GET.get("interface", ""))
        seen = window(request, now)
        groups: Groups = {None: [chosen] if chosen else counted, **{row.pk: [row] for row in interfaces.values()}}
        drawn = _drawn(groups, seen)
        rows = [interface_row(found, interface, now, drawn[interface.pk]) for interface in interfaces.values()]
        return {
            "row": server_row(found, counted, now),
            "snapshot": getattr(found, "snapshot", None),
            "skew": _notable_skew(found),
            "boots": found.boots.all()[:20],
            "rows": sorted(rows, key=lambda row: (row.interface.hidden, not row.latest, row.interface.name)),
            "names": list(interfaces),
            "chosen": chosen.name if chosen else "",
            "counted": [interface.name for interface in counted],
            "periods": PERIODS,
            "window": seen,
            "series": drawn[None],
        }

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Say what goes with a server in one line: its heartbeats are too many to list."""
        to_delete = [f"{server}, its keys, its interfaces and all that was measured" for server in objs]
        return to_delete, {}, set(), []


@admin.register(Interface)
class InterfaceAdmin(MeasuredAdmin):
    list_filter = ("kind", "hidden")
    list_select_related = ("server__snapshot",)
    search_fields = ("name", "label", "mac", "server__id", "server__hostname", "server__display_name")
    list_per_page = 200
    fields = ("label", "kind", "counts_in_total", "hidden")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Interface]:
        return super().get_queryset(request).select_related("server__snapshot")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "counts_in_total":
            field.widget.choices = [("unknown", "by the rule"), ("true", "yes"), ("false", "no")]
            field.help_text = "By the rule, what rides on another interface does not count."
        return field

    def has_delete_permission(self, request: HttpRequest, obj: Interface | None = None) -> bool:
        return False

    def rows(self, found: list[Interface], now: datetime) -> list[InterfaceRow]:
        return [interface_row(interface.server, interface, now) for interface in found]

    def page(self, request: HttpRequest, found: Interface, now: datetime) -> dict[str, Any]:
        seen = window(request, now)
        return {
            "row": interface_row(found.server, found, now),
            "server": found.server,
            "state": found.server.state(now=now),
            "periods": PERIODS,
            "window": seen,
            "series": _drawn({None: [found]}, seen)[None],
        }


def server_row(server: Server, counted: Sequence[Interface], now: datetime) -> ServerRow:
    """Return what a list shows of a server. `counted` are the interfaces of its total; without any, all count."""
    state = server.state(now=now)
    latest = _latest(server)
    names = {interface.name for interface in counted} or set(latest)
    current = [latest[name] for name in names if name in latest and state == State.ONLINE]
    links = Counter(link_state(interface, state) for interface in latest.values())
    return ServerRow(
        server,
        state,
        rx_rate=_sum(interface.get("rx_rate") for interface in current),
        tx_rate=_sum(interface.get("tx_rate") for interface in current),
        links={word: links[word] for word in ("up", "down", "unknown") if links[word]},
    )


def interface_row(
    server: Server, interface: Interface, now: datetime, drawn: charts.Series | None = None
) -> InterfaceRow:
    state = server.state(now=now)
    latest = _latest(server).get(interface.name, {})
    is_now = state == State.ONLINE
    return InterfaceRow(
        interface,
        latest,
        link=link_state(latest, state),
        rx_rate=latest.get("rx_rate") if is_now else None,
        tx_rate=latest.get("tx_rate") if is_now else None,
        drawn=drawn,
    )


def link_state(latest: dict[str, Any], state: State) -> str:
    """Return up, down, or unknown: of an interface that is not reported, or by a server that is not heard."""
    if not latest or state == State.OFFLINE:
        return "unknown"
    return "up" if latest["is_up"] else "down"


def _latest(server: Server) -> dict[str, dict[str, Any]]:
    snapshot = getattr(server, "snapshot", None)
    return {interface["name"]: interface for interface in snapshot.network_interfaces} if snapshot else {}


def _notable_skew(server: Server) -> float | None:
    snapshot = getattr(server, "snapshot", None)
    skew = snapshot.clock_skew_seconds if snapshot else None
    return skew if skew is not None and abs(skew) > NOTABLE_SKEW_SECONDS else None


def _sum(rates: Any) -> float | None:
    known = [value for value in rates if value is not None]
    return sum(known) if known else None


class Window(NamedTuple):
    """The time that a page looks at: a `period` up to now, or, where that is empty, any other."""

    period: str
    start: datetime
    end: datetime


def window(request: HttpRequest, now: datetime) -> Window:
    """Return the window that the address asks for: `start` and `end`, or a `period`; a usual one if it is no good."""
    try:
        start, end = (parse_instant(request.GET.get(name, ""), now=now) for name in ("start", "end"))
        if start < end:
            return Window("", start, min(end, now)) if start < now else Window("", now - DAY, now)
    except PeriodError:
        pass
    period = request.GET.get("period", "")
    period = period if period in PERIODS else DEFAULT_PERIOD
    return Window(period, now - PERIODS[period], now)


def _drawn(groups: Groups, seen: Window) -> dict[int | None, charts.Series]:
    """Return the series of each group, all of them from one read."""
    step, zone = sensible_step(seen.start, seen.end), timezone.get_current_timezone()
    found = history.series_by(groups, seen.start, seen.end, step, zone, counters=BYTES)
    return {group: charted(series) for group, series in found.items()}


def charted(series: history.Series) -> charts.Series:
    return charts.Series(
        starts=[to_ms(start) for start in series.start],
        end=to_ms(series.end),
        rx=series.rx_rate,
        tx=series.tx_rate,
        rx_peak=series.rx_peak,
        tx_peak=series.tx_peak,
        marks=series.marks,
    )
