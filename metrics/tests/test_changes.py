"""What is news from one report to the next, without a database: `before` and `after` are reports a minute apart."""

from typing import Any

import pytest

from metrics.changes import Change, ChangeKind, Seen, changes, link
from metrics.counters import UNKNOWN, Reading


def report(*interfaces: dict[str, Any], at: int = 0, boot: int = 1, started: int = -(10**9), **facts: Any) -> Seen:
    by_name = {interface["name"]: interface for interface in interfaces}
    readings = {
        name: Reading(
            at, boot, started, 60_000, int(of["is_up"]), of.get("ifindex", UNKNOWN), of.get("speed_mbps", UNKNOWN),
            of["rx_bytes"], 0, of.get("rx_packets", 0), 0,
        )
        for name, of in by_name.items()
    }  # fmt: skip
    known = {"boot_id": f"boot-{boot}" if boot else "", "is_live": True, "uptime": None, "interfaces": by_name}
    return Seen(at=at, boot=boot, started=started, readings=readings, **{**known, **facts})


def eth0(rx_bytes: int = 0, is_up: bool = True, **changes: Any) -> dict[str, Any]:
    return {"name": "eth0", "rx_bytes": rx_bytes, "is_up": is_up, **changes}


def news(before: Any, after: Any, best: int | None = None) -> list[tuple[str, str, str]]:
    """What changed from one state of eth0 to another, a minute later, in the same boot."""
    found = changes(report(before), report(after, at=60_000), {"eth0": best})
    assert {change.interface for change in found} <= {"eth0"}
    return [(change.kind.value, change.before, change.after) for change in found]


def test_nothing_is_news_when_only_counters_grow():
    assert news(eth0(5, carrier_changes=2, speed_mbps=1000), eth0(9, carrier_changes=2, speed_mbps=1000), 1000) == []


@pytest.mark.parametrize(
    ("is_up", "operstate", "state"),
    [
        (True, None, "up"), (True, "up", "up"), (True, "unknown", "unknown"), (True, "dormant", "up"),
        (False, None, "down"), (False, "down", "down"), (False, "unknown", "down"), (False, "lowerlayerdown", "down"),
    ],
)  # fmt: skip
def test_a_link_is_up_down_or_unknown(is_up: bool, operstate: str | None, state: str):
    assert link(eth0(is_up=is_up, **({"operstate": operstate} if operstate else {}))) == state


def test_a_link_that_goes_down_and_comes_up_is_news():
    assert news(eth0(), eth0(is_up=False)) == [("link_down", "up", "down")]
    assert news(eth0(is_up=False), eth0()) == [("link_up", "down", "up")]
    assert news(eth0(is_up=False, operstate="down"), eth0(operstate="unknown")) == [("link_unknown", "down", "unknown")]


def test_an_agent_that_begins_to_report_the_state_is_no_news():
    assert news(eth0(), eth0(operstate="unknown")) == []


def test_a_speed_that_changed_is_news():
    assert news(eth0(speed_mbps=100), eth0(speed_mbps=1000), 100) == [("speed_changed", "100", "1000")]


def test_a_speed_below_the_best_ever_seen_is_told_apart():
    assert news(eth0(speed_mbps=1000), eth0(speed_mbps=100), 1000) == [("speed_below_best", "1000", "100")]


def test_a_link_that_comes_back_at_its_best_speed_is_no_news_of_speed_and_below_it_is():
    down = eth0(is_up=False, speed_mbps=-1)
    assert [kind for kind, *_ in news(down, eth0(speed_mbps=1000), 1000)] == ["link_up"]
    assert news(down, eth0(speed_mbps=100), 1000)[1] == ("speed_below_best", "1000", "100")


def test_the_speed_of_a_link_that_is_down_or_wireless_is_no_news():
    assert [kind for kind, *_ in news(eth0(speed_mbps=1000), eth0(is_up=False, speed_mbps=-1))] == ["link_down"]
    assert news(eth0(speed_mbps=300, kind="wifi"), eth0(speed_mbps=6, kind="wifi"), 300) == []


