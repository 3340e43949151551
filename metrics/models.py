"""How much passed, and when."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zlib import crc32

from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from metrics import codec
from metrics.changes import ChangeKind
from metrics.counters import COLUMNS, COUNTERS, LOWS, NO_BOOT, PEAKS, TOTALS, UNKNOWN, Buckets, Reading, empty_buckets
from servers.models import Server

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.date()
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CHECKSUM_LENGTH = 8  # of the log's readings, in hexadecimal


def to_ms(instant: datetime) -> int:
    """Return an aware instant as whole milliseconds since 1970."""
    return (instant - EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def day_of(milliseconds: int) -> date:
    """Return the UTC day of an instant."""
    return EPOCH_DAY + timedelta(days=milliseconds // DAY_MS)


def day_start(day: date) -> int:
    """Return the first millisecond of a UTC day."""
    return (day - EPOCH_DAY).days * DAY_MS


def week_of(day: date) -> date:
    """Return the Monday of a day's week."""
    return day - timedelta(days=day.weekday())


class Kind(models.TextChoices):
    PHYSICAL = "physical"
    WIFI = "wifi"
    BRIDGE = "bridge"
    BOND = "bond"
    VLAN = "vlan"
    VETH = "veth"
    TUN = "tun"
    WIREGUARD = "wireguard"
    VIRTUAL = "virtual"


RIDES_ON_ANOTHER = (Kind.VETH, Kind.BRIDGE, Kind.TUN, Kind.WIREGUARD)


class InterfaceQuerySet(models.QuerySet["Interface"]):
    def in_totals(self) -> "InterfaceQuerySet":
        """Interfaces whose bytes count in their server's total: none of them passes through another one."""
        return self.filter(_is_in_totals())

    def counted(self) -> "InterfaceQuerySet":
        """Interfaces that make up the total of their server: those `in_totals`, or all where it has none of these."""
        of_server = Interface.objects.in_totals().filter(server=OuterRef("server"))
        return self.filter(_is_in_totals() | ~Exists(of_server))

    def of_kind(self, *kinds: str) -> "InterfaceQuerySet":
        """Interfaces of these kinds: as a person has set them, else as their agents report them."""
        return self.filter(_is_of(*kinds))

    def with_revision(self) -> "InterfaceQuerySet":
        """With the `revision` of their server: what was read of them is remembered while it stays the same.

        It counts what was stored and what was sealed; `sealed_revision`, that alone.
        """
        sealed = F("server__snapshot__sealed_revision")
        return self.annotate(revision=F("server__snapshot__revision") + sealed, sealed_revision=sealed)

    def gone_veths(self, *, before: datetime) -> "InterfaceQuerySet":
        """Links of containers that went before then: each start of a container makes a new one."""
        return self.of_kind(Kind.VETH).filter(last_seen_at__lt=before).exclude(counts_in_total=True)


def _is_in_totals() -> Q:
    by_rule = Q(counts_in_total=None, master="") & ~_is_of(*RIDES_ON_ANOTHER)
    return Q(counts_in_total=True) | by_rule


def _is_of(*kinds: str) -> Q:
    return Q(chosen_kind__in=kinds) | Q(chosen_kind="", kind__in=kinds)


