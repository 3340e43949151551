"""The agent in a network namespace of its own, with real veth pairs: what the kernel counts is what is reported."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from agent import homelab_agent

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="network namespaces need Linux and root"
)
NAMESPACE = f"hl-agent-{os.getpid()}"
AGENT = homelab_agent.__file__


def ip(*words: str) -> str:
    assert shutil.which("ip"), "these tests need iproute2"
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def inside(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", "netns", "exec", NAMESPACE, *command], check=True, capture_output=True, text=True)


def dry_run(*flags: str) -> dict[str, dict]:
    done = inside(sys.executable, AGENT, "--dry-run", *flags)
    assert done.stderr == ""
    return {interface["name"]: interface for interface in json.loads(done.stdout)["network_interfaces"]}


def send_frames(number: int, size: int) -> None:
    """Through va to vb; a protocol number nobody speaks, so that nobody answers."""
    script = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('va', 0));"
        f"[s.send(b'\\xff' * 6 + b'\\x02' * 6 + b'\\x88\\xb5' + bytes({size} - 14)) for _ in range({number})]"
    )
    inside(sys.executable, "-c", script)


@pytest.fixture
def namespace() -> Iterator[None]:
    """va and vb are a pair up at both ends; vc is down; br0 holds va's own sister vd."""
    ip("netns", "add", NAMESPACE)
    try:
        for words in (
            "link set lo up",
            "link add va type veth peer name vb",
            "link add vc type veth peer name vd",
            "link add br0 type bridge",
            "link set vd master br0",
            "addr add 10.99.0.1/24 dev va",
            "link set va up",
            "link set vb up",
            "link set br0 up",
        ):
            ip("-n", NAMESPACE, *words.split())
        yield
    finally:
        ip("netns", "delete", NAMESPACE)


def test_real_veth_pairs_are_reported_as_the_kernel_has_them(namespace):
    found = dry_run()
    assert sorted(found) == ["br0", "va", "vb", "vc", "vd"]
    assert {name: i["kind"] for name, i in found.items()} == {
        "br0": "bridge", "va": "veth", "vb": "veth", "vc": "veth", "vd": "veth",
    }  # fmt: skip
    assert (found["va"]["is_up"], found["va"]["operstate"]) == (True, "up")
    assert (found["vc"]["is_up"], found["vc"]["operstate"]) == (False, "down")
    assert found["vd"]["master"] == "br0"
    assert "10.99.0.1" in found["va"]["addresses"]
    assert sorted(dry_run("--exclude", "v?")) == ["br0"]


def test_known_traffic_is_counted_to_the_byte(namespace):
    # IPv6 would add packets of its own (router solicitations) between the two readings.
    for name in ("va", "vb"):
        inside("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1")
    before = dry_run()
    frames, size = 100, 1000
    send_frames(frames, size)
    after = dry_run()
    increase = {
        (name, counter): after[name][counter] - before[name][counter]
        for name in ("va", "vb")
        for counter in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
    }
    assert increase["va", "tx_bytes"] == increase["vb", "rx_bytes"] == frames * size
    assert increase["va", "tx_packets"] == increase["vb", "rx_packets"] == frames
    assert increase["va", "rx_bytes"] == increase["vb", "tx_bytes"] == 0


def test_an_interface_made_again_under_its_name_has_another_ifindex_and_counts_from_nought(namespace):
    send_frames(3, 100)
    before = dry_run()["va"]
    ip("-n", NAMESPACE, "link", "delete", "va")
    ip(*f"-n {NAMESPACE} link add va type veth peer name vb".split())
    after = dry_run()["va"]
    assert before["tx_bytes"] > after["tx_bytes"] == 0
    assert before["ifindex"] != after["ifindex"]


def test_a_renamed_veth_is_told_by_its_driver_though_its_peer_far_away_has_the_same_number(namespace):
    far = f"{NAMESPACE}-far"
    ip("netns", "add", far)
    try:
        ip(*f"-n {NAMESPACE} link add lan0 index 77 type veth peer name wan0 index 77 netns {far}".split())
        ip(*f"-n {NAMESPACE} link add mac0 link va type macvlan".split())
        links = [f"/sys/class/net/lan0/{file}" for file in ("ifindex", "iflink")]
        assert inside("cat", *links).stdout.split() == ["77", "77"]
        found = dry_run("--include", "???0")
    finally:
        ip("netns", "delete", far)
    assert {name: i["kind"] for name, i in found.items()} == {"lan0": "veth", "mac0": "virtual"}


def test_two_hundred_veths_come_and_go(namespace):
    pairs = [(f"p{number}", f"q{number}") for number in range(100)]
    ip_batch(f"link add {one} type veth peer name {other}" for one, other in pairs)
    assert len(dry_run()) == 205
    ip_batch(f"link delete {one}" for one, _ in pairs)
    assert len(dry_run()) == 5


def ip_batch(commands: Iterable[str]) -> None:
    command = ["ip", "-n", NAMESPACE, "-batch", "-"]
    subprocess.run(command, input="\n".join(commands), text=True, check=True, capture_output=True)


TUN = """
import fcntl, os, struct, subprocess, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun7", 0x1001))
subprocess.run(["ip", "link", "set", "tun7", "up"], check=True)
subprocess.run(sys.argv[1:], check=True)
"""


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="this kernel has no tun devices")
def test_a_tun_device_of_unknown_state_is_up(namespace):
    done = inside(sys.executable, "-c", TUN, sys.executable, AGENT, "--dry-run", "--include", "tun*")
    (found,) = json.loads(done.stdout)["network_interfaces"]
    assert (found["kind"], found["operstate"], found["is_up"]) == ("tun", "unknown", True)


def test_this_machine_reports_what_sys_class_net_lists():
    listed = set(os.listdir("/sys/class/net"))
    loopbacks = {n for n in listed if int(Path(f"/sys/class/net/{n}/flags").read_text(), 16) & 8}
    with_device = {name for _, name in socket.if_nameindex()}
    assert {i["name"] for i in homelab_agent.network_interfaces()} == (listed & with_device) - loopbacks
