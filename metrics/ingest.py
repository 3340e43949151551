"""The only way in: one heartbeat or a batch of them, one transaction, then the ack."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from operator import attrgetter, sub
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, models
from django.db.models import Q

from metrics import events
from metrics.changes import Seen
from metrics.codec import CodecError
from metrics.counters import NO_BOOT, UNCLEAN, Reading, is_plain, rate, step
from metrics.models import DAY_MS, HOUR_MS, Chunk, Heartbeat, Interface, day_of, from_ms, to_ms, week_of
from metrics.placement import Line
from metrics.readings import reading_of
from servers import prepared
from servers.models import DEFAULT_INTERVAL, Boot, Server, Snapshot
from servers.transactions import retried

CLOCK_TOLERANCE_MS = 30_000  # a boot's start is moved only when it is off by more
EARLIER_BOOT = -1  # whichever it was, not the one that runs
FUTURE_TOLERANCE = timedelta(minutes=5)  # an agent clock further ahead than this is not believed
FUTURE_TOLERANCE_MS = FUTURE_TOLERANCE // timedelta(milliseconds=1)
LAST_SEALED, SEALED_OF_LATE_MS = 8, 7 * DAY_MS  # interfaces and time in which a boot's last reading is looked for
SQUEEZED = 10_000  # what a boot's guessed instants are divided by once they turn out to be too late
SET_BACK = timedelta(days=31)  # the hub's clock by no more than this: boots that it knew are then ahead of it
FACTS = ("kind", "master", "mac", "speed_mbps")


class Outcome(models.TextChoices):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


class Refused(Exception):
    """A valid heartbeat that may not be stored."""


class UnknownServer(Refused):
    """No server has this id, and the key may not register one."""


class TooOld(Refused):
    """The readings are older than the retention."""


class TooNew(Refused):
    """The readings are of a time to come."""


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
    Raises UnknownServer, TooOld and TooNew, and stores nothing then.
    """
    (result,) = ingest_batch([report], may_register=may_register, now=now)
    if isinstance(result, Refused):
        raise result
    return result


def ingest_batch(reports: Sequence[Report], *, may_register: bool, now: datetime) -> list[Receipt | Refused]:
    """Store heartbeats as `ingest` does, all in one transaction. Return what became of each, in order."""
    try:
        return _ingest(reports, may_register, now)
    except IntegrityError:
        # A heartbeat is stored under another instant, or another request has just registered the server.
        return _ingest(reports, may_register, now, is_retry=True)


@dataclass(slots=True)
class _Arrival:
    """A report with its place in time."""

    report: Report
    boot: Boot | None
    uptime_ms: int
    collected_at: datetime
    is_newer: bool  # than the snapshot
    readings: dict[str, Reading] = field(default_factory=dict)

    @property
    def boot_number(self) -> int:
        return self.boot.pk if self.boot else NO_BOOT

    @property
    def identity(self) -> tuple[int, int]:
        """What makes it the same heartbeat, among those of its server, however often and whenever it is sent."""
        return self.boot_number, self.uptime_ms

    @property
    def interval_ms(self) -> int:
        return round(self.report.interval * 1000)


@retried
def _ingest(
    reports: Sequence[Report], may_register: bool, now: datetime, *, is_retry: bool = False
) -> list[Receipt | Refused]:
    by_server: dict[str, list[int]] = defaultdict(list)
    for index, report in enumerate(reports):
        by_server[report.server_id].append(index)
    results: dict[int, Receipt | Refused] = {}
    for _, indexes in sorted(by_server.items()):  # in one order, so that no two batches wait for each other
        of_server = _ingest_of_server([reports[index] for index in indexes], may_register, now, is_retry)
        results.update(zip(indexes, of_server, strict=True))
    return [results[index] for index in range(len(reports))]