class Interface(models.Model):
    """`eth0` of one server. What is measured is read-only; how it is shown and counted is a person's."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="interfaces", db_index=False)
    name = models.CharField(max_length=64)
    kind = models.CharField(max_length=10, choices=Kind.choices, blank=True)
    chosen_kind = models.CharField(
        "kind", max_length=10, choices=Kind.choices, blank=True, help_text="Empty: as its agent reports it."
    )
    master = models.CharField(max_length=64, blank=True, help_text="The bridge or bond that it is a member of.")
    mac = models.CharField("MAC address", max_length=64, blank=True)
    speed_mbps = models.BigIntegerField("speed (Mbit/s)", null=True, blank=True)
    best_speed_mbps = models.BigIntegerField("best speed ever seen (Mbit/s)", null=True, blank=True)
    counts_in_total = models.BooleanField(
        null=True, blank=True, help_text="Unknown: by the rule (not what rides on another interface)."
    )
    label = models.CharField(max_length=100, blank=True)
    hidden = models.BooleanField(default=False)
    first_seen_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now, help_text="Known to the hour.")
    sealed_until = models.DateTimeField(null=True, editable=False, help_text="Its newest sealed reading.")

    objects = InterfaceQuerySet.as_manager()
    revision: int | None = None  # annotated by with_revision(), as the next
    sealed_revision: int | None = None

    class Meta:
        constraints = [models.UniqueConstraint(fields=["server", "name"], name="one_row_per_interface")]
        ordering = ["server", "name"]

    def __str__(self) -> str:
        return f"{self.server_id} {self.name}"

    @property
    def effective_kind(self) -> str:
        """What a person has set, or else what the agent reports."""
        return self.chosen_kind or self.kind


class HeartbeatQuerySet(models.QuerySet["Heartbeat"]):
    def between(self, start: datetime, end: datetime) -> "HeartbeatQuerySet":
        return self.filter(collected_at__gte=start, collected_at__lte=end)


class Heartbeat(models.Model):
    """The log: all readings of one report of one agent, until they are sealed.

    A heartbeat is known by its server, its boot and its uptime, so that a repeated one is stored once. An agent that
    reports no boot has boot 0, and the milliseconds of its instant for an uptime.
    """

    pk = models.CompositePrimaryKey("server_id", "boot_number", "uptime_ms")
    server = models.ForeignKey(Server, models.CASCADE, related_name="heartbeats", db_index=False)
    boot_number = models.BigIntegerField(default=NO_BOOT, help_text="Boot.id")
    uptime_ms = models.BigIntegerField()
    collected_at = models.DateTimeField()
    received_at = models.DateTimeField()
    interval_ms = models.BigIntegerField()
    readings = models.TextField(
        blank=True,
        help_text="JSON: [[name, link, ifindex, speed, counters...]...]; empty when none were reported.",
    )

    objects = HeartbeatQuerySet.as_manager()

    class Meta:
        # How a server's log stands is told from indexes alone, without a look at the rows, which are large.
        indexes = [models.Index(fields=["server", "collected_at", "boot_number"], name="standing_of_a_log")]
        ordering = ["collected_at"]

    def __str__(self) -> str:
        return f"{self.server_id} at {self.collected_at:%Y-%m-%d %H:%M:%S}"

    @staticmethod
    def pack(readings: dict[str, Reading]) -> str:
        """Return what `unpack` reads: the readings by interface name, without what they share, and a CRC-32."""
        rows = [
            [name, reading.link, reading.ifindex, reading.speed, *reading.counters]
            for name, reading in readings.items()
        ]
        text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False)
        return f"{text}{crc32(text.encode()):08x}"

    def unpack(self, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Reading]]:
        """Yield the name and the reading of each interface, or of those `wanted`.

        Raises CodecError, naming the heartbeat, where it is damaged.
        """
        shared = self.shared()
        for row in self.rows():
            if wanted is None or row[0] in wanted:
                yield row[0], Reading(*shared, *row[1:])

    def shared(self) -> tuple[int, int, int, int]:
        """Return what its readings have in common: the first four columns of each."""
        at = to_ms(self.collected_at)
        return at, self.boot_number, at - self.uptime_ms if self.boot_number != NO_BOOT else 0, self.interval_ms

    def rows(self) -> list[list[Any]]:
        """Return a row of each interface: its name and the other columns of its reading. Raises as `unpack` does."""
        text = self.readings or "[]"
        try:
            if not text.endswith("]"):  # as those do that were stored before they had a checksum
                text, checksum = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
                if checksum != f"{crc32(text.encode()):08x}":
                    raise codec.CodecError("the checksum is wrong")
            return json.loads(text)
        except ValueError as error:
            raise codec.CodecError(f"The heartbeat of {self} is damaged: {error}.") from error


HOUR_COLUMNS = (*COUNTERS, *TOTALS, *PEAKS, "marks", *LOWS)
READING_COLUMNS = COLUMNS


KEPT = Q(readings__isnull=False)


def around(start: int, end: int) -> Q:
    """Chunks whose days lie between `start` and `end` (ms)."""
    return _since(start) & Q(start__lte=day_of(end))


def _since(start: int) -> Q:
    day = day_of(start)
    # The first condition bounds the part of an index that is looked at; either of the others alone would not.
    return Q(start__gte=day - timedelta(days=6)) & (Q(start__gte=day) | Q(days=7))


class ChunkQuerySet(models.QuerySet["Chunk"]):
    def around(self, start: int, end: int) -> "ChunkQuerySet":
        """Chunks whose days lie between `start` and `end` (ms), in order of time."""
        return self.filter(around(start, end)).order_by("start")

    def since(self, start: int) -> "ChunkQuerySet":
        """Chunks that reach past the day of `start` (ms), in order of time."""
        return self.filter(_since(start)).order_by("start")

    def with_hours(self) -> "ChunkQuerySet":
        """Without the readings; `has_readings` tells whether they are still kept."""
        return self.defer("readings").annotate(has_readings=KEPT)

    def holding(self, interfaces: Collection[int], day: date) -> "dict[int, Chunk]":
        """Return the chunk of each interface that a reading of `day` goes to, unsaved when it is new."""
        monday = week_of(day)
        found = {
            (each.interface_id, each.start): each
            for each in self.filter(interface__in=interfaces, start__in=[monday, day])
        }
        chunks = {}
        for interface in interfaces:
            of_week = found.get((interface, monday))
            is_merged = of_week is not None and of_week.days == 7
            of_day = of_week if is_merged else found.get((interface, day))
            chunks[interface] = of_day or Chunk(interface_id=interface, start=day)
        return chunks


class Chunk(models.Model):
    """Readings and hours of one interface: of a UTC day, later merged into its week, Monday to Sunday.

    The columns stand in order of use: what comes after a large value costs a walk over its pages. `readings` is null
    once past its retention; `last_reading` stays, as the predecessor of the next chunk's first.
    """

    pk = models.CompositePrimaryKey("interface_id", "start")
    interface = models.ForeignKey(Interface, models.CASCADE, related_name="chunks", db_index=False)
    start = models.DateField()
    has_readings: bool  # annotated by with_hours()
    has_newer: bool  # annotated by readings.with_newer()
    days = models.PositiveSmallIntegerField(default=1)
    count = models.PositiveIntegerField(default=0)
    first_at = models.DateTimeField(null=True)
    last_at = models.DateTimeField(null=True)
    last_reading = models.CharField(max_length=400, blank=True, help_text="JSON, in the order of READING_COLUMNS.")
    rx_bytes = models.BigIntegerField(default=0)
    tx_bytes = models.BigIntegerField(default=0)
    covered_seconds = models.BigIntegerField(default=0)
    resets = models.BigIntegerField(default=0)
    codec_version = models.PositiveSmallIntegerField(default=codec.VERSION)
    hours = models.BinaryField(default=b"")
    readings = models.BinaryField(null=True, default=b"")

    objects = ChunkQuerySet.as_manager()

    class Meta:
        # Rows are large; each of these answers its question without a look at them.
        indexes = [
            models.Index(
                fields=[
                    "interface", "start", "days", "count", "rx_bytes", "tx_bytes", "covered_seconds", "resets",
                ],
                name="totals_of_chunks",
            ),
            models.Index(fields=["start", "interface", "count"], condition=KEPT, name="chunks_with_readings"),
            models.Index(fields=["start", "interface"], condition=Q(readings__isnull=True), name="chunks_without"),
            models.Index(fields=["start", "interface"], condition=Q(days=1), name="days_to_merge"),
        ]  # fmt: skip
        ordering = ["start"]

    def __str__(self) -> str:
        return f"{self.interface_id} from {self.start}, {self.days} days"

    @property
    def start_ms(self) -> int:
        return day_start(self.start)

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.days * DAY_MS

    def get_readings(self, wanted: Sequence[str] = READING_COLUMNS) -> dict[str, list[int]]:
        """Return the columns asked for, of all readings; none once they are past their retention.

        Raises CodecError, naming the chunk, where its bytes are damaged.
        """
        if not self.readings:
            return {name: [] for name in wanted}
        return self._unpack(self.readings, READING_COLUMNS, wanted)

    def get_readings_around(self, start: int, end: int, wanted: Sequence[str]) -> dict[str, list[int]]:
        """Return the readings from `start` to `end` (ms), and two at least before and after where there are any.

        Where more than one boot is among the chunk's readings, the last of each before these, and the first of each
        after: they may be what a reading of these follows on, or is followed by.
        """
        if not self.readings:
            return self.get_readings(wanted)
        at, boot = (READING_COLUMNS.index(name) for name in ("at", "boot"))
        with self._naming_damage():
            table = codec.Table(bytes(self.readings))
            begin, until = table.count_up_to(at, start - 1), table.count_up_to(at, end)
            first, last = max(begin - 2, 0), min(until + 2, table.rows)
            spans = [(first, last)]
            if table.constant(boot) is None:
                boots = table.values(boot, 0, table.rows)
                before = {boots[row]: row for row in range(begin)}
                after = {boots[row]: row for row in range(table.rows - 1, until - 1, -1)}
                alone = [row for row in (*before.values(), *after.values()) if not first <= row < last]
                spans = sorted([*((row, row + 1) for row in alone), (first, last)])
            return {
                name: [value for span in spans for value in table.values(READING_COLUMNS.index(name), *span)]
                for name in wanted
            }

    def set_readings(self, readings: dict[str, list[int]]) -> None:
        at = readings["at"]
        self.count = len(at)
        self.first_at, self.last_at = (from_ms(at[0]), from_ms(at[-1])) if at else (None, None)
        self.last_reading = json.dumps([readings[name][-1] for name in READING_COLUMNS]) if at else ""
        self.readings = codec.pack([readings[name] for name in READING_COLUMNS])
        self.codec_version = codec.VERSION

    def get_last_reading(self) -> Reading | None:
        return unpack_reading(self.last_reading)

    def get_hours(
        self, counters: Sequence[str] = COUNTERS, peaks: Sequence[str] = PEAKS, lows: Sequence[str] = LOWS
    ) -> Buckets:
        """Return one bucket for each hour of the chunk. Raises CodecError as `get_readings`."""
        if not self.hours:
            return empty_buckets(24 * self.days, counters)
        columns = self._unpack(self.hours, HOUR_COLUMNS, (*counters, *TOTALS, *peaks, "marks", *lows))
        return Buckets(
            sums={name: columns[name] for name in (*counters, *TOTALS)},
            peaks={name: columns[name] for name in peaks},
            # Hours that were sealed before there were lows end without them.
            lows={name: columns.get(name) or [UNKNOWN] * (24 * self.days) for name in lows},
            marks=columns["marks"],
        )

    def get_columns_of_hours(self, wanted: Sequence[str]) -> list[list[int]]:
        """Return some columns of the hours, not the lows; the others are not decompressed."""
        columns = self._unpack(self.hours, HOUR_COLUMNS, wanted) if self.hours else {}
        return [columns.get(name, []) for name in wanted]

    def set_hours(self, hours: Buckets) -> None:
        columns = {**hours.sums, **hours.peaks, **hours.lows, "marks": hours.marks}
        self.hours = codec.pack([columns[name] for name in HOUR_COLUMNS])
        self.rx_bytes, self.tx_bytes = sum(columns["rx_bytes"]), sum(columns["tx_bytes"])
        self.covered_seconds = sum(columns["covered_ms"]) // 1000
        self.resets = sum(columns["resets"])

    def _unpack(self, data: bytes | memoryview, names: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
        with self._naming_damage():
            columns = codec.unpack(bytes(data), {names.index(name) for name in wanted})
        return {name: column for name, column in zip(names, columns, strict=False) if column is not None}

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except codec.CodecError as error:
            raise codec.CodecError(f"The chunk of {self.interface} from {self.start}: {error}") from error


def unpack_reading(last_reading: str) -> Reading | None:
    """Return a chunk's last reading, from the column that it is stored in."""
    return Reading(*json.loads(last_reading)) if last_reading else None


