"""The only way in: one heartbeat, one transaction, then the ack."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, models, transaction

from metrics.counters import COUNTERS, NO_BOOT, UNCLEAN, UNKNOWN, Reading, rate, step
from metrics.models import Heartbeat, Interface, to_ms
from servers.models import DEFAULT_INTERVAL, Boot, Server, Snapshot

CLOCK_TOLERANCE = timedelta(seconds=30)  # a boot's start is moved only when it is off by more
FUTURE_TOLERANCE = timedelta(minutes=5)  # an agent clock further ahead than this is not believed
MILLISECOND = timedelta(milliseconds=1)


class Outcome(models.TextChoices):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


class UnknownServer(LookupError):
    """No server has this id, and the key may not register one."""


class TooOld(ValueError):
    """The readings are older than the retention."""


@dataclass(frozen=True, slots=True)
class Report:
    """A validated heartbeat. Uptimes in seconds; an interface is the wire's object, validated; None is not reported."""

    server_id: str
    hostname: str
    timestamp: datetime
    server_guid: UUID | None = None
    agent_version: str = ""
    os_info: dict[str, str] | None = None
    boot_id: str = ""
    uptime: float | None = None
    sent_uptime: float | None = None
    interval: float = DEFAULT_INTERVAL
    agent_stats: dict[str, float] = field(default_factory=dict)
    network_interfaces: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    outcome: Outcome
    server_registered: bool = False


def ingest(report: Report, *, may_register: bool, now: datetime) -> Receipt:
    """Store a heartbeat received at `now`: its readings in the log, the latest in the snapshot.

    Returns after the commit. The same heartbeat again is a duplicate and changes nothing but `last_seen_at`.
    Raises UnknownServer and TooOld, and stores nothing then.
    """
    try:
        with transaction.atomic():
            return _ingest(report, may_register, now)
    except IntegrityError:
        # The same heartbeat is stored under another instant, or another request has just registered the server.
        with transaction.atomic():
            return _ingest(report, may_register, now, is_retry=True)


def _ingest(report: Report, may_register: bool, now: datetime, *, is_retry: bool = False) -> Receipt:
    snapshot, registered = _lock(report, may_register)
    boot, collected_at = _place(report, snapshot, now)
    if collected_at < now - timedelta(days=settings.RETENTION_READINGS_DAYS):
        raise TooOld(f"older than the retention of {settings.RETENTION_READINGS_DAYS} days")

    heartbeat = _heartbeat(report, boot, collected_at, now)
    is_newest = snapshot.collected_at is None or collected_at > snapshot.collected_at
    if (is_retry or not is_newest) and Heartbeat.objects.filter(pk=heartbeat.pk).exists():
        _update(snapshot, last_seen_at=now)
        return Receipt(Outcome.DUPLICATE)

    readings = _readings(heartbeat, report.network_interfaces)
    heartbeat.readings = Heartbeat.pack(readings) if report.network_interfaces is not None else ""
    heartbeat.save(force_insert=True)
    _note_interfaces(report, snapshot, collected_at, is_newest=is_newest)
    if is_newest:
        _note_server(report, snapshot.server)
        _update(snapshot, last_seen_at=now, **_latest(report, snapshot, boot, heartbeat, readings))
    else:
        _update(snapshot, last_seen_at=now)
    return Receipt(Outcome.ACCEPTED, registered)


def _lock(report: Report, may_register: bool) -> tuple[Snapshot, bool]:
    """Return the server's snapshot, locked, so that the heartbeats of one server are stored one after another."""
    locked = Snapshot.objects.select_for_update(of=("self",)).select_related("server", "boot")
    snapshot = locked.filter(server=report.server_id).first()
    if snapshot is not None:
        return snapshot, False
    server = Server.objects.filter(id=report.server_id).first()
    if server is None and not may_register:
        raise UnknownServer(report.server_id)
    registered = server is None
    if server is None:
        server = Server.objects.create(id=report.server_id, hostname=report.hostname)
    return Snapshot.objects.create(server=server), registered


def _place(report: Report, snapshot: Snapshot, now: datetime) -> tuple[Boot | None, datetime]:
    """Return the boot and when, in the hub's time, the readings were collected.

    An agent's clock is believed only where there is nothing better: uptime tells how long ago it was. A boot's start
    stays as first computed, so that a heartbeat sent twice falls on the same instant.
    """
    if not report.boot_id or report.uptime is None:
        return None, _floor(report.timestamp if report.timestamp <= now + FUTURE_TOLERANCE else now)
    uptime = _milliseconds(report.uptime)
    live_start = _floor(now - _milliseconds(report.sent_uptime)) if report.sent_uptime is not None else None
    boot = _boot(report, snapshot)
    if boot.pk is None:
        boot.spoke_live = live_start is not None
        boot.started_at = live_start or _start_by_agent(report, now) - uptime
        boot.save(force_insert=True)
    elif live_start is not None:
        moved = abs(live_start - boot.started_at) > CLOCK_TOLERANCE
        if moved or not boot.spoke_live:
            boot.started_at = live_start if moved else boot.started_at
            boot.spoke_live = True
            boot.save(update_fields=["started_at", "spoke_live"])
    return boot, boot.started_at + uptime


def _boot(report: Report, snapshot: Snapshot) -> Boot:
    if snapshot.boot is not None and snapshot.boot.boot_id == report.boot_id:
        return snapshot.boot
    known = Boot.objects.filter(server=snapshot.server_id, boot_id=report.boot_id).first()
    return known or Boot(server=snapshot.server, boot_id=report.boot_id)


