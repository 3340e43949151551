"""A believable fleet for tests and pictures: heartbeats through the front door, with past instants."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import cos, pi
from typing import Any

from django.db import transaction

from metrics.ingest import Report, ingest

LONG_NAME = "an-interface-name-of-sixty-four-characters-which-is-the-longest1"
SCRIPT_NAME = "<script>alert(1)</script>"
PETABYTE = 10**15


class Interface:
    """Counts up by `rx` and `tx` bytes per second, more in the evening than at night, with bursts."""

    def __init__(self, name: str, rx: float, tx: float, **facts: Any) -> None:
        self.rates = (rx, tx)
        self.facts = {"name": name, "is_up": bool(rx or tx), **facts}
        self.counters = [int(rx * 86_400 * 11), int(tx * 86_400 * 11)]

    def at(self, at: datetime, seconds: float) -> dict[str, Any]:
        hour = at.hour + at.minute / 60
        minute = int(at.timestamp() // 60)
        for way, rate in enumerate(self.rates):
            daily = 0.25 + 0.75 * (1 - cos((hour - 5) / 12 * pi)) / 2
            noise = 0.7 + 0.6 * (minute * 7919 % 97 + way * 31) / 97
            burst = 6 if minute * 31 % 613 < 12 else 1
            self.counters[way] += int(rate * daily * noise * burst * seconds)
        rx, tx = self.counters
        return {
            **self.facts,
            "rx_bytes": rx,
            "tx_bytes": tx,
            "rx_packets": rx // 900,
            "tx_packets": tx // 700,
            "rx_errors": 0,
            "tx_errors": 0,
            "rx_dropped": rx // 9_000_000_000,
            "tx_dropped": 0,
        }

    def restart(self) -> None:
        self.counters = [0, 0]


class Machine:
    def __init__(self, server_id: str, system: str, interfaces: list[Interface], *, skew: float = 0) -> None:
        self.server_id = server_id
        self.system = system
        self.interfaces = interfaces
        self.skew = timedelta(seconds=skew)

    def report(self, at: datetime, seconds: float, booted_at: datetime) -> Report:
        uptime = (at - booted_at).total_seconds()
        return Report(
            server_id=self.server_id,
            hostname=f"{self.server_id}.home.arpa",
            timestamp=at - self.skew,
            agent_version="0.1.0",
            os_info=dict(zip(("distribution", "version"), self.system.rsplit(" ", 1), strict=True))
            | {"architecture": "x86_64"},
            boot_id=f"{self.server_id}-{booted_at:%Y%m%d%H%M}"[-64:],
            uptime=uptime,
            sent_uptime=uptime,
            interval=seconds,
            network_interfaces=[interface.at(at, seconds) for interface in self.interfaces],
        )


def fleet() -> list[Machine]:
    megabyte = 10**6
    return [
        Machine(
            "nas-01",
            "Debian GNU/Linux 12",
            [
                Interface("eth0", 9 * megabyte, 21 * megabyte, kind="physical", speed_mbps=2500),
                Interface("eth1", 0, 0, kind="physical"),
                Interface("br0", 2 * megabyte, 3 * megabyte, kind="bridge"),
                Interface("docker0", 60_000, 110_000, kind="bridge"),
                Interface("veth3a9f1c2", 60_000, 110_000, kind="veth", master="docker0", speed_mbps=10_000),
                Interface("tailscale0", 21_000, 90_000, kind="tun", operstate="unknown"),
                Interface("wg0", 4_000, 9_000, kind="wireguard", operstate="unknown"),
            ],
        ),
        Machine(
            "router",
            "OpenWrt 24.10",
            [
                Interface("wan", 5 * megabyte, 800_000, kind="physical", speed_mbps=1000),
                Interface("lan0", 1 * megabyte, 5 * megabyte, kind="physical", speed_mbps=1000),
                Interface("wlan0", 300_000, 2 * megabyte, kind="wifi"),
            ],
        ),
        Machine("pi-hole", "Raspbian 12", [Interface("eth0", 3_000, 5_000, kind="physical", speed_mbps=100)], skew=41),
        Machine(
            "backup",
            "Debian GNU/Linux 13",
            [Interface("enp3s0", 30 * megabyte, 100_000, kind="physical", speed_mbps=1000)],
        ),
    ]


def strange() -> Machine:
    """Long and hostile names, nothing, and very much, on twenty interfaces."""
    odd = [
        Interface(LONG_NAME, 10, 10, kind="virtual"),
        Interface(SCRIPT_NAME, 1_000, 1_000, kind="virtual", master="<b>bond0</b>"),
        Interface('"onx=1', 1_000, 1_000),
        Interface("zero", 0, 0),
        Interface("much", 12 * PETABYTE / 86_400 / 11, PETABYTE / 86_400, kind="physical", speed_mbps=400_000),
    ]
    return Machine(
        "hypervisor-02", "Proxmox VE 9.1", odd + [Interface(f"tap{i}i0", i * 999, i * 77) for i in range(15)]
    )


def report(
    machines: Iterable[Machine], *, start: datetime, end: datetime, every: timedelta, booted_at: datetime
) -> None:
    """Let the machines report from `start` to `end`."""
    seconds = every.total_seconds()
    for machine in machines:
        with transaction.atomic():
            at = start
            while at <= end:
                ingest(machine.report(at, seconds, booted_at), may_register=True, now=at)
                at += every
