"""What the reading calls take as query parameters, and the shapes of what they answer."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from metrics.counters import MARKS
from metrics.periods import (
    PeriodError,
    Step,
    current_period,
    has_more_than,
    parse_instant,
    parse_step,
    parse_window,
    parse_zone,
    sensible_step,
)
from servers.serializers import NetworkInterfaceSerializer

MOST_POINTS = 11_000
MOST_ROWS = 11_000
P95_DEFAULT_DAYS = 366  # days times interfaces: each takes about 5 ms
P95_MOST_DAYS = 1_500
DAY = timedelta(days=1)
PERIODS = {"day": Step(86_400), "month": Step(0, 1)}


class ChoiceField(serializers.ChoiceField):
    """A choice whose error tells what is allowed, and never what was sent."""

    def __init__(self, choices: Any, **options: Any) -> None:
        super().__init__(choices, **options)
        self.error_messages["invalid_choice"] = f"One of {', '.join(map(str, self.choices))}."


class _PeriodField(serializers.CharField):
    """Text that `metrics.periods` reads."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return self.parse(super().to_internal_value(data))
        except PeriodError as error:
            raise serializers.ValidationError(str(error), code="invalid") from None

    def parse(self, text: str) -> Any:
        raise NotImplementedError


class InstantField(_PeriodField):
    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, **options)

    def parse(self, text: str) -> datetime:
        if text[10:11] in ("T", "t") and text[-6:-5] == " ":
            text = f"{text[:-6]}+{text[-5:]}"  # a plus that was not escaped in the URL
        return parse_instant(text, now=self.context["now"])


class StepField(_PeriodField):
    def parse(self, text: str) -> Step:
        return parse_step(text)


class LengthField(_PeriodField):
    def parse(self, text: str) -> timedelta:
        return parse_window(text)


class ZoneField(_PeriodField):
    def __init__(self, **options: Any) -> None:
        text = "An IANA time zone, in which days, weeks and months are cut. Default: the hub's."
        super().__init__(required=False, help_text=text, **options)

    def parse(self, text: str) -> ZoneInfo:
        return parse_zone(text)


def interface_field(text: str) -> serializers.CharField:
    return serializers.CharField(required=False, max_length=64, trim_whitespace=False, help_text=text)


def server_field(text: str) -> serializers.CharField:
    return serializers.CharField(required=False, max_length=100, help_text=text)


def refuse(name: str, detail: str, code: str = "invalid") -> serializers.ValidationError:
    """Return a 400 that names the parameter."""
    return serializers.ValidationError({name: [ErrorDetail(detail, code)]})


class QuerySerializer(serializers.Serializer[Any]):
    """Query parameters. Needs `now` in the context."""

    def default_start(self, query: dict[str, Any]) -> datetime:
        return query["end"] - DAY

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        now = self.context["now"]
        query = {"end": now, "tz": ZoneInfo(settings.TIME_ZONE), **attrs}
        query.setdefault("start", self.default_start(query))
        if query["start"] >= query["end"]:
            raise refuse("start", "The start is before the end.")
        return query


class ZoneQuerySerializer(serializers.Serializer[Any]):
    tz = ZoneField()


class HistoryQuerySerializer(QuerySerializer):
    interface = interface_field("Without it: the server's total.")
    start = InstantField(help_text="ISO 8601 with its zone, or `now-24h`. Default: 24 hours before the end.")
    end = InstantField(help_text="ISO 8601 with its zone, or `now`. Default: now.")
    step = StepField(
        required=False,
        help_text="`60s`, `5m`, `1h`, `1d`, `1w`, `1month`; `raw` for one point between every two readings. "
        f"Default: the smallest usual one that makes at most 400 points. At most {MOST_POINTS} points.",
    )
    tz = ZoneField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        query = super().validate(attrs)
        query.setdefault("step", sensible_step(query["start"], query["end"]))
        if has_more_than(MOST_POINTS, query["start"], query["end"], query["step"], query["tz"]):
            raise refuse("step", TOO_MANY_POINTS, "too_many")
        return query


