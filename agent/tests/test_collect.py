from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agent import homelab_agent
from agent.homelab_agent import collect, network_interfaces, read_counters
from agent.tests.conftest import NET_DEV_HEADER, FakeClock, FakeMachine

UP = {"operstate": "up", "flags": "0x1003"}
DOWN = {"operstate": "down", "flags": "0x1002"}
GOLDEN = Path(homelab_agent.__file__).parents[1] / "docs" / "heartbeat.json"


def names(**patterns: list[str]) -> list[str]:
    return [interface["name"] for interface in network_interfaces(**patterns)]


def only() -> dict:
    (interface,) = network_interfaces()
    return interface


def test_two_interfaces_are_collected(machine: FakeMachine):
    machine.interface("eth0", rx=(1000, 10, 1, 2), tx=(2000, 20, 3, 4), **UP)
    machine.interface("eth1", rx=(5, 1, 0, 0), tx=(6, 2, 0, 0), **DOWN)
    first, second = network_interfaces()
    assert first == {
        "name": "eth0",
        "rx_bytes": 1000,
        "tx_bytes": 2000,
        "rx_packets": 10,
        "tx_packets": 20,
        "rx_errors": 1,
        "tx_errors": 3,
        "rx_dropped": 2,
        "tx_dropped": 4,
        "is_up": True,
        "operstate": "up",
        "kind": "virtual",
    }
    assert (second["name"], second["rx_bytes"], second["is_up"]) == ("eth1", 5, False)


@pytest.mark.parametrize("content", ["", NET_DEV_HEADER])
def test_empty_proc_net_dev_gives_an_empty_list_and_a_warning(machine: FakeMachine, capsys, content: str):
    machine.net_dev.write_text(content)
    assert network_interfaces() == []
    assert "warning: no interface counters" in capsys.readouterr().err


def test_missing_proc_net_dev_gives_an_empty_list_and_a_warning(machine: FakeMachine, capsys):
    machine.net_dev.unlink()
    assert network_interfaces() == []
    assert "warning: no interface counters" in capsys.readouterr().err


def test_operstate_up_is_up(machine: FakeMachine):
    machine.interface("eth0", **UP)
    assert only()["is_up"] is True


@pytest.mark.parametrize("operstate", ["down", "dormant", "lowerlayerdown", "notpresent", "testing"])
def test_operstate_down_and_its_kin_are_down(machine: FakeMachine, operstate: str):
    machine.interface("eth0", operstate=operstate, flags="0x1003")
    assert (only()["is_up"], only()["operstate"]) == (False, operstate)


def test_operstate_missing_is_absent_and_the_flag_decides(machine: FakeMachine):
    machine.interface("eth0", flags="0x1003")
    assert (only()["is_up"], only().get("operstate")) == (True, None)


def test_operstate_and_flags_missing_is_down(machine: FakeMachine):
    machine.interface("eth0")
    assert only()["is_up"] is False


def test_operstate_unknown_with_the_up_flag_is_up(machine: FakeMachine):
    machine.interface("wg0", operstate="unknown", flags="0x10091")
    assert only()["is_up"] is True


def test_operstate_unknown_without_the_up_flag_is_down(machine: FakeMachine):
    machine.interface("wg0", operstate="unknown", flags="0x10090")
    assert only()["is_up"] is False


def test_operstate_of_a_kernel_to_come_is_not_passed_on(machine: FakeMachine):
    machine.interface("eth0", operstate="entangled", flags="0x1003")
    assert "operstate" not in only()


def test_loopback_is_excluded_by_its_flag_and_by_its_name(machine: FakeMachine):
    machine.interface("lo", operstate="unknown", flags="0x9")
    machine.interface("loop1", operstate="unknown", flags="0x9")
    machine.interface("eth0", **UP)
    assert names() == ["eth0"]


def test_tailscale_docker_and_veth_are_included(machine: FakeMachine):
    for name in ("tailscale0", "docker0", "veth12ab", "br-5e10"):
        machine.interface(name, **UP)
    assert names() == ["br-5e10", "docker0", "tailscale0", "veth12ab"]


@pytest.mark.parametrize(
    "line",
    [
        "  eth1: 1 2 3",
        "  eth1: one 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
        "  eth1 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
        "  eth1: -1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
        "  eth1: 9223372036854775808 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
        "  eth1: ² 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
        ": 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0",
    ],
)
def test_a_malformed_line_skips_only_that_interface(machine: FakeMachine, capsys, line: str):
    machine.interface("eth0", rx=(7, 1, 0, 0), **UP)
    with machine.net_dev.open("a") as file:
        file.write(line + "\n")
    machine.interface("eth2", rx=(9, 1, 0, 0), **UP)
    assert [(i["name"], i["rx_bytes"]) for i in network_interfaces()] == [("eth0", 7), ("eth2", 9)]
    assert "skipped" in capsys.readouterr().err


