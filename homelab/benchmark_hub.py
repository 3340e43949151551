"""The URLs of the hub that the benchmark measures: its own, and the baselines of the same run."""

import json
from typing import Any

from django.db import models, transaction
from django.urls import path
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from homelab.urls import handler400, handler403, handler404, handler500, urlpatterns  # noqa: F401 - Django reads them
from metrics.counters import COUNTERS
from servers.models import Server, Snapshot
from servers.permissions import CanReport


class BaselineReading(models.Model):
    """The usual schema: a row per reading, found by server and time, and by interface and time."""

    server_id = models.CharField(max_length=100)
    interface = models.CharField(max_length=64)
    at = models.DateTimeField()
    rx_bytes = models.BigIntegerField()
    tx_bytes = models.BigIntegerField()
    rx_packets = models.BigIntegerField()
    tx_packets = models.BigIntegerField()
    rx_errors = models.BigIntegerField(null=True)
    tx_errors = models.BigIntegerField(null=True)
    rx_dropped = models.BigIntegerField(null=True)
    tx_dropped = models.BigIntegerField(null=True)
    is_up = models.BooleanField()

    objects: "models.Manager[BaselineReading]" = models.Manager()

    class Meta:
        app_label = "homelab"
        indexes = [
            models.Index(fields=["server_id", "at"], name="baseline_server_at"),
            models.Index(fields=["server_id", "interface", "at"], name="baseline_interface_at"),
        ]

    def __str__(self) -> str:
        return f"{self.server_id} {self.interface} {self.at}"


class BaselineInterfaceSerializer(serializers.ModelSerializer[BaselineReading]):
    name = serializers.CharField(max_length=64)

    class Meta:
        model = BaselineReading
        fields = ("name", *COUNTERS, "is_up")


class BaselineHeartbeatSerializer(serializers.Serializer[Any]):
    server_id = serializers.RegexField(r"^[a-z0-9-]{1,100}$")
    hostname = serializers.CharField(max_length=255)
    timestamp = serializers.DateTimeField()
    network_interfaces = BaselineInterfaceSerializer(many=True)


class BaselineView(APIView):
    """The same call as it is usually written: nested serializers, a row a reading, the latest beside the server."""

    permission_classes = (CanReport,)

    def post(self, request: Request) -> Response:
        serializer = BaselineHeartbeatSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        report = serializer.validated_data
        now = timezone.now()
        latest = json.loads(json.dumps(report["network_interfaces"]))
        rows = [
            BaselineReading(
                server_id=report["server_id"], interface=interface.pop("name"), at=report["timestamp"], **interface
            )
            for interface in report["network_interfaces"]
        ]
        with transaction.atomic():
            server, registered = Server.objects.get_or_create(
                id=report["server_id"], defaults={"hostname": report["hostname"]}
            )
            BaselineReading.objects.bulk_create(rows)
            Snapshot.objects.update_or_create(
                server=server,
                defaults={"last_seen_at": now, "collected_at": report["timestamp"], "network_interfaces": latest},
            )
        return Response({"status": "ok", "server_registered": registered, "server_time": now})


class BareView(APIView):
    """What any authenticated call costs before it does anything."""

    def get(self, request: Request) -> Response:
        return Response({"status": "ok"})


urlpatterns = [
    path("baseline/heartbeat", BaselineView.as_view()),
    path("baseline/bare", BareView.as_view()),
    *urlpatterns,
]
