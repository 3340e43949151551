"""The wire: what the agents and the readers send, checked, with the field named when it is wrong.

A heartbeat is checked by hand: it is the hot path, and the general machinery takes longer than storing it.
"""

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from metrics.counters import COUNTERS, REQUIRED
from metrics.history import SPARKLINE_PERIODS
from metrics.ingest import Outcome, Report
from metrics.models import Kind
from servers.models import SERVER_ID

MAX_COUNTER = 2**63 - 1
MAX_INTERFACES = 256
MAX_HEARTBEATS = 500
SENT_BEFORE_SECONDS = 1.0  # rounding; more is no clock
OPERSTATES = ("up", "down", "unknown", "dormant", "lowerlayerdown", "notpresent", "testing")
REJECTED = "rejected"  # the outcome of a heartbeat of a batch that is refused, beside those of ingest
OS_INFO = ("distribution", "version", "kernel", "architecture")
AGENT_STATS = ("spooled", "sent", "rejected", "dropped")
LARGEST_UPTIME = 10**10  # seconds
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)


class Invalid(ValueError):
    def __init__(self, detail: str, code: str = "invalid") -> None:
        self.error = ErrorDetail(detail, code)


Check = Callable[[Any], Any]


def parse_heartbeat(body: Any) -> Report:
    """Return the validated report of a heartbeat's JSON body; unknown fields are ignored.

    Raises ValidationError, which names every field that is wrong and never repeats its value.
    """
    if not isinstance(body, dict):
        raise ValidationError("A heartbeat is a JSON object.")
    errors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, check in _HEARTBEAT_REQUIRED.items():
        if name not in body:
            errors[name] = [ErrorDetail("This field is required.", "required")]
        else:
            _check(body, name, check, values, errors)
    for name, check in _HEARTBEAT_OPTIONAL.items():
        if body.get(name) is not None:
            _check(body, name, check, values, errors)
    if "network_interfaces" in body:
        try:
            values["network_interfaces"] = _interfaces(body["network_interfaces"])
        except Invalid as wrong:
            errors["network_interfaces"] = [wrong.error]
        except ValidationError as wrong:
            errors["network_interfaces"] = wrong.detail
    uptime_by_metrics = values.pop("metrics", None)
    if values.get("uptime") is None:
        values["uptime"] = uptime_by_metrics
    if values.get("sent_uptime", LARGEST_UPTIME) < (values["uptime"] or 0) - SENT_BEFORE_SECONDS:
        errors["sent_uptime"] = [ErrorDetail("At least the uptime at collection.", "min_value")]
    if errors:
        raise ValidationError(errors)
    return Report(**values)


def heartbeats_of(body: Any) -> list[Any]:
    """Return the heartbeats of a batch's JSON body, each still to be parsed alone. Raises ValidationError."""
    items = body.get("heartbeats") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise ValidationError({"heartbeats": "A list of heartbeats is required."}, "not_a_list")
    if len(items) > MAX_HEARTBEATS:
        raise ValidationError({"heartbeats": f"At most {MAX_HEARTBEATS} heartbeats."}, "max_length")
    return items


def _check(body: dict[str, Any], name: str, check: Check, values: dict[str, Any], errors: dict[str, Any]) -> None:
    try:
        values[name] = check(body[name])
    except Invalid as wrong:
        errors[name] = [wrong.error]


def _interfaces(items: Any) -> list[dict[str, Any]]:
    if not isinstance(items, list):
        raise Invalid("Expected a list of interfaces.", "not_a_list")
    if len(items) > MAX_INTERFACES:
        raise Invalid(f"At most {MAX_INTERFACES} interfaces.", "max_length")
    errors: list[Any] = []
    interfaces: list[dict[str, Any]] = []
    names: set[str] = set()
    for item in items:
        interface, wrong = _interface(item)
        name = interface.get("name")
        if name in names:
            wrong = {**wrong, "name": [ErrorDetail("This name is in the list twice.", "unique")]}
        elif name is not None:
            names.add(name)
        interfaces.append(interface)
        errors.append(wrong)
    if any(errors):
        raise ValidationError(errors)
    return interfaces