def test_without_psutil_the_counters_are_the_same(machine: FakeMachine, monkeypatch):
    machine.interface("eth0", rx=(1000, 10, 1, 2), tx=(2000, 20, 3, 4), **UP)
    assert homelab_agent.read_counters_by_line() == read_counters()


@pytest.mark.skipif(sys.platform != "linux", reason="the flags are Linux's")
def test_without_psutil_and_sys_the_kernel_says_what_is_up(monkeypatch):
    known = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert {name: homelab_agent.details_without_sysfs(name)["is_up"] for name in known} == known
    assert homelab_agent.details_without_sysfs("gone0")["is_up"] is False


def test_counters_of_64_bits_stay_exact(machine: FakeMachine):
    machine.interface("eth0", rx=(2**63 - 1, 2**53 + 1, 0, 0), **UP)
    assert (only()["rx_bytes"], only()["rx_packets"]) == (9223372036854775807, 9007199254740993)


def test_include_and_exclude_are_patterns(machine: FakeMachine):
    for name in ("eth0", "eth1", "veth1", "docker0"):
        machine.interface(name, **UP)
    assert names(include=["eth*"]) == ["eth0", "eth1"]
    assert names(exclude=["veth*", "docker?"]) == ["eth0", "eth1"]
    assert names(include=["*eth*"], exclude=["veth*"]) == ["eth0", "eth1"]


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ({"marks": ("device",)}, "physical"),
        ({"marks": ("device", "phy80211")}, "wifi"),
        ({"marks": ("device",), "uevent": "DEVTYPE=wlan"}, "wifi"),
        ({"uevent": "DEVTYPE=bridge\nINTERFACE=x\nIFINDEX=4"}, "bridge"),
        ({"marks": ("bridge",)}, "bridge"),
        ({"uevent": "DEVTYPE=bond"}, "bond"),
        ({"marks": ("bonding",)}, "bond"),
        ({"uevent": "DEVTYPE=vlan", "marks": ("lower_eth0",)}, "vlan"),
        ({"uevent": "DEVTYPE=wireguard"}, "wireguard"),
        ({"tun_flags": "0x1"}, "tun"),
        ({"type": 1, "ifindex": 7}, "virtual"),
    ],
)
def test_kind_by_the_marks_in_sys(machine: FakeMachine, details: dict, kind: str):
    machine.interface("x", **UP, **details)
    assert only()["kind"] == kind


def test_details_that_say_nothing_are_absent(machine: FakeMachine):
    machine.interface("eth0", **DOWN, speed=-1, mtu="", address="00:00:00:00:00:00", ifindex="x", carrier_changes=2**40)
    assert set(only()) & {"speed_mbps", "mtu", "mac", "ifindex", "carrier_changes", "master", "addresses"} == set()


def test_a_details_file_that_cannot_be_read_is_absent(machine: FakeMachine):
    machine.interface("eth0", **UP, marks=("speed", "mtu"))
    assert set(only()) & {"speed_mbps", "mtu"} == set()


def test_a_name_the_hub_cannot_take_is_shown_in_escapes(machine: FakeMachine):
    with machine.net_dev.open("ab") as file:
        for name in (b"a<b>c", b"\xff\xfe", b"e\x1b[1m", "\u202e0hte".encode()):
            file.write(b"  " + name + b": 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")
    assert names() == ["\\u202e0hte", "\\udcff\\udcfe", "a<b>c", "e\\x1b[1m"]


def test_a_name_cannot_lead_out_of_sys(machine: FakeMachine):
    (machine.net.parent.parent / "flags").write_text("0x1003")
    with machine.net_dev.open("a") as file:
        file.write("../..: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")
    assert (only()["name"], only()["is_up"]) == ("../..", False)


def test_at_most_256_interfaces_and_veths_are_left_out_first(machine: FakeMachine, capsys):
    for number in range(300):
        machine.interface(f"veth{number}", **UP)
    machine.interface("zeth0", **UP)
    assert len(names()) == 256
    assert names()[-1] == "zeth0"
    assert "only 256 reported" in capsys.readouterr().err


def test_the_golden_heartbeat_is_what_the_agent_makes_of_that_machine(
    machine: FakeMachine, clock: FakeClock, monkeypatch
):
    golden_machine(machine, monkeypatch)
    settings = homelab_agent.Settings(
        homelab_agent.arguments().parse_args(["--server-id", "nas-01"]),
        {"HOMELAB_SERVER_GUID": "3f2b8c1e-7d54-4a96-9b0e-51c6d2a7f830"},
    )
    heartbeat = collect(settings, clock, {"spooled": 0, "sent": 20159, "rejected": 0, "dropped": 0})
    clock.up += 2.525
    made = homelab_agent.as_sent(heartbeat, clock)
    assert made == json.loads(GOLDEN.read_text())
    assert list(made["network_interfaces"][1]) == list(json.loads(GOLDEN.read_text())["network_interfaces"][1])


