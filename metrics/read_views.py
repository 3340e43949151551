"""The reading API: check what was asked, ask history, answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.http import parse_etags
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import NotFound
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics import history, memory
from metrics.models import Interface
from metrics.periods import RAW, edges
from metrics.read_serializers import (
    MOST_POINTS,
    MOST_ROWS,
    P95_DEFAULT_DAYS,
    P95_MOST_DAYS,
    PERIODS,
    TOO_MANY_POINTS,
    HistoryQuerySerializer,
    HistorySerializer,
    InterfaceListSerializer,
    InterfaceSerializer,
    TopQuerySerializer,
    TopSerializer,
    UsageQuerySerializer,
    UsageSerializer,
    ZoneQuerySerializer,
    refuse,
)
from servers.models import DEFAULT_INTERVAL, Server, Snapshot, State
from servers.serializers import NetworkInterfaceSerializer

POINTS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_rate", "tx_rate", "rx_peak", "tx_peak",
    "covered_seconds", "marks",
)  # fmt: skip
TOTALS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "covered_seconds", "resets")

SERVER_ID = OpenApiParameter("server_id", str, OpenApiParameter.PATH, description="The server's id.")
NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="The interface's name, percent-encoded.")

Item = TypeVar("Item")


class HistoryView(APIView):
    @extend_schema(
        operation_id="metrics_history", parameters=[HistoryQuerySerializer, SERVER_ID], responses=HistorySerializer
    )
    def get(self, request: Request, server_id: str) -> HttpResponse:
        """Return what passed one interface, or the server's total, in buckets of a step.

        Columnar: one list a column, one value a point. Increases in bytes and packets; rates and peaks in bytes per
        second; null where nothing is known. The parts of any partition add up to the whole exactly. A window that
        lies wholly in the past has an ETag.
        """
        now = timezone.now()
        query = validated(request, HistoryQuerySerializer, now)
        interfaces = interfaces_of(server_id, query.get("interface"))
        start, end, step, zone = query["start"], query["end"], query["step"], query["tz"]
        interval = interfaces[0].server.interval if interfaces else DEFAULT_INTERVAL
        if step == RAW and (end - start).total_seconds() > MOST_POINTS * interval:
            raise refuse("step", TOO_MANY_POINTS, "too_many")
        etag = f'W/"{history.fingerprint(interfaces, start, end)}{step}{zone.key}"' if end < now else None
        if etag is not None and etag in parse_etags(request.headers.get("If-None-Match", "")):
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"} if etag else None
        kept: bytes | None = memory.recall(("answer", etag), 0) if etag else None
        if kept is not None:
            return HttpResponse(kept, content_type="application/json", headers=headers)

        series = history.series(interfaces, start, end, step, zone)
        if len(series.start) > MOST_POINTS:
            raise refuse("step", TOO_MANY_POINTS, "too_many")
        answer = {
            "server_id": server_id,
            "interface": query.get("interface"),
            "start": _local(start, zone),
            "end": _local(end, zone),
            "step": str(step),
            "tz": zone.key,
            "points": {
                "start": [_text(start, zone) for start in series.start],
                **{name: getattr(series, name) for name in POINTS},
            },
            "total": {name: series.total(name) for name in TOTALS},
        }
        rendered = JSONRenderer().render(answer)
        if etag:
            memory.keep(("answer", etag), 0, rendered, rows=len(rendered) // 50)
        return HttpResponse(rendered, content_type="application/json", headers=headers)


class UsageView(APIView):
    @extend_schema(operation_id="metrics_usage", parameters=[UsageQuerySerializer], responses=UsageSerializer)
    def get(self, request: Request) -> Response:
        """Return the exact bytes of each day, month or billing month, by interface or by server.

        Without `start`, of the current period only: this day, or this month. `resets` counts how often a counter
        restarted, which is when bytes may be missing; `covered_seconds` says of how much time something is known.
        """
        query = validated(request, UsageQuerySerializer, timezone.now())
        start, end, zone, anchor_day = query["start"], query["end"], query["tz"], query.get("billing_day", 1)
        step, by_server = PERIODS[query["period"]], query["by"] == "server"
        servers = servers_of(query)
        interfaces = history.fleet(servers, query.get("interface"), by_server=by_server)
        if "server" in query and "interface" in query and not interfaces:
            raise NotFound("The server has no such interface.")
        periods = len(edges(start, end, step, zone, anchor_day=anchor_day)) - 1
        groups = len({interface.server_id for interface in interfaces}) if by_server else len(interfaces)
        if groups * periods > MOST_ROWS:
            raise refuse("period", f"This makes more than {MOST_ROWS} rows. Ask for less.", "too_many")
        days = len(interfaces) * (end - start).total_seconds() / 86_400
        wants_p95 = query.get("p95")
        if wants_p95 and days > P95_MOST_DAYS:
            raise refuse("p95", f"At most {P95_MOST_DAYS} days times interfaces. Ask for less.", "too_many")
        rows = history.usage(
            interfaces,
            start,
            end,
            step,
            zone,
            by_server=by_server,
            anchor_day=anchor_day,
            with_percentile=days <= P95_DEFAULT_DAYS if wants_p95 is None else wants_p95,
        )
        local = [row._replace(start=_local(row.start, zone), end=_local(row.end, zone))._asdict() for row in rows]
        return Response({"by": query["by"], "period": query["period"], "tz": zone.key, "rows": local})


class TopView(APIView):
    @extend_schema(operation_id="metrics_top", parameters=[TopQuerySerializer], responses=TopSerializer)
    def get(self, request: Request) -> Response:
        """Rank the interfaces of all servers by the bytes that passed them, both ways together, in a window."""
        now = timezone.now()
        query = validated(request, TopQuerySerializer, now)
        start, end = query["start"], query["end"]
        rows = history.fleet_top(start, end, now=now, limit=query["limit"])
        return Response({"start": start, "end": end, "rows": [row._asdict() for row in rows]})


class InterfaceListView(APIView):
    @extend_schema(
        operation_id="interfaces_list", parameters=[ZoneQuerySerializer, SERVER_ID], responses=InterfaceListSerializer
    )
    def get(self, request: Request, server_id: str) -> Response:
        """List the interfaces of a server: what they are, their latest readings, rates and totals."""
        now = timezone.now()
        server = get_object_or_404(Server.objects.with_snapshot(), id=server_id)
        found = list(Interface.objects.filter(server=server))
        rows = _described(server, found, request, now)
        return Response({"server_id": server.id, "interfaces": rows, "total": len(rows)})


class InterfaceDetailView(APIView):
    @extend_schema(
        operation_id="interfaces_retrieve",
        parameters=[ZoneQuerySerializer, SERVER_ID, NAME],
        responses=InterfaceSerializer,
    )
    def get(self, request: Request, server_id: str, name: str) -> Response:
        """Return one interface of a server: what it is, its latest reading, its rates and totals."""
        now = timezone.now()
        server = get_object_or_404(Server.objects.with_snapshot(), id=server_id)
        # The path as it came: a name may end in the slash that the API takes off its own paths.
        names = [request.path.partition("/interfaces/")[2], name]
        found = {interface.name: interface for interface in Interface.objects.filter(server=server, name__in=names)}
        interface = next((found[name] for name in names if name in found), None)
        if interface is None:
            raise NotFound("The server has no such interface.")
        return Response(_described(server, [interface], request, now)[0])


def validated(request: Request, serializer_class: type[serializers.Serializer[Any]], now: datetime) -> dict[str, Any]:
    """Return the query parameters, checked. Raises ValidationError, which names them."""
    serializer = serializer_class(data=request.query_params, context={"now": now})
    for name, value in request.query_params.items():
        if value == "" and name in serializer.fields:
            raise refuse(name, "Is empty; leave it out instead.", "blank")
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


def interfaces_of(server_id: str, name: str | None) -> list[Interface]:
    """Return the named interface, or those of the server's total, with their server. Raises Http404 and NotFound."""
    if name is None:
        return history.interfaces_of(get_object_or_404(Server, id=server_id).pk)
    interfaces = history.interfaces_of(server_id, name)
    if not interfaces:
        get_object_or_404(Server, id=server_id)
        raise NotFound("The server has no such interface.")
    return interfaces


