"""How much passed, and when."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.db import models
from django.db.models import Q
from django.utils import timezone

from metrics.counters import NO_BOOT, Reading
from servers.models import Server

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(instant: datetime) -> int:
    """Return an aware instant as whole milliseconds since 1970."""
    return (instant - EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


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
        by_rule = Q(counts_in_total=None, master="") & ~Q(kind__in=RIDES_ON_ANOTHER)
        return self.filter(Q(counts_in_total=True) | by_rule)


class Interface(models.Model):
    """`eth0` of one server. What is measured is read-only; how it is shown and counted is a person's."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="interfaces")
    name = models.CharField(max_length=64)
    kind = models.CharField(max_length=10, choices=Kind.choices, blank=True)
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
    last_seen_at = models.DateTimeField(default=timezone.now, help_text="Of its newest sealed reading.")

    objects = InterfaceQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["server", "name"], name="one_row_per_interface")]
        ordering = ["server", "name"]

    def __str__(self) -> str:
        return f"{self.server_id} {self.name}"


class HeartbeatQuerySet(models.QuerySet["Heartbeat"]):
    def between(self, start: datetime, end: datetime) -> "HeartbeatQuerySet":
        return self.filter(collected_at__gte=start, collected_at__lte=end)


class Heartbeat(models.Model):
    """The log: all readings of one report of one agent, until they are sealed.

    A heartbeat is known by its server, its boot and its uptime, so that a repeated one is stored once. An agent that
    reports no boot has boot 0, and the milliseconds of its instant for an uptime.
    """

    pk = models.CompositePrimaryKey("server_id", "boot_number", "uptime_ms")
    server = models.ForeignKey(Server, models.CASCADE, related_name="heartbeats")
    boot_number = models.BigIntegerField(default=NO_BOOT, help_text="Boot.id")
    uptime_ms = models.BigIntegerField()
    collected_at = models.DateTimeField()
    received_at = models.DateTimeField()
    interval_ms = models.BigIntegerField()
    readings = models.TextField(
        blank=True, help_text="JSON: [[name, link, ifindex, speed, counters...]...]; empty when none were reported."
    )

    objects = HeartbeatQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["server", "collected_at"], name="heartbeats_of_a_server")]
        ordering = ["collected_at"]

    def __str__(self) -> str:
        return f"{self.server_id} at {self.collected_at:%Y-%m-%d %H:%M:%S}"

    @staticmethod
    def pack(readings: dict[str, Reading]) -> str:
        """Return what `unpack` reads: the readings by interface name, without what they share."""
        rows = [
            [name, reading.link, reading.ifindex, reading.speed, *reading.counters]
            for name, reading in readings.items()
        ]
        return json.dumps(rows, separators=(",", ":"), ensure_ascii=False)

    def unpack(self) -> Iterator[tuple[str, Reading]]:
        """Yield each interface's name and its reading."""
        at = to_ms(self.collected_at)
        started = at - self.uptime_ms if self.boot_number != NO_BOOT else 0
        for name, *values in json.loads(self.readings or "[]"):
            yield name, Reading(at, self.boot_number, started, self.interval_ms, *values)