TOO_MANY_POINTS = f"This makes more than {MOST_POINTS} points. Ask for a longer step or a shorter window."


class UsageQuerySerializer(QuerySerializer):
    by = ChoiceField(["interface", "server"], default="interface", help_text="A row for each of these and each period.")
    period = ChoiceField(list(PERIODS), default="day", help_text="Calendar days or months of `tz`.")
    billing_day = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=31,
        help_text="With `period=month`: the day on which a month begins; in a shorter month, its last day.",
    )
    server = server_field("Only this server. Default: all.")
    interface = interface_field("Only interfaces of this name. Default: all; by server, those that count in its total.")
    start = InstantField(help_text="ISO 8601 with its zone, or `now-30d`. Default: when the current period began.")
    end = InstantField(help_text="ISO 8601 with its zone, or `now`. Default: now.")
    tz = ZoneField()
    p95 = serializers.BooleanField(
        required=False,
        allow_null=True,
        help_text="Whether to compute the 95th percentiles, of 5-minute rates. That is slow, so that without this they "
        f"are null where the window's days times the interfaces are more than {P95_DEFAULT_DAYS}; with `true`, at most "
        f"{P95_MOST_DAYS} are allowed.",
    )

    def default_start(self, query: dict[str, Any]) -> datetime:
        return current_period(
            query["end"], PERIODS[query["period"]], query["tz"], anchor_day=query.get("billing_day", 1)
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "billing_day" in attrs and attrs["period"] != "month":
            raise refuse("billing_day", "Only with period=month.")
        return super().validate(attrs)


class TopQuerySerializer(QuerySerializer):
    window = LengthField(
        required=False,
        help_text="How long before the end, such as `24h`; before now, from a whole minute on. Instead of `start`.",
    )
    start = InstantField(help_text="ISO 8601 with its zone, or `now-24h`. Default: 24 hours before the end.")
    end = InstantField(help_text="ISO 8601 with its zone, or `now`. Default: now.")
    limit = serializers.IntegerField(default=10, min_value=1, max_value=1000, help_text="How many rows at most.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "window" in attrs and "start" in attrs:
            raise refuse("window", "Either window or start.")
        return super().validate(attrs)

    def default_start(self, query: dict[str, Any]) -> datetime:
        try:
            start = query["end"] - query.get("window", DAY)
        except OverflowError:
            raise refuse("window", "This is before all time.") from None
        is_before_now = "window" in query and query["end"] == self.context["now"]
        return start.replace(second=0, microsecond=0) if is_before_now else start


class ExportQuerySerializer(QuerySerializer):
    server = server_field("Only this server. Default: all, one after another.")
    interface = interface_field("Only interfaces of this name. Default: all, one after another.")
    start = InstantField(help_text="ISO 8601 with its zone, or `now-7d`. Default: 24 hours before the end.")
    end = InstantField(help_text="ISO 8601 with its zone, or `now`. Default: now. What is at `end` is left out.")
    format = ChoiceField(["csv", "ndjson"], default="csv", help_text="`ndjson`: a JSON object a line.")
    resolution = ChoiceField(
        ["reading", "hour"], default="reading", help_text="Raw counters as reported, or what passed in each UTC hour."
    )


class PointsSerializer(serializers.Serializer[Any]):
    """Columns of one length: one value a point, null where nothing is known. Bytes, packets, bytes per second."""

    start = serializers.ListField(child=serializers.DateTimeField())
    rx_bytes = serializers.ListField(child=serializers.IntegerField(allow_null=True))
    tx_bytes = serializers.ListField(child=serializers.IntegerField(allow_null=True))
    rx_packets = serializers.ListField(child=serializers.IntegerField(allow_null=True))
    tx_packets = serializers.ListField(child=serializers.IntegerField(allow_null=True))
    rx_rate = serializers.ListField(child=serializers.FloatField(allow_null=True))
    tx_rate = serializers.ListField(child=serializers.FloatField(allow_null=True))
    rx_peak = serializers.ListField(child=serializers.FloatField(allow_null=True))
    tx_peak = serializers.ListField(child=serializers.FloatField(allow_null=True))
    covered_seconds = serializers.ListField(child=serializers.FloatField())
    marks = serializers.ListField(
        child=serializers.ListField(child=serializers.ChoiceField(choices=list(MARKS.values())))
    )


class HistoryTotalSerializer(serializers.Serializer[Any]):
    rx_bytes = serializers.IntegerField(allow_null=True)
    tx_bytes = serializers.IntegerField(allow_null=True)
    rx_packets = serializers.IntegerField(allow_null=True)
    tx_packets = serializers.IntegerField(allow_null=True)
    covered_seconds = serializers.FloatField()
    resets = serializers.IntegerField()


class HistorySerializer(serializers.Serializer[Any]):
    server_id = serializers.CharField()
    interface = serializers.CharField(allow_null=True)
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    step = serializers.CharField()
    tz = serializers.CharField()
    points = PointsSerializer()
    total = HistoryTotalSerializer()


class UsageRowSerializer(serializers.Serializer[Any]):
    """Bytes that passed from `start` to `end`; a number of resets means that so often some of it is not known."""

    server_id = serializers.CharField()
    interface = serializers.CharField(allow_null=True, help_text="null by server")
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    rx_bytes = serializers.IntegerField(allow_null=True)
    tx_bytes = serializers.IntegerField(allow_null=True)
    covered_seconds = serializers.FloatField()
    resets = serializers.IntegerField()
    rx_p95 = serializers.FloatField(allow_null=True, help_text="95th percentile of 5-minute rates, bytes per second")
    tx_p95 = serializers.FloatField(allow_null=True)


class UsageSerializer(serializers.Serializer[Any]):
    by = serializers.CharField()
    period = serializers.CharField()
    tz = serializers.CharField()
    rows = UsageRowSerializer(many=True)


class TopRowSerializer(serializers.Serializer[Any]):
    rank = serializers.IntegerField()
    server_id = serializers.CharField()
    interface = serializers.CharField()
    rx_bytes = serializers.IntegerField()
    tx_bytes = serializers.IntegerField()


class TopSerializer(serializers.Serializer[Any]):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    rows = TopRowSerializer(many=True)


class PassedSerializer(serializers.Serializer[Any]):
    rx_bytes = serializers.IntegerField(allow_null=True)
    tx_bytes = serializers.IntegerField(allow_null=True)


class TotalsSerializer(serializers.Serializer[Any]):
    """What passed this day and this month of `tz`, and since the interface was first seen."""

    day = PassedSerializer()
    month = PassedSerializer()
    all = PassedSerializer()


class LatestSerializer(NetworkInterfaceSerializer):
    at = serializers.DateTimeField(help_text="When this was read.")


class InterfaceSerializer(serializers.Serializer[Any]):
    """An interface of a server: what it is, its latest reading, its rates now, and what passed."""

    server_id = serializers.CharField()
    name = serializers.CharField()
    label = serializers.CharField(allow_blank=True)  # type: ignore[assignment]
    kind = serializers.CharField(allow_blank=True)
    mac = serializers.CharField(allow_blank=True)
    master = serializers.CharField(allow_blank=True)
    speed_mbps = serializers.IntegerField(allow_null=True)
    best_speed_mbps = serializers.IntegerField(allow_null=True)
    counts_in_total = serializers.BooleanField()
    hidden = serializers.BooleanField()
    first_seen_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()
    latest = LatestSerializer(allow_null=True, help_text="null: the last report of the server did not name it")
    rx_rate = serializers.FloatField(allow_null=True, help_text="Bytes per second; null unless the server is online")
    tx_rate = serializers.FloatField(allow_null=True)
    totals = TotalsSerializer()


class InterfaceListSerializer(serializers.Serializer[Any]):
    server_id = serializers.CharField()
    interfaces = InterfaceSerializer(many=True)
    total = serializers.IntegerField()