def golden_machine(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homelab_agent.socket, "gethostname", lambda: "nas-01.home.arpa")
    uname = SimpleNamespace(sysname="Linux", release="6.1.0-31-amd64", machine="x86_64")
    monkeypatch.setattr(homelab_agent.os, "uname", lambda: uname)
    machine.os_release.write_text('PRETTY_NAME="Debian 12"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n')
    machine.interface("lo", rx=(900, 9, 0, 0), tx=(900, 9, 0, 0), operstate="unknown", flags="0x9", ifindex=1)
    machine.interface(
        "eth0",
        rx=(9007199254740993, 6755399441055, 2, 417),
        tx=(1152921504606846977, 823543000001, 1, 3),
        addresses=("192.168.1.10", "fd00::10", "fe80::ba27:ebff:fe4f:1595%eth0"),
        marks=("device",),
        speed=2500,
        mtu=1500,
        address="b8:27:eb:4f:15:95",
        ifindex=2,
        carrier_changes=5,
        **UP,
    )
    machine.interface(
        "wlan0",
        marks=("device", "phy80211"),
        mtu=1500,
        address="b8:27:eb:1a:40:c0",
        ifindex=3,
        carrier_changes=1,
        **DOWN,
    )
    machine.interface(
        "docker0",
        rx=(5368709120, 7340032, 0, 0),
        tx=(12884901888, 9437184, 0, 0),
        addresses=("172.17.0.1",),
        marks=("bridge",),
        uevent="DEVTYPE=bridge",
        speed=-1,
        mtu=1500,
        address="02:42:5e:10:8c:01",
        ifindex=4,
        carrier_changes=3,
        **UP,
    )
    machine.interface(
        "tailscale0",
        rx=(18446744, 65536, 0, 0),
        tx=(9437184, 49152, 0, 12),
        addresses=("100.101.102.103",),
        tun_flags="0x1001",
        speed=-1,
        mtu=1280,
        address="",
        ifindex=5,
        carrier_changes=0,
        operstate="unknown",
        flags="0x1091",
    )
    machine.interface(
        "eth0.20",
        rx=(734003200, 1048576, 0, 0),
        tx=(104857600, 524288, 0, 0),
        addresses=("192.168.20.10",),
        uevent="DEVTYPE=vlan",
        speed=2500,
        mtu=1500,
        address="b8:27:eb:4f:15:95",
        ifindex=6,
        carrier_changes=2,
        **UP,
    )
    machine.interface(
        "veth3a9f1c2",
        rx=(2147483648, 2097152, 0, 0),
        tx=(4294967297, 3145728, 0, 0),
        master="docker0",
        speed=10000,
        mtu=1500,
        address="5a:7d:0e:93:b4:11",
        ifindex=9,
        carrier_changes=2,
        **UP,
    )


def test_time_is_told_three_times(machine: FakeMachine, clock: FakeClock):
    heartbeat = collected(clock)
    assert heartbeat["timestamp"] == "2026-03-01T06:30:00.250+00:00"
    assert (heartbeat["boot_id"], heartbeat["uptime"]) == (clock.boot, 1_209_600.512)


def test_without_a_boot_id_it_is_absent(machine: FakeMachine, clock: FakeClock):
    clock.boot = None
    assert "boot_id" not in collected(clock)


def test_the_real_clock_reads_boot_id_and_uptime_of_this_machine():
    clock = homelab_agent.Clock()
    assert clock.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(clock.uptime() - float(Path("/proc/uptime").read_text().split()[0])) < 0.5


def test_os_info_without_os_release_is_the_system_name(machine: FakeMachine):
    assert homelab_agent.os_info()["distribution"] == "Linux"
    assert "version" not in homelab_agent.os_info()


def test_where_there_is_no_sys_psutil_knows_the_link(machine: FakeMachine, monkeypatch):
    stats = {
        "en0": SimpleNamespace(isup=True, mtu=1500, speed=1000),
        "lo0": SimpleNamespace(isup=True, mtu=16384, speed=0),
    }
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)
    for name in stats:
        machine.interface(name)
        (machine.net / name).rmdir()
    assert (only()["name"], only()["is_up"], only()["mtu"], only()["speed_mbps"]) == ("en0", True, 1500, 1000)


def collected(clock: FakeClock) -> dict:
    return collect(homelab_agent.Settings(homelab_agent.arguments().parse_args([]), {}), clock)
