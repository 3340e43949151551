"""Servers and interfaces: what passed, drawn. Everything measured is read-only, and what is read comes from history."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, cast

from django.contrib import admin
from django.db.models import Exists, OuterRef, QuerySet, prefetch_related_objects
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from metrics import history, tables
from metrics.figures import figures
from metrics.models import Event, Interface, InterfaceQuerySet, Kind
from metrics.periods import Step, current_period, sensible_step
from metrics.rows import (
    STATES,
    InterfaceRow,
    ServerRow,
    by_trouble,
    charted,
    counted_of,
    in_groups,
    interface_row,
    server_row,
    with_counted,
)
from metrics.windows import PERIODS, Window, window
from servers.models import Server, ServerQuerySet, Snapshot

EVENTS_SHOWN = 30
STEPS_WITH_RANGE = 3  # intervals: in less there are a reading or two, and the range tells where these are cut
EVENTS_READ = 500  # the newest, of a server or within a chart
TABS = {"": "Traffic", "days": "Days", "months": "Months", "hours": "Hours of the week"}


class Total(NamedTuple):
    """The exact bytes of a window."""

    rx_bytes: float | None
    tx_bytes: float | None
    covered_share: float

    @property
    def is_known(self) -> bool:
        return self.rx_bytes is not None or self.tx_bytes is not None


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


class InterfaceKindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Kind.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Interface]) -> QuerySet[Interface]:
        kind = self.value()
        return cast(InterfaceQuerySet, queryset).of_kind(kind) if kind else queryset


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

    def response_post_save_change(self, request: HttpRequest, obj: Any) -> HttpResponseRedirect:
        """Stay on the page: what was set shows there."""
        return HttpResponseRedirect(request.get_full_path())

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        now = timezone.now()
        context |= {
            "now": now,
            "title": str(context["original"]),
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
        }
        context |= {"periods": PERIODS, **self.page(request, context["original"], now)}
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
        prefetch_related_objects(changelist.result_list, with_counted())
        return changelist

    def rows(self, found: list[Server], now: datetime) -> list[ServerRow]:
        return by_trouble(server_row(server, counted_of(server), now) for server in found)

    def page(self, request: HttpRequest, found: Server, now: datetime) -> dict[str, Any]:
        in_totals = Exists(Interface.objects.in_totals().filter(pk=OuterRef("pk")))
        interfaces = list(Interface.objects.with_revision().filter(server=found).annotate(is_counted=in_totals))
        counted = [interface for interface in interfaces if interface.is_counted] or interfaces
        chosen = next((row for row in interfaces if row.name == request.GET.get("interface")), None)
        seen = window(request, now)
        newest = list(Event.objects.filter(server=found).order_by("-number")[:EVENTS_READ])
        shown = [chosen] if chosen else counted
        has_all = len(newest) < EVENTS_READ or newest[-1].at < seen.start
        events = newest if has_all else _events_within(found, shown, seen)
        drawn = partial(_drawn, found, shown, seen, events)
        month = current_period(now, Step(0, 1), timezone.get_current_timezone())
        # The hours that a long chart reads of all that counts serve the lists, too.
        chart = drawn() if chosen is None and seen.start <= month else None
        known = figures({found.pk: interfaces}, now=now, heard_at=found.last_seen_at)
        rows = [interface_row(found, interface, now, known.get(interface.pk)) for interface in interfaces]
        return {
            "row": server_row(found, counted, now, known),
            "snapshot": getattr(found, "snapshot", None),
            "last_day": _last_day(found),
            "boots": found.boots.all()[:10],
            "events": newest[:EVENTS_SHOWN],
            "groups": in_groups(rows),
            "names": [interface.name for interface in interfaces],
            "chosen": chosen.name if chosen else "",
            "counted": [interface.name for interface in counted],
            **(chart or drawn()),
        }

    def delete_model(self, request: HttpRequest, obj: Server) -> None:
        """Delete a server; what it reports meanwhile waits, and then finds that it is gone."""
        Snapshot.objects.select_for_update().filter(server=obj).first()
        super().delete_model(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Say what goes with a server in one line: its heartbeats are too many to list."""
        to_delete = [f"{server}, its keys, its interfaces and all that was measured" for server in objs]
        return to_delete, {}, set(), []


@admin.register(Interface)
class InterfaceAdmin(MeasuredAdmin):
    list_filter = (InterfaceKindFilter, "hidden")
    search_fields = ("name", "label", "mac", "server__id", "server__hostname", "server__display_name")
    list_per_page = 200
    fields = ("label", "chosen_kind", "counts_in_total", "hidden")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Interface]:
        return cast(InterfaceQuerySet, super().get_queryset(request)).with_revision().select_related("server__snapshot")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "counts_in_total":
            field.widget.choices = [("unknown", "by the rule"), ("true", "yes"), ("false", "no")]
            field.help_text = "By the rule, what rides on another interface does not count."
        if field is not None and db_field.name == "chosen_kind":
            field.widget.choices = [("", "as reported"), *Kind.choices]
            field.help_text = ""
        return field

    def has_delete_permission(self, request: HttpRequest, obj: Interface | None = None) -> bool:
        return False

    def rows(self, found: list[Interface], now: datetime) -> list[InterfaceRow]:
        return [interface_row(interface.server, interface, now) for interface in found]

    def page(self, request: HttpRequest, found: Interface, now: datetime) -> dict[str, Any]:
        show = request.GET.get("show", "")
        context = {
            "row": interface_row(found.server, found, now),
            "server": found.server,
            "state": found.server.state(now=now),
            "tabs": TABS,
            "show": show if show in TABS else "",
        }
        if show == "days":
            return {**context, "usage": tables.days(found, now)}
        if show == "months":
            return {**context, "usage": tables.months(found, now)}
        if show == "hours":
            return {**context, "heat": tables.heat(found, now)}
        seen = window(request, now)
        return {**context, **_drawn(found.server, [found], seen, _events_within(found.server, [found], seen))}


def _last_day(server: Server) -> list[str]:
    """Return the start and the end of the last day that the server was heard, as an address gives them."""
    end = server.last_seen_at
    return [(end - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (1, 0)] if end else []


def _events_within(server: Server, interfaces: Sequence[Interface], seen: Window) -> list[Event]:
    """Return the newest events of the server and of some of its interfaces within a window."""
    first, end = map(Event.first_number, (seen.start, seen.end))
    names = ["", *(interface.name for interface in interfaces)]
    of_server = Event.objects.filter(server=server, number__gte=first, number__lt=end, interface__in=names)
    return list(of_server.order_by("-number")[:EVENTS_READ])


def _drawn(server: Server, interfaces: Sequence[Interface], seen: Window, events: Sequence[Event]) -> dict[str, Any]:
    """Return the window, its series for a chart, with the events of these interfaces and the server, and its total."""
    step, zone = sensible_step(seen.start, seen.end), timezone.get_current_timezone()
    series = history.series(interfaces, seen.start, seen.end, step, zone, counters=("rx_bytes", "tx_bytes"))
    names = {"", *(interface.name for interface in interfaces)}
    drawn_events = [each for each in events if each.interface in names and seen.start <= each.at < seen.end]
    drawn = charted(series, drawn_events)
    if 0 < step.seconds < STEPS_WITH_RANGE * server.interval:
        drawn = drawn.without_ranges()
    covered = sum(series.covered_seconds) / (seen.end - seen.start).total_seconds()
    return {
        "window": seen,
        "series": drawn,
        "total": Total(series.total("rx_bytes"), series.total("tx_bytes"), min(covered, 1.0)),
    }
