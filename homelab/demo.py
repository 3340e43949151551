"""A believable fleet with history: what the pages, the benchmark and a newcomer look at before there is any."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import cos, pi
from typing import Any, TextIO

from django.db import transaction
from tqdm import tqdm

from metrics import seal
from metrics.changes import ChangeKind
from metrics.counters import COLUMNS, COUNTERS
from metrics.ingest import Report, ingest
from metrics.models import DAY_MS, HOUR_MS, Event, Interface, Kind, day_of, day_start, from_ms, to_ms
from servers.models import Boot, Server, Snapshot

NAMES = (
    "router", "nas", "pve-1", "pve-2", "media", "pi-dns", "home-assistant", "backup", "git", "pi-garage",
    "cameras", "downloads", "mail", "photos", "games", "lab-1", "lab-2", "pi-weather", "printer", "music",
)  # fmt: skip
MINUTE_MS = 60_000
EVENING = 20.5  # the hour of the day when a home is busiest


@dataclass(frozen=True)
class Role:
    """How an interface behaves: bytes a second on an ordinary evening, and how much of that comes in."""

    name: str
    kind: str
    rate: float
    rx_share: float = 0.7
    speed_mbps: int = -1
    master: str = ""
    bursts: float = 0.002
    quiet: float = 0.0


ROLES = (
    Role("eth0", Kind.PHYSICAL, 180_000, 0.8, 1000),
    Role("br-lan", Kind.BRIDGE, 60_000, 0.55),
    Role("wg0", Kind.WIREGUARD, 4_000, 0.4, quiet=0.6),
    Role("docker0", Kind.BRIDGE, 9_000, 0.35, quiet=0.3),
    Role("veth3f1c9ab", Kind.VETH, 8_000, 0.65, 10_000, "docker0", quiet=0.35),
    Role("tailscale0", Kind.TUN, 300, 0.5, quiet=0.8),
    Role("eth1", Kind.PHYSICAL, 600, 0.5, 1000, quiet=0.7),
    Role("wlan0", Kind.WIFI, 40, 0.6, bursts=0.0, quiet=0.9),
    Role("eth2", Kind.PHYSICAL, 0, speed_mbps=-1),
    Role("virbr0", Kind.BRIDGE, 0),
)


def role(index: int) -> Role:
    """Return the role of a server's interface number `index`; past the named ones, more container links."""
    if index < len(ROLES):
        return ROLES[index]
    return Role(f"veth{index:07x}", Kind.VETH, 1_500, 0.5, 10_000, "docker0", quiet=0.6)


def build(*, servers: int, interfaces: int, days: int, now: datetime, out: TextIO | None = None) -> int:
    """Write a fleet with `days` of history up to `now`, through the code that seals real readings.

    Returns the number of readings. The same arguments give the same traffic. A server that exists is left alone.
    """
    fleet = [name for name in (_name(index) for index in range(servers)) if not Server.objects.filter(id=name).exists()]
    total, to_do = 0, len(fleet) * _days_to_seal(now, days)
    with tqdm(total=to_do, unit="day", desc="Writing history", file=out, disable=out is None) as progress:
        for name in fleet:
            total += build_server(name, interfaces=interfaces, days=days, now=now, progress=progress)
    seal.merge(now=now)
    return total