def test_a_counter_that_restarted_is_a_reset_and_a_wrap_is_not():
    assert news(eth0(5000), eth0(7)) == [("reset", "5000", "7")]
    assert news(eth0(2**32 - 1000, speed_mbps=1000), eth0(5000, speed_mbps=1000)) == []


def test_a_flap_between_two_reports_shows_in_the_carrier_changes():
    assert news(eth0(carrier_changes=2), eth0(carrier_changes=4)) == [("flapped", "2", "4")]


def test_a_visible_change_is_one_carrier_change_and_no_flap():
    down = eth0(is_up=False, carrier_changes=3)
    assert [kind for kind, *_ in news(eth0(carrier_changes=2), down)] == ["link_down"]
    assert [kind for kind, *_ in news(eth0(carrier_changes=0), down)] == ["link_down", "flapped"]


def test_an_interface_made_again_under_its_name_is_news_and_no_reset():
    assert news(eth0(5000, ifindex=2), eth0(7, ifindex=9)) == [("recreated", "2", "9")]
    assert news(eth0(5000), eth0(6000, ifindex=9)) == []


def test_interfaces_appear_and_vanish():
    usb0 = {**eth0(), "name": "usb0", "ifindex": 7}
    assert changes(report(eth0()), report(eth0(), usb0), {}) == [Change(ChangeKind.APPEARED, "usb0", "", "7")]
    assert changes(report(eth0(), usb0), report(eth0()), {}) == [Change(ChangeKind.VANISHED, "usb0", "7", "")]
    assert len(changes(report(eth0(), usb0), report(), {})) == 2


def test_the_link_of_a_container_comes_and_goes_without_news():
    veth = {**eth0(), "name": "veth1a2b3c4", "kind": "veth", "master": "docker0"}
    assert changes(report(), report(veth), {}) == changes(report(veth), report(), {}) == []
    assert len(changes(report(), report({**veth, "master": ""}), {})) == 1


def test_a_report_without_interfaces_tells_nothing_of_them():
    nothing = report(interfaces=None)
    assert changes(report(eth0()), nothing, {}) == changes(nothing, report(eth0()), {}) == []


def test_a_reboot_is_news_and_its_counters_are_no_reset():
    after = report(eth0(7, ifindex=4, carrier_changes=1), at=60_000, boot=2, started=20_000)
    assert changes(report(eth0(5000, ifindex=2, carrier_changes=9)), after, {}) == [
        Change(ChangeKind.REBOOT, "", "boot-1", "boot-2")
    ]


def test_a_link_that_is_down_after_a_reboot_is_news():
    after = report(eth0(is_up=False), at=60_000, boot=2, started=20_000)
    assert [change.kind for change in changes(report(eth0()), after, {})] == ["reboot", "link_down"]


def test_a_reboot_of_an_agent_that_names_no_boot_shows_in_its_uptime():
    def up(seconds: float | None) -> Seen:
        return report(eth0(), boot=0, uptime=seconds)

    assert [change.kind for change in changes(up(500.0), up(20.0), {})] == ["reboot"]
    assert changes(up(500.0), up(560.0), {}) == changes(up(None), up(20.0), {}) == []


def test_an_agent_that_begins_to_name_its_boot_is_no_reboot():
    assert changes(report(eth0(), boot=0, uptime=500.0), report(eth0(), boot=1, uptime=560.0), {}) == []


def test_two_boots_at_once_are_a_clone_and_nothing_else_is_compared():
    after = report(eth0(1, is_up=False), at=60_000, boot=2, started=-100_000)
    assert changes(report(eth0(5000)), after, {}) == [Change(ChangeKind.CLONE, "", "boot-1", "boot-2")]


def test_a_boot_placed_by_its_agents_own_clock_is_no_clone():
    after = report(eth0(), at=60_000, boot=2, started=-100_000, is_live=False)
    assert changes(report(eth0()), after, {}) == []
