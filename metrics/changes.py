"""What is different from one report of a server to the next. Pure: no Django, no settings, no clock."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from operator import lt
from typing import Any, NamedTuple

from metrics.counters import NO_BOOT, REQUIRED, RESET, UNKNOWN, Reading, step

CLOCK_TOLERANCE_MS = 30_000  # how far a boot's start may be off

Interface = Mapping[str, Any]  # as on the wire


class ChangeKind(StrEnum):
    LINK_UP = "link_up"
    LINK_DOWN = "link_down"
    LINK_UNKNOWN = "link_unknown"
    SPEED_CHANGED = "speed_changed"
    SPEED_BELOW_BEST = "speed_below_best"
    FLAPPED = "flapped"
    RESET = "reset"
    APPEARED = "appeared"
    VANISHED = "vanished"
    RECREATED = "recreated"
    REBOOT = "reboot"
    CLONE = "clone"


class Change(NamedTuple):
    """One change; `interface` is empty where it is the server's. Before and after are a state, a number or a boot."""

    kind: ChangeKind
    interface: str
    before: str
    after: str


class Seen(NamedTuple):
    """One report: its instant and its boot's start in ms, uptime in seconds, and its interfaces by name.

    `interfaces` None: the report named none. `is_live`: the start is in the hub's time, not by the agent's clock.
    """

    at: int
    boot: int
    boot_id: str
    started: int
    is_live: bool
    uptime: float | None
    interfaces: Mapping[str, Interface] | None
    readings: Mapping[str, Reading]

    def with_interfaces_of(self, before: "Seen") -> "Seen":
        """Return this report of no interfaces with those that were reported before."""
        return self._replace(interfaces=before.interfaces, readings=before.readings)


TOLD = ("is_up", "operstate", "speed_mbps", "carrier_changes")  # what the events of an interface are made of


def changes(before: Seen, after: Seen, best_speeds: Mapping[str, int | None]) -> list[Change]:
    """Return what is different in `after`. `best_speeds` in Mbit/s, of the interfaces whose speed is different."""
    is_other_boot = NO_BOOT not in (before.boot, after.boot) and before.boot != after.boot
    if is_other_boot and after.started < before.at - CLOCK_TOLERANCE_MS:
        # The boot had begun before the other one spoke last: both are running, and what they report is not comparable.
        is_known = before.is_live and after.is_live
        return [Change(ChangeKind.CLONE, "", before.boot_id, after.boot_id)] if is_known else []
    found = []
    rebooted = is_other_boot or _uptime_fell(before, after)
    if rebooted:
        found.append(Change(ChangeKind.REBOOT, "", before.boot_id, after.boot_id))
    if before.interfaces is None or after.interfaces is None:
        return found
    for name, new in after.interfaces.items():
        old = before.interfaces.get(name)
        if old is not None and not rebooted and _only_counted(old, new, before.readings[name], after.readings[name]):
            continue
        if old is not None:
            found += _link(name, old, new)
            if not rebooted:
                found += _counters(name, old, new, before.readings[name], after.readings[name])
        elif not _comes_and_goes(new):
            found.append(Change(ChangeKind.APPEARED, name, "", _text(new.get("ifindex"))))
        found += _speed(name, old or {}, new, best_speeds.get(name))
    for name, old in before.interfaces.items():
        if name not in after.interfaces and not _comes_and_goes(old):
            found.append(Change(ChangeKind.VANISHED, name, _text(old.get("ifindex")), ""))
    return found


def link(interface: Interface) -> str:
    """Return up, down, or, where the driver does not tell, unknown."""
    if not interface["is_up"]:
        return "down"
    return "unknown" if interface.get("operstate") == "unknown" else "up"


def speed_of(interface: Interface) -> int | None:
    """Return the link's speed in Mbit/s, or None where it is not known."""
    speed = interface.get("speed_mbps")
    return speed if speed is not None and speed > 0 else None


def _uptime_fell(before: Seen, after: Seen) -> bool:
    """Tell whether an agent that names no boot speaks of a new one."""
    if NO_BOOT not in (before.boot, after.boot) or before.uptime is None or after.uptime is None:
        return False
    return after.uptime < before.uptime


def _comes_and_goes(interface: Interface) -> bool:
    """Tell whether this is a container's end of a bridge: it is there while the container runs, which is no news."""
    return interface.get("kind") == "veth" and bool(interface.get("master"))


def _only_counted(old: Interface, new: Interface, a: Reading, b: Reading) -> bool:
    """Tell, at a glance, that nothing but its counters changed, and these went up: so it nearly always is."""
    return (
        all(old.get(name) == new.get(name) for name in TOLD)
        and a.ifindex == b.ifindex
        and not any(map(lt, b.counters[: len(REQUIRED)], a.counters))
    )


def _link(name: str, old: Interface, new: Interface) -> Iterator[Change]:
    before, after = link(old), link(new)
    told_alike = ("operstate" in old) == ("operstate" in new)
    if before != after and (told_alike or old["is_up"] != new["is_up"]):
        yield Change(ChangeKind(f"link_{after}"), name, before, after)


def _counters(name: str, old: Interface, new: Interface, a: Reading, b: Reading) -> Iterator[Change]:
    if b.boot != NO_BOOT and a.at < b.started:
        return  # of another boot; a report without interfaces has told of the reboot
    if UNKNOWN not in (a.ifindex, b.ifindex) and a.ifindex != b.ifindex:
        yield Change(ChangeKind.RECREATED, name, str(a.ifindex), str(b.ifindex))
        return
    fell = next((counter for counter in REQUIRED if getattr(b, counter) < getattr(a, counter)), None)
    if fell is not None and step(a, b).marks & RESET:
        yield Change(ChangeKind.RESET, name, str(getattr(a, fell)), str(getattr(b, fell)))
        return
    carrier_before, carrier_after = old.get("carrier_changes"), new.get("carrier_changes")
    if carrier_before is not None and carrier_after is not None:
        seen = old["is_up"] != new["is_up"]
        if carrier_after - carrier_before > seen:
            yield Change(ChangeKind.FLAPPED, name, str(carrier_before), str(carrier_after))


def _speed(name: str, old: Interface, new: Interface, best: int | None) -> Iterator[Change]:
    """A wireless link's speed changes all the time, and a link that is down has none."""
    before, after = speed_of(old), speed_of(new)
    if after is None or after == before or new.get("kind") == "wifi":
        return
    if best is not None and after < best:
        yield Change(ChangeKind.SPEED_BELOW_BEST, name, str(before or best), str(after))
    elif before is not None:
        yield Change(ChangeKind.SPEED_CHANGED, name, str(before), str(after))


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
