"""What the API says of a server."""

from datetime import datetime
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from servers.models import SERVER_ID, Server, State


def _printable(text: str) -> None:
    if not text.isprintable():
        raise serializers.ValidationError("May not contain control characters.")


def _version_4(guid: UUID) -> None:
    if guid.version != 4:
        raise serializers.ValidationError("A UUID of version 4 is required.")


class OsInfoSerializer(serializers.Serializer[Any]):
    distribution = serializers.CharField(allow_blank=True)
    version = serializers.CharField(allow_blank=True)
    kernel = serializers.CharField(allow_blank=True)
    architecture = serializers.CharField(allow_blank=True)


class NetworkInterfaceSerializer(serializers.Serializer[Any]):
    """One interface as last reported: counters since its boot, and bytes per second since the reading before."""

    name = serializers.CharField()
    rx_bytes = serializers.IntegerField()
    tx_bytes = serializers.IntegerField()
    rx_packets = serializers.IntegerField()
    tx_packets = serializers.IntegerField()
    is_up = serializers.BooleanField()
    rx_rate = serializers.FloatField(allow_null=True)
    tx_rate = serializers.FloatField(allow_null=True)
    rx_errors = serializers.IntegerField(allow_null=True)
    tx_errors = serializers.IntegerField(allow_null=True)
    rx_dropped = serializers.IntegerField(allow_null=True)
    tx_dropped = serializers.IntegerField(allow_null=True)
    operstate = serializers.CharField(allow_null=True)
    speed_mbps = serializers.IntegerField(allow_null=True)
    mtu = serializers.IntegerField(allow_null=True)
    mac = serializers.CharField(allow_null=True)
    ifindex = serializers.IntegerField(allow_null=True)
    kind = serializers.CharField(allow_null=True)
    master = serializers.CharField(allow_null=True)
    carrier_changes = serializers.IntegerField(allow_null=True)
    addresses = serializers.ListField(child=serializers.CharField())

    def to_representation(self, instance: dict[str, Any]) -> dict[str, Any]:
        return {str(name): instance.get(str(name), [] if name == "addresses" else None) for name in self.fields}


_interface = NetworkInterfaceSerializer()  # once: to make its fields for each server takes half the time of a list


class ServerSerializer(serializers.ModelSerializer[Server]):
    """A server and its latest state. Needs `now` in the context."""

    state = serializers.SerializerMethodField()
    os_info = OsInfoSerializer(read_only=True)
    last_seen_at = serializers.SerializerMethodField()
    clock_skew_seconds = serializers.SerializerMethodField()
    agent_version = serializers.SerializerMethodField()
    uptime_seconds = serializers.SerializerMethodField()
    network_interfaces = serializers.SerializerMethodField()

    class Meta:
        model = Server
        fields = (
            "id", "guid", "hostname", "display_name", "state", "last_seen_at", "os_info", "agent_version", "interval",
            "uptime_seconds", "clock_skew_seconds", "created_at", "network_interfaces",
        )  # fmt: skip

    def get_state(self, server: Server) -> State:
        return server.state(now=self.context["now"])

    def get_last_seen_at(self, server: Server) -> datetime | None:
        return server.last_seen_at

    def get_clock_skew_seconds(self, server: Server) -> float | None:
        return _latest(server, "clock_skew_seconds")

    def get_agent_version(self, server: Server) -> str:
        return _latest(server, "agent_version") or ""

    def get_uptime_seconds(self, server: Server) -> float | None:
        return _latest(server, "uptime_seconds")

    @extend_schema_field(NetworkInterfaceSerializer(many=True))
    def get_network_interfaces(self, server: Server) -> Any:
        return [_interface.to_representation(each) for each in _latest(server, "network_interfaces") or ()]


class _OnlyText:
    """For a field of text: a number is not text, though it could be written as one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Text is required.", code="invalid")
        return super().to_internal_value(data)  # type: ignore[misc]


class ServerIdField(_OnlyText, serializers.RegexField):
    pass


class TextField(_OnlyText, serializers.CharField):
    pass


class EnrolmentSerializer(serializers.Serializer[Any]):
    server_id = ServerIdField(SERVER_ID, trim_whitespace=False)
    hostname = TextField(min_length=1, max_length=255, validators=[_printable])
    server_guid = serializers.UUIDField(
        required=False,
        allow_null=True,
        validators=[_version_4],
        help_text="The machine's own: it is known by it when it enrols again.",
    )


class EnrolledSerializer(serializers.Serializer[Any]):
    server_id = serializers.CharField()
    key = serializers.CharField(help_text="The agent's own key. It is shown only now.")


class ServerListSerializer(serializers.Serializer[Any]):
    servers = ServerSerializer(many=True)
    total = serializers.IntegerField()


def _latest(server: Server, name: str) -> Any:
    snapshot = getattr(server, "snapshot", None)
    return getattr(snapshot, name) if snapshot else None