def _ingest_of_server(
    reports: list[Report], may_register: bool, now: datetime, is_retry: bool
) -> list[Receipt | Refused]:
    snapshot, is_known = _lock(reports[0])
    if not is_known and not may_register:
        return [UnknownServer(report.server_id) for report in reports]
    placed = _place_and_save_boots(reports, snapshot, now)
    arrivals = [arrival for arrival in placed if isinstance(arrival, _Arrival)]
    stored = _stored(snapshot, arrivals, now, is_retry)
    fresh: list[_Arrival] = []
    results: list[Receipt | Refused] = []
    for arrival in placed:
        if isinstance(arrival, Refused):
            results.append(arrival)
        elif arrival.identity in stored:
            results.append(Receipt(Outcome.DUPLICATE))
        else:
            stored.add(arrival.identity)
            fresh.append(arrival)
            results.append(Receipt(Outcome.ACCEPTED, server_registered=not is_known and len(fresh) == 1))
    if arrivals:
        _store(snapshot, fresh, now)
    return results


def _lock(report: Report) -> tuple[Snapshot, bool]:
    """Return the server's snapshot, locked, so that its heartbeats are stored one after another; is the server known?

    Snapshot and server are not saved yet where there are none.
    """
    snapshot = _locked_snapshot(report.server_id)
    if snapshot is not None:
        return snapshot, True
    server = Server.objects.filter(id=report.server_id).first()
    return Snapshot(server=server or Server(id=report.server_id, hostname=report.hostname)), server is not None


_locked_snapshot = prepared.PreparedGet(
    lambda server: (
        Snapshot.objects.select_for_update(of=("self",)).select_related("server", "boot").filter(server=server)
    )
)


def _place_and_save_boots(reports: list[Report], snapshot: Snapshot, now: datetime) -> list[_Arrival | Refused]:
    """Place each report in time. Server, snapshot and boots are saved, unless every report is refused."""
    boots = {snapshot.boot.boot_id: snapshot.boot} if snapshot.boot else {}
    others = {report.boot_id for report in reports} - boots.keys()
    if others:
        boots |= {boot.boot_id: boot for boot in Boot.objects.filter(server=snapshot.server_id, boot_id__in=others)}
    before = {boot_id: _placed(boot) for boot_id, boot in boots.items()}
    oldest = _oldest(now)
    newest = {snapshot.boot.boot_id: round((snapshot.uptime_seconds or 0) * 1000)} if snapshot.boot else {}
    placed = [_place(report, snapshot, boots, newest, oldest, now) for report in reports]
    if any(isinstance(arrival, _Arrival) for arrival in placed):
        for new in (snapshot.server, snapshot):
            if new._state.adding:
                new.save(force_insert=True)
        for boot_id, boot in boots.items():
            if before.get(boot_id) != _placed(boot):
                boot.save()
    return placed


def _placed(boot: Boot) -> tuple[datetime, Sequence[Sequence[int]], bool]:
    return boot.started_at, boot.bends, boot.spoke_live


def _place(
    report: Report, snapshot: Snapshot, boots: dict[str, Boot], newest: dict[str, int], oldest: datetime, now: datetime
) -> _Arrival | Refused:
    """Return the report with when, in the hub's time, its readings were collected; a new boot is added to `boots`.

    An agent's clock is believed only where there is nothing better: uptime tells how long ago it was. Where a boot's
    uptimes lie is kept, so that a heartbeat sent twice falls on the same instant, and one of a higher uptime on a
    later one. `newest` are the highest uptimes that are known, by boot.
    """
    boot, latest = None, now + FUTURE_TOLERANCE
    if report.boot_id and report.uptime is not None:
        uptime_ms = round(report.uptime * 1000)
        boot = boots.get(report.boot_id) or Boot(server=snapshot.server, boot_id=report.boot_id)
        line, spoke_live = _line(report, boot, uptime_ms, newest, now)
        collected_at = from_ms(line.at(uptime_ms))
        if line.bends:
            latest = now + SET_BACK
    else:
        collected_at = _floor(report.timestamp if report.timestamp <= latest else now)
        uptime_ms = to_ms(collected_at)
    if collected_at < oldest:
        return TooOld(f"older than the retention of {settings.RETENTION_READINGS_DAYS} days")
    if collected_at > latest:
        return TooNew("of a time to come")
    if boot is not None:
        boot.started_at, boot.bends, boot.spoke_live = from_ms(line.start), line.bends, spoke_live
        boots[boot.boot_id] = boot
        newest[boot.boot_id] = max(uptime_ms, newest.get(boot.boot_id, 0))
    return _Arrival(report, boot, uptime_ms, collected_at, _is_newer(snapshot, boot, collected_at, now))