def servers_of(query: dict[str, Any]) -> list[Server]:
    """Return the server that was asked for, or all. Raises Http404."""
    return [get_object_or_404(Server, id=query["server"])] if "server" in query else list(Server.objects.all())


def _described(server: Server, interfaces: Sequence[Interface], request: Request, now: datetime) -> list[Any]:
    zone = validated(request, ZoneQuerySerializer, now).get("tz", timezone.get_default_timezone())
    totals = history.totals(interfaces, zone, now=now)
    counted = {interface.pk for interface in history.interfaces_of(server.pk)}
    snapshot: Snapshot | None = getattr(server, "snapshot", None)
    is_now = server.state(now=now) == State.ONLINE
    rows = []
    for interface in interfaces:
        latest = snapshot.interface(interface.name) if snapshot else None
        rows.append(
            {
                **{name: getattr(interface, name) for name in IDENTITY},
                "kind": interface.effective_kind,
                "counts_in_total": interface.pk in counted,
                "last_seen_at": snapshot.interfaces_at if latest and snapshot else interface.last_seen_at,
                "latest": _latest(latest, snapshot) if latest and snapshot else None,
                "rx_rate": latest["rx_rate"] if latest and is_now else None,
                "tx_rate": latest["tx_rate"] if latest and is_now else None,
                "totals": {name: passed._asdict() for name, passed in totals[interface.pk].items()},
            }
        )
    return rows


IDENTITY = (
    "server_id", "name", "label", "mac", "master", "speed_mbps", "best_speed_mbps", "hidden", "first_seen_at",
)  # fmt: skip


def _latest(latest: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    return {**NetworkInterfaceSerializer(latest).data, "at": snapshot.interfaces_at}


def _local(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone)


def _text(instant: datetime, zone: ZoneInfo) -> str:
    """Return an instant as the renderer writes it, which takes its time over each of thousands."""
    return instant.astimezone(zone).isoformat().replace("+00:00", "Z")