def _days_to_seal(now: datetime, days: int) -> int:
    """Return in how many UTC days the readings lie that are sealed right away."""
    first, end = -(-to_ms(now - timedelta(days=days)) // MINUTE_MS) * MINUTE_MS, _reported_from(now, days)
    return (day_of(end - 1) - day_of(first)).days + 1 if first < end else 0


def _reported_from(now: datetime, days: int) -> int:
    """Return from when on readings are reported to the hub: it seals the last whole hour, and the log goes on."""
    hour = to_ms(now) // HOUR_MS * HOUR_MS
    return min(hour, max(to_ms(now - timedelta(days=days)), hour - HOUR_MS))


def _name(index: int) -> str:
    return NAMES[index] if index < len(NAMES) else f"server-{index + 1}"


def build_server(
    name: str, *, interfaces: int, days: int, now: datetime, progress: Any = None, in_log: bool = False
) -> int:
    """Write one server as `build` does; `in_log`: as heartbeats that still wait to be sealed."""
    chance = random.Random(name)  # noqa: S311 - traffic, not secrets
    server = Server.objects.create(
        id=name, hostname=name, os_distribution="Debian GNU/Linux", os_version="12", os_architecture="x86_64"
    )
    Snapshot.objects.create(server=server)
    started = now - timedelta(days=days)
    reboot = to_ms(started) + chance.randrange(max(days, 1) * DAY_MS)
    boots = [
        Boot.objects.create(server=server, boot_id=f"{name}-{number}", started_at=from_ms(instant))
        for number, instant in enumerate((to_ms(started) - 40 * DAY_MS, reboot))
    ]
    lines = [Line(role(index), chance, days) for index in range(interfaces)]
    rows = [
        Interface.objects.create(
            server=server, name=line.role.name, kind=line.role.kind, master=line.role.master,
            speed_mbps=line.role.speed_mbps if line.role.speed_mbps > 0 else None, first_seen_at=started,
            best_speed_mbps=line.role.speed_mbps if line.role.speed_mbps > 0 else None,
        )
        for line in lines
    ]  # fmt: skip
    outage = reboot + chance.randrange(-DAY_MS, DAY_MS), chance.randrange(20, 200) * MINUTE_MS
    written, last = 0, boots[0]
    reported_from = to_ms(started) if in_log else _reported_from(now, days)
    for day, instants in _days(to_ms(started), reported_from, outage, chance):
        boot = [boots[instant >= reboot] for instant in instants]
        with transaction.atomic():
            seal.add({row: line.readings(instants, boot) for line, row in zip(lines, rows, strict=True)}, day)
        written += len(instants) * len(rows)
        if boot[-1] != last:
            _note_reboot(server, boots, at=from_ms(instants[boot.index(boot[-1])]))
            last = boot[-1]
        if progress is not None:
            progress.update()
    written += _report(server, boots, lines, reported_from, now)
    if not in_log:
        seal.seal(server.pk, now=now)
    return written


def _note_reboot(server: Server, boots: list[Boot], *, at: datetime) -> None:
    """Keep what the hub notes of the first heartbeat of the second boot."""
    before, after = (boot.boot_id for boot in boots)
    number = Event.first_number(at)
    Event.objects.create(server=server, number=number, at=at, kind=ChangeKind.REBOOT, before=before, after=after)


def _days(start: int, end: int, outage: tuple[int, int], chance: random.Random) -> Iterator[tuple[date, list[int]]]:
    """Yield each day's instants: a run of cron a minute, a little late, but for the outage."""
    first = -(-start // MINUTE_MS) * MINUTE_MS
    for begin in range(day_start(day_of(first)), end, DAY_MS):
        instants = [
            minute + 350 + int(chance.expovariate(1 / 40))
            for minute in range(max(begin, first), min(begin + DAY_MS, end), MINUTE_MS)
            if not 0 <= minute - outage[0] < outage[1]
        ]
        if instants:
            yield day_of(begin), instants


def _report(server: Server, boots: list[Boot], lines: list["Line"], since: int, now: datetime) -> int:
    """Send the newest readings as an agent does, so that the snapshot and the log have them."""
    count = 0
    for minute in range(since, to_ms(now) - 500, MINUTE_MS):
        at = from_ms(minute + 400)
        boot = boots[at >= boots[-1].started_at]
        uptime = (at - boot.started_at).total_seconds()
        ingest(
            Report(
                server.id, server.hostname, at, agent_version="demo", boot_id=boot.boot_id, uptime=uptime,
                sent_uptime=uptime, network_interfaces=[line.interface(minute + 400, boot) for line in lines],
            ),
            may_register=False,
            now=at,
        )  # fmt: skip
        count += len(lines)
    return count


class Line:
    """One interface's traffic, reading by reading."""

    def __init__(self, role: Role, chance: random.Random, days: int) -> None:
        self.role = role
        self.chance = chance
        self.level = role.rate * chance.lognormvariate(0, 0.5)
        self.counters = [0] * 8
        self.previous: tuple[int, int] | None = None
        self.burst_left = 0
        self.burst_rate = 0.0

    def readings(self, instants: list[int], boots: list[Boot]) -> dict[str, list[int]]:
        """Return the columns of readings at `instants`, each in its boot."""
        rows = []
        for at, boot in zip(instants, boots, strict=True):
            self._advance(at, boot)
            rows.append(
                (at, boot.pk, to_ms(boot.started_at), MINUTE_MS, self._link(), 2, self.role.speed_mbps, *self.counters)
            )
        return {name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)}

    def interface(self, at: int, boot: Boot) -> dict[str, object]:
        """Return the reading at `at` as the wire's object."""
        self._advance(at, boot)
        details = {"kind": self.role.kind, "ifindex": 2, "is_up": bool(self._link()), "name": self.role.name}
        if self.role.speed_mbps > 0:
            details["speed_mbps"] = self.role.speed_mbps
        if self.role.master:
            details["master"] = self.role.master
        return details | dict(zip(COUNTERS, self.counters, strict=True))

    def _link(self) -> int:
        return int(self.role.rate > 0)

    def _advance(self, at: int, boot: Boot) -> None:
        before, self.previous = self.previous, (at, boot.pk)
        if before is None:
            return
        if before[1] != boot.pk:
            self.counters = [0] * 8
        passed = self._rate(at) * min(at - before[0], 600_000) / 1000
        if not passed:
            return
        uniform = self.chance.random
        rx = passed * self.role.rx_share * (0.7 + 0.6 * uniform())
        tx = passed * (1 - self.role.rx_share) * (0.5 + uniform())
        size = 250 + 1_100 * min(self.burst_rate and 1.0, 1.0) * (0.8 + 0.2 * uniform()) + 200 * uniform()
        counters = self.counters
        counters[0] += int(rx)
        counters[1] += int(tx)
        counters[2] += int(rx / size) + 1
        counters[3] += int(tx / (size * 0.6)) + 1
        if self.burst_left and uniform() < 0.002:
            counters[6] += int(uniform() * 20)

    def _rate(self, at: int) -> float:
        """Return bytes a second: the time of day, noise, now and then a backup or a film; often nothing at all."""
        role, chance = self.role, self.chance
        if self.burst_left:
            self.burst_left -= 1
            return self.burst_rate * (0.8 + 0.4 * chance.random())
        if role.rate and chance.random() < role.bursts:
            self.burst_left = chance.randrange(3, 40)
            self.burst_rate = self.level * chance.uniform(8, 60)
        else:
            self.burst_rate = 0.0
        if role.quiet and chance.random() < role.quiet:
            return 0.0
        hour = at % DAY_MS / 3_600_000
        daily = 0.25 + 0.75 * (0.5 + 0.5 * cos((hour - EVENING) * pi / 12)) ** 2
        return self.level * daily * chance.lognormvariate(-0.3, 0.8) if role.rate else 0.0
