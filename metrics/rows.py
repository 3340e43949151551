"""Servers and interfaces as pages list them."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Prefetch

from metrics import charts, history
from metrics.figures import Figure, sum_of_known, total
from metrics.models import Event, Interface, Kind, to_ms
from servers.models import Server, State

NOTABLE_SKEW_SECONDS = 5
STATES = (State.OFFLINE, State.LATE, State.NEW, State.ONLINE)  # by trouble
GROUPS = {
    "Physical": (Kind.PHYSICAL, Kind.WIFI, Kind.VLAN),
    "Bridge and bond": (Kind.BRIDGE, Kind.BOND),
    "VPN": (Kind.TUN, Kind.WIREGUARD),
    "Container": (Kind.VETH,),
}
OTHERS = "Other"


class ServerRow(NamedTuple):
    """A server: rates are bytes per second, and None when they are not known now.

    `lost` are the links that are down and were not always: something has passed them since the boot. `slow` are those
    of the interfaces of its total that have been faster.
    """

    server: Server
    state: State
    rx_rate: float | None
    tx_rate: float | None
    links: dict[str, int]
    lost: list[str]
    slow: list[str]
    skew: float | None
    figure: Figure | None = None

    @property
    def is_odd(self) -> bool:
        return bool(self.slow or self.skew)


class InterfaceRow(NamedTuple):
    """An interface, its latest reading, and its figures."""

    interface: Interface
    latest: dict[str, Any]
    link: str
    rx_rate: float | None
    tx_rate: float | None
    figure: Figure | None = None

    @property
    def is_below_its_best(self) -> bool:
        return _is_slow(self.interface)

    @property
    def errors(self) -> int:
        return sum(self.latest.get(name) or 0 for name in ("rx_errors", "tx_errors"))

    @property
    def drops(self) -> int:
        return sum(self.latest.get(name) or 0 for name in ("rx_dropped", "tx_dropped"))


def with_counted() -> Prefetch:
    """Prefetch, as `counted`, the interfaces of a server's total: what a row and its figures need of them."""
    needed = ("server_id", "name", "sealed_until", "speed_mbps", "best_speed_mbps")
    return Prefetch(
        "interfaces", Interface.objects.counted().order_by("server_id", "name").only(*needed), to_attr="counted"
    )


def counted_of(server: Server) -> list[Interface]:
    """Return what `with_counted` has prefetched."""
    return server.counted  # type: ignore[attr-defined]


def server_row(
    server: Server, counted: Sequence[Interface], now: datetime, known: dict[int, Figure] | None = None
) -> ServerRow:
    """Return a server's row. `counted` are the interfaces of its total."""
    state = server.state(now=now)
    latest = latest_of(server)
    current = [latest[row.name] for row in counted if row.name in latest and state == State.ONLINE]
    links = Counter(link_state(interface, state) for interface in latest.values())
    return ServerRow(
        server,
        state,
        rx_rate=sum_of_known(interface.get("rx_rate") for interface in current),
        tx_rate=sum_of_known(interface.get("tx_rate") for interface in current),
        links={word: links[word] for word in ("up", "down", "unknown") if links[word]},
        lost=[name for name in sorted(latest) if _is_lost(latest[name]) and state != State.OFFLINE],
        slow=[row.name for row in counted if row.name in latest and _is_slow(row) and state != State.OFFLINE],
        skew=notable_skew(server),
        figure=total(tuple(known[row.pk] for row in counted if row.pk in known)) if known else None,
    )


def interface_row(server: Server, interface: Interface, now: datetime, figure: Figure | None = None) -> InterfaceRow:
    state = server.state(now=now)
    latest = latest_of(server).get(interface.name, {})
    is_now = state == State.ONLINE
    return InterfaceRow(
        interface,
        latest,
        link=link_state(latest, state),
        rx_rate=latest.get("rx_rate") if is_now else None,
        tx_rate=latest.get("tx_rate") if is_now else None,
        figure=figure,
    )


def by_trouble(rows: Iterable[ServerRow], with_events: Container[str] = ()) -> list[ServerRow]:
    """Return the rows, trouble first, then by name; `with_events` are the servers of which an event is open."""

    def key(row: ServerRow) -> tuple[bool, bool, bool, bool, int, str]:
        is_odd = row.is_odd or row.server.pk in with_events
        state, name = row.state, str(row.server).lower()
        return state != State.OFFLINE, state != State.LATE, not row.lost, not is_odd, STATES.index(state), name

    return sorted(rows, key=key)


def in_groups(rows: Iterable[InterfaceRow]) -> dict[str, list[InterfaceRow]]:
    """Return the rows by sort of interface; those that are hidden, or not reported any more, come last in theirs."""
    groups: dict[str, list[InterfaceRow]] = {name: [] for name in (*GROUPS, OTHERS)}
    for row in sorted(rows, key=lambda row: (row.interface.hidden, not row.latest, row.interface.name)):
        groups[group_of(row.interface)].append(row)
    return {name: group for name, group in groups.items() if group}


def group_of(interface: Interface) -> str:
    return next((name for name, kinds in GROUPS.items() if interface.effective_kind in kinds), OTHERS)


def link_state(latest: dict[str, Any], state: State) -> str:
    """Return up, down, or unknown: of an interface that is not reported, or by a server that is not heard."""
    if not latest or state == State.OFFLINE:
        return "unknown"
    return "up" if latest["is_up"] else "down"


def _is_slow(interface: Interface) -> bool:
    return 0 < (interface.speed_mbps or 0) < (interface.best_speed_mbps or 0)


def _is_lost(latest: dict[str, Any]) -> bool:
    return not latest["is_up"] and latest["rx_bytes"] + latest["tx_bytes"] > 0


def latest_of(server: Server) -> dict[str, dict[str, Any]]:
    snapshot = getattr(server, "snapshot", None)
    return {interface["name"]: interface for interface in snapshot.network_interfaces} if snapshot else {}


def notable_skew(server: Server) -> float | None:
    snapshot = getattr(server, "snapshot", None)
    skew = snapshot.clock_skew_seconds if snapshot else None
    return skew if skew is not None and abs(skew) > NOTABLE_SKEW_SECONDS else None


def charted(series: history.Series, events: Iterable[Event] = ()) -> charts.Series:
    """Return a series of history as the charts take it, with what happened meanwhile."""
    return charts.Series(
        starts=[to_ms(start) for start in series.start],
        end=to_ms(series.end),
        rx=series.rx_rate,
        tx=series.tx_rate,
        rx_peak=series.rx_peak,
        tx_peak=series.tx_peak,
        rx_low=series.rx_low,
        tx_low=series.tx_low,
        marks=series.marks,
        events=[charts.Happening(to_ms(event.at), event.title) for event in events],
    )