def _is_newer(snapshot: Snapshot, boot: Boot | None, collected_at: datetime, now: datetime) -> bool:
    """Tell whether this is the latest of its server: of another boot also where the hub's clock had been ahead."""
    if snapshot.collected_at is None or collected_at > snapshot.collected_at:
        return True
    is_other = boot is not None and boot.spoke_live and boot.pk != snapshot.boot_id
    return is_other and snapshot.collected_at > now + FUTURE_TOLERANCE


def _line(report: Report, boot: Boot, uptime_ms: int, newest: dict[str, int], now: datetime) -> tuple[Line, bool]:
    """Return where the boot's uptimes lie, and whether it has spoken live."""
    now_ms = to_ms(now)
    sent_ms = None if report.sent_uptime is None else round(report.sent_uptime * 1000)
    if boot._state.adding and boot.started_at is None:
        by_agent = to_ms(_start_by_agent(report, now)) - uptime_ms
        return Line(by_agent if sent_ms is None else now_ms - sent_ms), sent_ms is not None
    line = Line(to_ms(boot.started_at), boot.bends)
    if sent_ms is not None:
        if abs(now_ms - sent_ms - line.start) > CLOCK_TOLERANCE_MS:
            known = _newest_uptime(boot, newest, sent_ms)
            # A machine rolled back within its boot has been up for longer before than it is now.
            start = now_ms - sent_ms
            line = line.moved(start, after=known, sent=sent_ms) if known <= sent_ms else Line(start)
        return line, True
    longest = now_ms - to_ms(_oldest(now))
    if not boot.spoke_live and FUTURE_TOLERANCE_MS < line.at(uptime_ms) - now_ms <= longest:
        # It was guessed, and later readings show that it was earlier: there is no telling by how much.
        known = _newest_uptime(boot, newest, now_ms - line.start)
        line = line.squeezed(longest // SQUEEZED, after=known, longest=longest)
    return line, boot.spoke_live


def _newest_uptime(boot: Boot, newest: dict[str, int], otherwise: int) -> int:
    """Return the boot's highest uptime that is known, also from the log, or else of what was sealed in the last days.

    `otherwise` where there is none.
    """
    log = Heartbeat.objects.filter(server=boot.server_id, boot_number=boot.pk).order_by("-uptime_ms")
    logged = log.values_list("uptime_ms", flat=True).first() if boot.pk else None
    known = [uptime for uptime in (newest.get(boot.boot_id), logged) if uptime is not None]
    if not known and boot.pk and (sealed := _sealed_uptime(boot)) is not None:
        known = [sealed]
    return max(known, default=otherwise)


def _sealed_uptime(boot: Boot) -> int | None:
    """Return the uptime of the boot's newest sealed reading; None where those sealed last have none, or are damaged."""
    interfaces = Interface.objects.filter(server=boot.server_id, sealed_until__isnull=False).order_by("-sealed_until")
    until = dict(interfaces.values_list("pk", "sealed_until")[:LAST_SEALED])
    if not until:
        return None
    newest = max(to_ms(at) for at in until.values() if at is not None)
    chunks = Chunk.objects.filter(interface__in=until).around(newest - SEALED_OF_LATE_MS, newest).defer("hours")
    found: list[tuple[int, int]] = []
    try:
        for chunk in chunks:
            readings = chunk.get_readings(("boot", "at", "started"))
            rows = zip(readings["boot"], readings["at"], readings["started"], strict=True)
            found.extend((at, at - started) for of, at, started in rows if of == boot.pk)
    except CodecError:
        return None  # the next seal names it
    return max(found)[1] if found else None


def _start_by_agent(report: Report, now: datetime) -> datetime:
    """Return when the agent's own clock says it collected; `now` where that cannot be."""
    return _floor(report.timestamp if _oldest(now) <= report.timestamp <= now + FUTURE_TOLERANCE else now)


def _oldest(now: datetime) -> datetime:
    return now - timedelta(days=settings.RETENTION_READINGS_DAYS)


def _stored(snapshot: Snapshot, arrivals: list[_Arrival], now: datetime, is_retry: bool) -> set[tuple[int, int]]:
    """Return the identities that are stored already, in the log or sealed. What is newer than all is taken for new."""
    if not is_retry and all(arrival.is_newer for arrival in arrivals):
        return set()
    log = Heartbeat.objects.filter(
        server=snapshot.server_id,
        boot_number__in={arrival.boot_number for arrival in arrivals},
        uptime_ms__in=[arrival.uptime_ms for arrival in arrivals],
    )
    stored = set(log.values_list("boot_number", "uptime_ms"))
    this_hour = from_ms(to_ms(now) // HOUR_MS * HOUR_MS)
    older = [each for each in arrivals if each.collected_at < this_hour and each.identity not in stored]
    return stored | _sealed(snapshot, older) if older else stored


def _sealed(snapshot: Snapshot, arrivals: list[_Arrival]) -> set[tuple[int, int]]:
    """Return the identities of the heartbeats in the chunks where those of `arrivals` would be.

    All readings of a heartbeat are sealed together, so that the chunks of one of its interfaces tell.
    """
    days: dict[str, set[date]] = defaultdict(set)
    for arrival in arrivals:
        if arrival.report.network_interfaces:
            at = to_ms(arrival.collected_at)  # or near it: the boot's start may have moved since
            days[arrival.report.network_interfaces[0]["name"]] |= {day_of(at - HOUR_MS), day_of(at + HOUR_MS)}
    since = min(arrival.collected_at for arrival in arrivals)
    sealed: set[tuple[int, int]] = set()
    for interface in Interface.objects.filter(server=snapshot.server_id, name__in=days, sealed_until__gte=since):
        of_days = days[interface.name]
        held = Q(start__in=of_days) | Q(start__in={week_of(day) for day in of_days}, days=7)
        for chunk in Chunk.objects.filter(held, interface=interface).defer("hours"):
            try:
                readings = chunk.get_readings(("boot", "at", "started"))
            except CodecError:
                continue  # the next seal names it; until then the log keeps what came
            sealed.update(zip(readings["boot"], map(sub, readings["at"], readings["started"]), strict=True))
    return sealed


def _store(snapshot: Snapshot, fresh: list[_Arrival], now: datetime) -> None:
    """Put what is new into the log, and the newest of it into the snapshot."""
    for arrival in fresh:
        arrival.readings = _readings(arrival)
    if len(fresh) == 1:
        prepared.insert(_heartbeat(fresh[0], now))
    else:
        Heartbeat.objects.bulk_create([_heartbeat(arrival, now) for arrival in fresh])
    fresh.sort(key=attrgetter("collected_at"))
    best_speeds, new = _note_interfaces(snapshot, fresh)
    newer = [arrival for arrival in fresh if arrival.is_newer]
    before = _readings_of(snapshot)
    changes: dict[str, Any] = {}
    if fresh:
        changes["steady_since"] = _steady_since(snapshot, before, newer, new, has_late=len(newer) < len(fresh))
    if newer:
        events.record(snapshot.server_id, _reports(snapshot, before, newer), best_speeds)
        _note_server(snapshot.server, newer)
        changes |= _latest(before, newer, now)
    prepared.update(snapshot, last_seen_at=now, revision=snapshot.revision + len(fresh), **changes)


def _readings(arrival: _Arrival) -> dict[str, Reading]:
    at, boot = to_ms(arrival.collected_at), arrival.boot_number
    started = at - arrival.uptime_ms if boot != NO_BOOT else 0
    return {
        interface["name"]: reading_of(interface, at, boot, started, arrival.interval_ms)
        for interface in arrival.report.network_interfaces or ()
    }


def _heartbeat(arrival: _Arrival, now: datetime) -> Heartbeat:
    return Heartbeat(
        server_id=arrival.report.server_id,
        boot_number=arrival.boot_number,
        uptime_ms=arrival.uptime_ms,
        collected_at=arrival.collected_at,
        received_at=now,
        interval_ms=arrival.interval_ms,
        readings=Heartbeat.pack(arrival.readings) if arrival.report.network_interfaces is not None else "",
    )


def _note_interfaces(snapshot: Snapshot, fresh: list[_Arrival]) -> tuple[dict[str, int | None], set[str]]:
    """Make a row for each interface that is new, and keep what is said of the others; on change only.

    Return the best speed ever seen before, of those, and the names of the new ones.
    """
    latest = {interface["name"]: _facts(interface) for interface in snapshot.network_interfaces}
    noted: dict[str, Interface] = {}
    changed: set[str] = set()
    for arrival in fresh:
        if arrival.report.network_interfaces is None:
            continue
        facts = {interface["name"]: _facts(interface) for interface in arrival.report.network_interfaces}
        for name, found in facts.items():
            if name in latest and (not arrival.is_newer or latest[name] == found):
                continue
            row = noted.setdefault(
                name, Interface(server_id=snapshot.server_id, name=name, first_seen_at=arrival.collected_at)
            )
            for field_name, value in found.items():
                setattr(row, field_name, value)
            row.best_speed_mbps = _best(row.best_speed_mbps, row.speed_mbps)
            row.last_seen_at = arrival.collected_at
            if arrival.is_newer:
                changed.add(name)
        if arrival.is_newer:
            latest = facts
    return _save_interfaces(snapshot.server_id, noted, changed) if noted else ({}, set())


def _save_interfaces(
    server_id: str, noted: dict[str, Interface], changed: set[str]
) -> tuple[dict[str, int | None], set[str]]:
    known = {row.name: row for row in Interface.objects.filter(server=server_id, name__in=noted)}
    Interface.objects.bulk_create([row for name, row in noted.items() if name not in known])
    for name in known.keys() & changed:
        row = noted[name]
        row.pk = known[name].pk
        row.best_speed_mbps = _best(known[name].best_speed_mbps, row.best_speed_mbps)
        row.save(force_update=True, update_fields=(*FACTS, "best_speed_mbps", "last_seen_at"))
    best_speeds = {name: known[name].best_speed_mbps if name in known else None for name in noted}
    return best_speeds, noted.keys() - known.keys()


def _best(*speeds: int | None) -> int | None:
    return max(filter(None, speeds), default=None)


def _facts(interface: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": interface.get("kind", ""),
        "master": interface.get("master", ""),
        "mac": interface.get("mac", ""),
        "speed_mbps": interface.get("speed_mbps"),
    }


def _note_server(server: Server, newer: list[_Arrival]) -> None:
    changes: dict[str, Any] = {}
    for arrival in newer:
        report = arrival.report
        changes |= {"hostname": report.hostname, "interval": report.interval}
        if report.server_guid is not None:
            changes["guid"] = report.server_guid
        if report.os_info is not None:
            changes |= {f"os_{name}": text for name, text in report.os_info.items()}
    changes = {name: value for name, value in changes.items() if getattr(server, name) != value}
    if changes:
        Server.objects.filter(pk=server.pk).update(**changes)


def _latest(before: dict[str, Reading], newer: list[_Arrival], now: datetime) -> dict[str, Any]:
    """Return what becomes of the snapshot, whose readings were those of `before`."""
    newest = newer[-1]
    changes: dict[str, Any] = {
        "collected_at": newest.collected_at,
        "boot": newest.boot.pk if newest.boot else None,
        "uptime_seconds": newest.report.uptime,
        "agent_version": newest.report.agent_version,
        "agent_stats": newest.report.agent_stats,
    }
    skews = [skew for arrival in newer if (skew := _skew(arrival.report, now)) is not None]
    if skews:
        changes["clock_skew_seconds"] = skews[-1]
    reported = [arrival for arrival in newer if arrival.report.network_interfaces is not None]
    if reported:
        latest = reported[-1]
        before = reported[-2].readings if len(reported) > 1 else before
        changes["interfaces_at"] = latest.collected_at
        changes["network_interfaces"] = [
            {**interface, **_rates(before.get(interface["name"]), latest.readings[interface["name"]])}
            for interface in latest.report.network_interfaces or ()
        ]
    return changes


def _steady_since(
    snapshot: Snapshot, before: dict[str, Reading], newer: list[_Arrival], new: set[str], *, has_late: bool
) -> datetime | None:
    """Return after which instant each heartbeat goes on plainly from the one before: `metrics.steady` relies on it.

    Whatever is of that instant or earlier may be anything. `before` are the readings of the snapshot, `new` the
    interfaces that nothing was known of. After a heartbeat that reports no interfaces, there are none to go on from.
    Where the hub's clock had been ahead, the first heartbeat past that instant does not go on from the one of then.
    """
    since, latest = snapshot.steady_since, snapshot.collected_at
    before_at = latest
    if snapshot.interfaces_at != latest:
        before = {}
    for arrival in newer:
        goes_on = (
            latest is not None
            and latest < arrival.collected_at
            and not (since and before_at and before_at < since < arrival.collected_at)
            and before.keys() == arrival.readings.keys()
            and arrival.report.network_interfaces is not None
            and all(is_plain(before[name], reading) for name, reading in arrival.readings.items())
            and new.isdisjoint(arrival.readings)
        )
        new = new.difference(arrival.readings)
        latest = max(filter(None, (latest, arrival.collected_at)))
        if not goes_on:
            since = max(filter(None, (since, latest)))
        before, before_at = arrival.readings, arrival.collected_at
    return max(filter(None, (since, latest)), default=None) if has_late else since


def _readings_of(snapshot: Snapshot) -> dict[str, Reading]:
    if snapshot.interfaces_at is None:
        return {}
    started = to_ms(snapshot.boot.started_at) if snapshot.boot else 0
    boot = snapshot.boot.pk if snapshot.boot else NO_BOOT
    if snapshot.boot and snapshot.interfaces_at < snapshot.boot.started_at:
        boot = EARLIER_BOOT  # the one that runs has reported no interfaces yet
    at, interval_ms = to_ms(snapshot.interfaces_at), round(snapshot.server.interval * 1000)
    return {
        interface["name"]: reading_of(interface, at, boot, started, interval_ms)
        for interface in snapshot.network_interfaces
    }


def _reports(snapshot: Snapshot, before: dict[str, Reading], newer: list[_Arrival]) -> list[Seen]:
    """Return what was reported, the snapshot first if there is any, for comparing each with the next."""
    seen = [
        _seen(each.collected_at, each.boot, each.report.uptime, each.report.network_interfaces, each.readings)
        for each in newer
    ]
    if snapshot.collected_at is None:
        return seen
    latest = snapshot.network_interfaces if snapshot.interfaces_at else None
    return [_seen(snapshot.collected_at, snapshot.boot, snapshot.uptime_seconds, latest, before), *seen]


def _seen(
    at: datetime,
    boot: Boot | None,
    uptime: float | None,
    interfaces: list[dict[str, Any]] | None,
    readings: dict[str, Reading],
) -> Seen:
    return Seen(
        to_ms(at),
        boot=boot.pk if boot else NO_BOOT,
        boot_id=boot.boot_id if boot else "",
        started=to_ms(boot.started_at) if boot else 0,
        is_live=boot.spoke_live if boot else False,
        uptime=uptime,
        interfaces={interface["name"]: interface for interface in interfaces} if interfaces is not None else None,
        readings=readings,
    )


def _skew(report: Report, now: datetime) -> float | None:
    """Return by how many seconds the agent's clock is behind the hub's, or None when it cannot be told."""
    if report.sent_uptime is not None and report.uptime is not None:
        sent_at = report.timestamp + _milliseconds(report.sent_uptime) - _milliseconds(report.uptime)
        return round((now - sent_at).total_seconds(), 3)
    return round((now - report.timestamp).total_seconds(), 3) if not report.boot_id else None


def _rates(before: Reading | None, reading: Reading) -> dict[str, float | None]:
    """Return the current rates: since the reading before, or null where what passed is not known."""
    passed = step(before, reading) if before else None
    if before is None or passed is None or passed.marks & UNCLEAN:
        return {"rx_rate": None, "tx_rate": None}
    elapsed = reading.at - before.at
    return {"rx_rate": rate(passed.increases[0], elapsed), "tx_rate": rate(passed.increases[1], elapsed)}


def _milliseconds(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(seconds * 1000))


def _floor(instant: datetime) -> datetime:
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