def sums_of_hours(hours: bytes, wanted: Sequence[str], first: int, last: int) -> list[int]:
    """Return the sums of some columns of a chunk's hours, from hour `first` up to `last`. Raises CodecError."""
    if not hours:
        return [0] * len(wanted)
    table = codec.Table(bytes(hours))
    return [table.total(HOUR_COLUMNS.index(name), first, last) for name in wanted]


EVENTS_PER_MILLISECOND = 2048  # more than the changes that one heartbeat of 256 interfaces can hold


class Event(models.Model):
    """What was different in one heartbeat from the one before: a link that went down, a reboot, a new interface."""

    pk = models.CompositePrimaryKey("server_id", "number")
    server = models.ForeignKey(Server, models.CASCADE, related_name="events", db_index=False)
    number = models.BigIntegerField(help_text="Its millisecond since 1970 times 2048, and its place in there.")
    at = models.DateTimeField()
    interface = models.CharField(max_length=64, blank=True, help_text="Empty where it is the server's.")
    kind = models.CharField(max_length=20, choices=[(kind.value, kind.value.replace("_", " ")) for kind in ChangeKind])
    before = models.CharField(max_length=64, blank=True)
    after = models.CharField(max_length=64, blank=True)

    class Meta:
        indexes = [models.Index(fields=["number", "server"], name="events_in_order")]
        ordering = ["-number", "-server_id"]

    def __str__(self) -> str:
        return f"{self.server_id} {self.interface} {self.kind} at {self.at:%Y-%m-%d %H:%M:%S}"

    @property
    def title(self) -> str:
        return f"{self.interface} {self.get_kind_display()}".strip()

    @property
    def id(self) -> str:
        """Its name among the events of all servers."""
        return f"{self.number}-{self.server_id}"

    @staticmethod
    def first_number(instant: datetime) -> int:
        """Return the smallest number of an event at `instant`."""
        return to_ms(instant) * EVENTS_PER_MILLISECOND