def _start_by_agent(report: Report, now: datetime) -> datetime:
    """Return when the agent's own clock says it collected; `now` where that cannot be."""
    oldest = now - timedelta(days=settings.RETENTION_READINGS_DAYS)
    return _floor(report.timestamp if oldest <= report.timestamp <= now + FUTURE_TOLERANCE else now)


def _heartbeat(report: Report, boot: Boot | None, collected_at: datetime, now: datetime) -> Heartbeat:
    return Heartbeat(
        server_id=report.server_id,
        boot_number=boot.pk if boot else NO_BOOT,
        uptime_ms=(collected_at - boot.started_at) // MILLISECOND if boot else to_ms(collected_at),
        collected_at=collected_at,
        received_at=now,
        interval_ms=round(report.interval * 1000),
    )


def _readings(heartbeat: Heartbeat, interfaces: list[dict[str, Any]] | None) -> dict[str, Reading]:
    at = to_ms(heartbeat.collected_at)
    started = at - heartbeat.uptime_ms if heartbeat.boot_number else 0
    return {
        interface["name"]: _reading(interface, at, heartbeat.boot_number, started, heartbeat.interval_ms)
        for interface in interfaces or []
    }


def _reading(interface: dict[str, Any], at: int, boot: int, started: int, interval_ms: int) -> Reading:
    get = interface.get
    return Reading(
        at,
        boot,
        started,
        interval_ms,
        int(interface["is_up"]),
        get("ifindex", UNKNOWN),
        get("speed_mbps", UNKNOWN),
        *(get(name, UNKNOWN) for name in COUNTERS),
    )


def _note_interfaces(report: Report, snapshot: Snapshot, collected_at: datetime, *, is_newest: bool) -> None:
    """Make a row for each interface that is new, and keep what is said of the others; on change only."""
    before = {interface["name"]: interface for interface in snapshot.network_interfaces}
    for interface in report.network_interfaces or []:
        known = before.get(interface["name"])
        facts = _facts(interface)
        if known is not None and (not is_newest or _facts(known) == facts):
            continue
        row, created = Interface.objects.get_or_create(
            server_id=report.server_id,
            name=interface["name"],
            defaults={**facts, "best_speed_mbps": facts["speed_mbps"], "first_seen_at": collected_at},
        )
        if not created and is_newest:
            best = max(row.best_speed_mbps or 0, facts["speed_mbps"] or 0) or None
            Interface.objects.filter(pk=row.pk).update(**facts, best_speed_mbps=best, last_seen_at=collected_at)


def _facts(interface: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": interface.get("kind", ""),
        "master": interface.get("master", ""),
        "mac": interface.get("mac", ""),
        "speed_mbps": interface.get("speed_mbps"),
    }


def _note_server(report: Report, server: Server) -> None:
    changes: dict[str, Any] = {"hostname": report.hostname, "interval": report.interval}
    if report.server_guid is not None:
        changes["guid"] = report.server_guid
    if report.os_info is not None:
        changes |= {f"os_{name}": text for name, text in report.os_info.items()}
    changes = {name: value for name, value in changes.items() if getattr(server, name) != value}
    if changes:
        Server.objects.filter(pk=server.pk).update(**changes)


def _latest(
    report: Report, snapshot: Snapshot, boot: Boot | None, heartbeat: Heartbeat, readings: dict[str, Reading]
) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "collected_at": heartbeat.collected_at,
        "boot": boot,
        "uptime_seconds": report.uptime,
        "agent_version": report.agent_version,
        "agent_stats": report.agent_stats,
    }
    skew = _skew(report, heartbeat.received_at)
    if skew is not None:
        changes["clock_skew_seconds"] = skew
    if report.network_interfaces is not None:
        before = {interface["name"]: interface for interface in snapshot.network_interfaces}
        changes["interfaces_at"] = heartbeat.collected_at
        changes["network_interfaces"] = [
            {**interface, **_rates(snapshot, before.get(interface["name"]), readings[interface["name"]])}
            for interface in report.network_interfaces
        ]
    return changes


def _skew(report: Report, now: datetime) -> float | None:
    """Return by how many seconds the agent's clock is behind the hub's, or None when it cannot be told."""
    if report.sent_uptime is not None and report.uptime is not None:
        sent_at = report.timestamp + _milliseconds(report.sent_uptime) - _milliseconds(report.uptime)
        return round((now - sent_at).total_seconds(), 3)
    return round((now - report.timestamp).total_seconds(), 3) if not report.boot_id else None


def _rates(snapshot: Snapshot, before: dict[str, Any] | None, reading: Reading) -> dict[str, float | None]:
    """Return the current rates: since the latest reading, or null where what passed is not known."""
    if before is None or snapshot.interfaces_at is None:
        return {"rx_rate": None, "tx_rate": None}
    started = to_ms(snapshot.boot.started_at) if snapshot.boot else 0
    boot = snapshot.boot.pk if snapshot.boot else NO_BOOT
    latest = _reading(before, to_ms(snapshot.interfaces_at), boot, started, reading.interval)
    passed = step(latest, reading)
    if passed.marks & UNCLEAN:
        return {"rx_rate": None, "tx_rate": None}
    elapsed = reading.at - latest.at
    return {"rx_rate": rate(passed.increases[0], elapsed), "tx_rate": rate(passed.increases[1], elapsed)}


def _update(snapshot: Snapshot, **changes: Any) -> None:
    Snapshot.objects.filter(pk=snapshot.pk).update(**changes)


def _milliseconds(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(seconds * 1000))


def _floor(instant: datetime) -> datetime:
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