def _interface(item: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if type(item) is not dict:
        return {}, {"non_field_errors": [ErrorDetail("Expected an object.", "invalid")]}
    interface: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name, check in _INTERFACE_REQUIRED.items():
        if name not in item:
            errors[name] = [ErrorDetail("This field is required.", "required")]
        else:
            _check(item, name, check, interface, errors)
    for name, check in _INTERFACE_OPTIONAL.items():
        if item.get(name) is not None:
            _check(item, name, check, interface, errors)
    if interface.get("speed_mbps", 1) <= 0:
        del interface["speed_mbps"]  # the kernel says -1 or 0 for "not known"
    return interface, errors


def _integer(smallest: int, largest: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int:
            raise Invalid("A whole number is required.")
        if value < smallest:
            raise Invalid(f"At least {smallest}.", "min_value")
        if value > largest:
            raise Invalid(f"At most {largest}.", "max_value")
        return value

    return check


def _number(smallest: float, largest: float) -> Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or value != value:  # NaN
            raise Invalid("A number is required.")
        if not smallest <= value <= largest:
            raise Invalid(f"Between {smallest:g} and {largest:g}.", "min_value" if value < smallest else "max_value")
        return value

    return check


def _text(smallest: int, largest: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str:
            raise Invalid("Text is required.")
        if len(value) < smallest or (smallest and value.isspace()):
            raise Invalid("May not be blank.", "blank")
        if len(value) > largest:
            raise Invalid(f"At most {largest} characters.", "max_length")
        if not value.isprintable():
            raise Invalid("May not contain control characters.")
        return value

    return check


def _choice(choices: tuple[str, ...]) -> Check:
    allowed = frozenset(choices)

    def check(value: Any) -> str:
        if type(value) is not str or value not in allowed:
            raise Invalid(f"One of {', '.join(choices)}.", "invalid_choice")
        return value

    return check


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Invalid("true or false is required.")
    return value


def _server_id(value: Any) -> str:
    if type(value) is not str or not re.match(SERVER_ID, value):
        raise Invalid("1 to 100 lower-case letters, digits and hyphens.")
    return value


def _guid(value: Any) -> UUID:
    try:
        guid = UUID(value) if type(value) is str else None
    except ValueError:
        guid = None
    if guid is None or guid.version != 4:
        raise Invalid("A UUID of version 4 is required.")
    return guid


def _timestamp(value: Any) -> datetime:
    try:
        instant = datetime.fromisoformat(value) if type(value) is str and len(value) <= 40 else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise Invalid("An ISO 8601 date and time with its zone is required.")
    try:
        instant = instant.astimezone(UTC)
    except OverflowError:
        raise Invalid("Not a date of our time.") from None
    if not EARLIEST <= instant < LATEST:
        raise Invalid("Not a date of our time.")
    return instant


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise Invalid("An object is required.", "not_a_dict")
    return value


def _os_info(value: Any) -> dict[str, str]:
    check = _text(0, 255)
    return {name: check(_object(value)[name]) for name in OS_INFO if _object(value).get(name) is not None}


def _agent_stats(value: Any) -> dict[str, float]:
    check = _number(0, MAX_COUNTER)
    return {name: check(_object(value)[name]) for name in AGENT_STATS if _object(value).get(name) is not None}


def _metrics_uptime(value: Any) -> float | None:
    uptime = _object(value).get("uptime_seconds")
    return _uptime(uptime) if uptime is not None else None


def _addresses(value: Any) -> list[str]:
    if type(value) is not list or len(value) > 64:
        raise Invalid("A list of at most 64 addresses is required.")
    return [_text(1, 64)(address) for address in value]


_uptime = _number(0, LARGEST_UPTIME)
_counter = _integer(0, MAX_COUNTER)

_HEARTBEAT_REQUIRED: dict[str, Check] = {
    "server_id": _server_id,
    "hostname": _text(1, 255),
    "timestamp": _timestamp,
}
_HEARTBEAT_OPTIONAL: dict[str, Check] = {
    "server_guid": _guid,
    "agent_version": _text(0, 64),
    "os_info": _os_info,
    "metrics": _metrics_uptime,
    "boot_id": _text(0, 64),
    "uptime": _uptime,
    "sent_uptime": _uptime,
    "interval": _number(1, 86_400),
    "agent_stats": _agent_stats,
}
_INTERFACE_REQUIRED: dict[str, Check] = {
    "name": _text(1, 64),
    **dict.fromkeys(REQUIRED, _counter),
    "is_up": _boolean,
}
_INTERFACE_OPTIONAL: dict[str, Check] = {
    **dict.fromkeys(COUNTERS[4:], _counter),
    "operstate": _choice(OPERSTATES),
    "speed_mbps": _integer(-1, 10**9),
    "mtu": _integer(0, 2**32),
    "mac": _text(0, 64),
    "ifindex": _integer(0, 2**31),
    "kind": _choice(tuple(Kind.values)),
    "master": _text(0, 64),
    "carrier_changes": _counter,
    "addresses": _addresses,
}


class AckSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="ok")
    server_registered = serializers.BooleanField(help_text="True once: this heartbeat made the server known.")
    outcome = serializers.ChoiceField(choices=Outcome.choices)
    server_time = serializers.DateTimeField()
    pending_commands = serializers.ListField(child=serializers.JSONField(), help_text="Always empty.")
    results_acknowledged = serializers.ListField(child=serializers.JSONField(), help_text="Always empty.")


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()
    attr = serializers.CharField(allow_null=True, help_text="The field that is wrong, as a path of dots.")


class RefusalSerializer(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="validation_error, client_error or server_error")

    def get_fields(self) -> dict[str, Any]:
        # `errors` is an attribute of every serializer, so the field is declared here.
        return {**super().get_fields(), "errors": ErrorSerializer(many=True)}


class ResultSerializer(serializers.Serializer[Any]):
    outcome = serializers.ChoiceField(choices=[*Outcome.values, REJECTED])
    error = RefusalSerializer(required=False, help_text="Why it was rejected: sent again, it will be again.")


class BatchAckSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="ok")
    results = ResultSerializer(many=True, help_text="One for each heartbeat, in order.")
    server_time = serializers.DateTimeField()


class SparklineQuerySerializer(serializers.Serializer[Any]):
    period = serializers.ChoiceField(
        choices=list(SPARKLINE_PERIODS),
        default="1h",
        error_messages={"invalid_choice": f"One of {', '.join(SPARKLINE_PERIODS)}."},
    )
    interface = serializers.CharField(
        required=False, max_length=64, trim_whitespace=False, help_text="Without it: the server's total."
    )


class SparklinePointSerializer(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField()
    rx_bytes = serializers.IntegerField()
    tx_bytes = serializers.IntegerField()
    rx_rate = serializers.FloatField(allow_null=True)
    tx_rate = serializers.FloatField(allow_null=True)


class SparklineSerializer(serializers.Serializer[Any]):
    server_id = serializers.CharField()
    metric = serializers.CharField()
    interface = serializers.CharField(allow_null=True)
    period = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        # `data` is an attribute of every serializer, so the field is declared here.
        return {**super().get_fields(), "data": SparklinePointSerializer(many=True)}


def _nullable(properties: dict[str, Any], required: Collection[str] = ()) -> dict[str, Any]:
    """Return the properties with those that may be null, which is as if they were not there, marked so."""
    return {name: rules if name in required else _or_null(rules) for name, rules in properties.items()}


def _or_null(rules: dict[str, Any]) -> dict[str, Any]:
    choices = {"enum": [*rules["enum"], None]} if "enum" in rules else {}
    return {**rules, **choices, "nullable": True}


_COUNTER_SCHEMA = {"type": "integer", "minimum": 0, "maximum": MAX_COUNTER}
_UPTIME_SCHEMA = {"type": "number", "minimum": 0, "maximum": LARGEST_UPTIME}
_STAT_SCHEMA = {"type": "number", "minimum": 0, "maximum": MAX_COUNTER}
INTERFACE_SCHEMA = {
    "type": "object",
    "required": list(_INTERFACE_REQUIRED),
    "properties": _nullable(
        {
            "name": {"type": "string", "minLength": 1, "maxLength": 64},
            **dict.fromkeys(COUNTERS, _COUNTER_SCHEMA),
            "is_up": {"type": "boolean"},
            "operstate": {"type": "string", "enum": list(OPERSTATES)},
            "speed_mbps": {"type": "integer", "minimum": -1, "maximum": 10**9},
            "mtu": {"type": "integer", "minimum": 0, "maximum": 2**32},
            "mac": {"type": "string", "maxLength": 64},
            "ifindex": {"type": "integer", "minimum": 0, "maximum": 2**31},
            "kind": {"type": "string", "enum": Kind.values},
            "master": {"type": "string", "maxLength": 64},
            "carrier_changes": _COUNTER_SCHEMA,
            "addresses": {
                "type": "array",
                "maxItems": 64,
                "items": {"type": "string", "minLength": 1, "maxLength": 64},
            },
        },
        _INTERFACE_REQUIRED,
    ),
}
HEARTBEAT_SCHEMA = {
    "type": "object",
    "required": list(_HEARTBEAT_REQUIRED),
    "properties": _nullable(
        {
            "server_id": {"type": "string", "pattern": "^[a-z0-9-]{1,100}$"},
            "hostname": {"type": "string", "minLength": 1, "maxLength": 255},
            "timestamp": {"type": "string", "format": "date-time"},
            "server_guid": {"type": "string", "format": "uuid"},
            "agent_version": {"type": "string", "maxLength": 64},
            "os_info": {
                "type": "object",
                "properties": _nullable({name: {"type": "string", "maxLength": 255} for name in OS_INFO}),
            },
            "metrics": {"type": "object", "properties": _nullable({"uptime_seconds": _UPTIME_SCHEMA})},
            "boot_id": {"type": "string", "maxLength": 64},
            "uptime": _UPTIME_SCHEMA,
            "sent_uptime": _UPTIME_SCHEMA,
            "interval": {"type": "number", "minimum": 1, "maximum": 86_400},
            "agent_stats": {"type": "object", "properties": _nullable(dict.fromkeys(AGENT_STATS, _STAT_SCHEMA))},
            "network_interfaces": {"type": "array", "maxItems": MAX_INTERFACES, "items": INTERFACE_SCHEMA},
        },
        {*_HEARTBEAT_REQUIRED, "network_interfaces"},
    ),
}
BATCH_SCHEMA = {
    "type": "object",
    "required": ["heartbeats"],
    "properties": {"heartbeats": {"type": "array", "maxItems": MAX_HEARTBEATS, "items": HEARTBEAT_SCHEMA}},
}
