"""The events over the API: filtered, newest first, page by page."""

import re
from datetime import datetime
from typing import Any

import django_filters
from django import forms
from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from metrics.changes import ChangeKind
from metrics.models import Event
from metrics.periods import PeriodError, parse_instant
from metrics.read_serializers import refuse
from servers.models import Server

KINDS = [(kind.value, kind.value) for kind in ChangeKind]


class InstantField(forms.CharField):
    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        try:
            return parse_instant(text, now=timezone.now()) if value is not None else None
        except PeriodError as error:
            raise forms.ValidationError(str(error), code="invalid") from None


class InstantFilter(django_filters.Filter):
    field_class = InstantField


class KindFilter(django_filters.MultipleChoiceFilter):
    def __init__(self, **options: Any) -> None:
        wrong = f"One of {', '.join(ChangeKind)}."
        super().__init__(choices=KINDS, error_messages={"invalid_choice": wrong}, **options)


CURSOR = "([0-9]{1,18})-([a-z0-9-]{1,100})"
SINCE = "Only from this instant on: ISO 8601 with its zone, or `now-24h`."


class EventFilter(django_filters.FilterSet):
    server = django_filters.CharFilter(method="of_server", label="Only of this server.")
    interface = django_filters.CharFilter(
        field_name="interface", max_length=64, strip=False, label="Only of interfaces of this name."
    )
    kind = KindFilter(field_name="kind", label="Only of this kind; may be repeated.")
    since = extend_schema_field({"type": "string", "description": SINCE})(InstantFilter)(method="from_instant")

    class Meta:
        model = Event
        fields = ()

    def of_server(self, events: QuerySet[Event], name: str, value: str) -> QuerySet[Event]:
        return events.filter(server=get_object_or_404(Server, id=value))

    def from_instant(self, events: QuerySet[Event], name: str, value: datetime) -> QuerySet[Event]:
        return events.filter(number__gte=Event.first_number(value))


class EventSerializer(serializers.ModelSerializer[Event]):
    id = serializers.CharField(help_text="Unique; as `cursor` it asks for the events before this one.")
    server_id = serializers.CharField()
    interface = serializers.SerializerMethodField(help_text="null where it is the server's")
    before = serializers.SerializerMethodField(help_text="A state, a number or a boot, as text")
    after = serializers.SerializerMethodField()

    class Meta:
        model = Event
        fields = ("id", "server_id", "interface", "kind", "at", "before", "after")

    def get_interface(self, event: Event) -> str | None:
        return event.interface or None

    def get_before(self, event: Event) -> str | None:
        return event.before or None

    def get_after(self, event: Event) -> str | None:
        return event.after or None


class EventPagination(BasePagination):
    """Pages by the last event seen, so that new events move nothing."""

    default_limit = 100
    most = 1000
    after: str | None
    url: str

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        limit = self._limit(request)
        cursor = request.query_params.get("cursor")
        if cursor is not None:
            number, server_id = self._position(cursor)
            queryset = queryset.filter(Q(number__lt=number) | Q(number=number, server__lt=server_id))
        found = list(queryset[: limit + 1])
        self.url = request.build_absolute_uri()
        self.after = found[limit - 1].id if len(found) > limit else None
        return found[:limit]

    def get_paginated_response(self, data: Any) -> Response:
        following = replace_query_param(self.url, "cursor", self.after) if self.after else None
        return Response({"results": data, "next": following})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        following = {
            "type": "string",
            "format": "uri",
            "nullable": True,
            "description": "The next page; null: none.",
            "example": "https://hub.example/api/v1/events?cursor=3629138374656000-nas-01",
        }
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {"results": schema, "next": following},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": self.most, "default": self.default_limit}
        cursor = {"type": "string", "pattern": f"^{CURSOR}$"}
        return [
            {"name": "limit", "in": "query", "schema": limit, "description": "How many events a page holds at most."},
            {"name": "cursor", "in": "query", "schema": cursor, "description": "The id of the last one."},
        ]

    def _limit(self, request: Request) -> int:
        text = request.query_params.get("limit", str(self.default_limit))
        limit = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
        if not 1 <= limit <= self.most:
            raise refuse("limit", f"A number from 1 to {self.most}.")
        return limit

    def _position(self, cursor: str) -> tuple[int, str]:
        match = re.fullmatch(CURSOR, cursor)
        if match is None:
            raise refuse("cursor", "The id of an event, or what `next` says.")
        return int(match[1]), match[2]


class EventListView(ListAPIView[Event]):
    queryset = Event.objects.all()
    serializer_class = EventSerializer
    filter_backends = (DjangoFilterBackend,)
    filterset_class = EventFilter
    pagination_class = EventPagination

    @extend_schema(operation_id="events_list")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List what changed: links, speeds, resets, reboots, interfaces that came and went; newest first.

        An event is found by comparing a heartbeat with the one before, so that it happened between the two. `next` is
        the URL of the page that follows. `before` and `after` are states of the link, Mbit/s, counters, indexes of the
        interface or boots, by the kind.
        """
        return super().get(request, *args, **kwargs)
