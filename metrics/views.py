"""The API of metrics: check what came, ask one room, answer."""

from typing import Any, cast

from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics import history
from metrics.ingest import TooOld, UnknownServer, ingest
from metrics.serializers import (
    HEARTBEAT_SCHEMA,
    AckSerializer,
    SparklineQuerySerializer,
    SparklineSerializer,
    parse_heartbeat,
)
from servers.models import ApiKey, KeyKind, Server
from servers.permissions import CanReport


class HeartbeatView(APIView):
    permission_classes = (CanReport,)

    @extend_schema(
        operation_id="agents_heartbeat", request={"application/json": HEARTBEAT_SCHEMA}, responses=AckSerializer
    )
    def post(self, request: Request) -> Response:
        """Store one heartbeat of one agent. The answer is sent after it is on the hub's disk.

        With an `agent` key the server is the key's; a `shared` key registers a server that is not known yet.
        """
        now = timezone.now()
        report = parse_heartbeat(request.data)
        key = cast(ApiKey, request.auth)
        if key.kind == KeyKind.AGENT and key.server_id != report.server_id:
            raise PermissionDenied("This key writes another server.")
        try:
            receipt = ingest(report, may_register=key.kind == KeyKind.SHARED, now=now)
        except TooOld as error:
            raise ValidationError({"timestamp": f"The readings are {error}."}, code="too_old") from None
        except UnknownServer:
            raise PermissionDenied("This key may not register a server.") from None
        return Response(
            {
                "status": "ok",
                "server_registered": receipt.server_registered,
                "outcome": receipt.outcome,
                "server_time": now,
                "pending_commands": [],
                "results_acknowledged": [],
            }
        )


class SparklineView(APIView):
    @extend_schema(
        operation_id="metrics_sparkline",
        parameters=[
            SparklineQuerySerializer,
            OpenApiParameter("server_id", str, OpenApiParameter.PATH, description="The server's id."),
        ],
        responses=SparklineSerializer,
    )
    def get(self, request: Request, server_id: str) -> Response:
        """Return at most 60 points of one interface, oldest first; without `interface`, of the server's total.

        `rx_bytes` and `tx_bytes` are the counters at that instant, the rates bytes per second since the point before,
        null after a gap or a reset.
        """
        server = get_object_or_404(Server, id=server_id)
        query = _query(request, SparklineQuerySerializer)
        points = history.sparkline(server, query["period"], query.get("interface"), now=timezone.now())
        return Response(
            {
                "server_id": server.id,
                "metric": "network",
                "interface": query.get("interface"),
                "period": query["period"],
                "data": points,
            }
        )


def _query(request: Request, serializer_class: type[SparklineQuerySerializer]) -> dict[str, Any]:
    serializer = serializer_class(data=request.query_params)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data
