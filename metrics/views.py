"""The API of metrics: check what came, ask one room, answer."""

from typing import Any, cast

from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from drf_standardized_errors.formatter import ExceptionFormatter
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics import history
from metrics.ingest import Receipt, Refused, Report, TooNew, TooOld, ingest, ingest_batch
from metrics.read_views import validated
from metrics.serializers import (
    BATCH_SCHEMA,
    HEARTBEAT_SCHEMA,
    REJECTED,
    AckSerializer,
    BatchAckSerializer,
    SparklineQuerySerializer,
    SparklineSerializer,
    heartbeats_of,
    parse_heartbeat,
)
from servers.models import ApiKey, KeyKind, Server
from servers.permissions import CanReport
from servers.throttling import ReportThrottle


class HeartbeatView(APIView):
    permission_classes = (CanReport,)
    throttle_classes = (ReportThrottle,)

    @extend_schema(
        operation_id="agents_heartbeat", request={"application/json": HEARTBEAT_SCHEMA}, responses=AckSerializer
    )
    def post(self, request: Request) -> JsonResponse:
        """Store one heartbeat of one agent. The answer is sent after it is on the hub's disk.

        With an `agent` key the server is the key's; a `shared` key registers a server that is not known yet.
        """
        now = timezone.now()
        key = cast(ApiKey, request.auth)
        try:
            receipt = ingest(_parse(request.data, key), may_register=key.kind == KeyKind.SHARED, now=now)
        except Refused as refused:
            raise _error(refused) from None
        return _answer(
            {
                "status": "ok",
                "server_registered": receipt.server_registered,
                "outcome": receipt.outcome,
                "server_time": now,
                "pending_commands": [],
                "results_acknowledged": [],
            }
        )


class HeartbeatBatchView(APIView):
    permission_classes = (CanReport,)
    throttle_classes = (ReportThrottle,)

    @extend_schema(
        operation_id="agents_heartbeats", request={"application/json": BATCH_SCHEMA}, responses=BatchAckSerializer
    )
    def post(self, request: Request) -> JsonResponse:
        """Store many heartbeats, such as an agent kept while the hub was away; oldest first is best.

        Each is taken or rejected alone, and `results` says what became of it. The answer is sent after all that are
        accepted are on the hub's disk.
        """
        now = timezone.now()
        key = cast(ApiKey, request.auth)
        parsed = [_parsed(item, key) for item in heartbeats_of(request.data)]
        reports = [report for report in parsed if isinstance(report, Report)]
        receipts = iter(ingest_batch(reports, may_register=key.kind == KeyKind.SHARED, now=now))
        results = [_result(next(receipts) if isinstance(each, Report) else each) for each in parsed]
        return _answer({"status": "ok", "results": results, "server_time": now})


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
        now = timezone.now()
        query = validated(request, SparklineQuerySerializer, now)
        points = history.sparkline(server_id, query["period"], query.get("interface"), now=now)
        if not points:
            get_object_or_404(Server, id=server_id)
        return Response(
            {
                "server_id": server_id,
                "metric": "network",
                "interface": query.get("interface"),
                "period": query["period"],
                "data": points,
            }
        )


def _answer(ack: dict[str, Any]) -> JsonResponse:
    """Return JSON as the other calls do, without what they spend on choosing a format."""
    return JsonResponse(ack, json_dumps_params={"separators": (",", ":")})


def _parse(body: Any, key: ApiKey) -> Report:
    report = parse_heartbeat(body)
    if key.kind == KeyKind.AGENT and key.server_id != report.server_id:
        raise PermissionDenied("This key writes another server.")
    return report


def _parsed(item: Any, key: ApiKey) -> Report | APIException:
    try:
        return _parse(item, key)
    except APIException as error:
        return error


def _error(refused: Refused) -> APIException:
    if isinstance(refused, TooOld):
        return ValidationError({"timestamp": f"The readings are {refused}."}, code="too_old")
    if isinstance(refused, TooNew):
        return ValidationError({"uptime": f"The readings are {refused}."}, code="too_new")
    return PermissionDenied("This key may not register a server.")


def _result(result: Receipt | Refused | APIException) -> dict[str, Any]:
    if isinstance(result, Receipt):
        return {"outcome": result.outcome}
    error = _error(result) if isinstance(result, Refused) else result
    return {"outcome": REJECTED, "error": ExceptionFormatter(error, cast(Any, {}), error).run()}
