"""A machine made of files: fake /proc and /sys trees, and clocks that say what the test wants."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agent import homelab_agent
from agent.tests.hub import KEY, HonestHub

NET_DEV_HEADER = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast"
    "|bytes    packets errs drop fifo colls carrier compressed\n"
)
BOOT_ID = "0c9e2b5a-6f3d-4f0e-8a51-d2b7c4e19a66"


class FakeClock(homelab_agent.Clock):
    """Time passes only when a test says so; `boot_id` is the fake machine's."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 1, 6, 30, 0, 250_000, tzinfo=timezone.utc)
        self.up = 1_209_600.512
        self.boot: str | None = BOOT_ID

    def pass_time(self, seconds: float) -> None:
        self.up = round(self.up + seconds, 3)
        self.wall += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self.wall

    def uptime(self) -> float:
        return self.up

    def boot_id(self) -> str | None:
        return self.boot


class FakeMachine:
    """Writes what a kernel would show of its interfaces."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.net = root / "sys" / "class" / "net"
        (self.proc / "net").mkdir(parents=True)
        self.net.mkdir(parents=True)
        boot_id = self.proc / "sys" / "kernel" / "random" / "boot_id"
        boot_id.parent.mkdir(parents=True)
        boot_id.write_text(BOOT_ID + "\n")
        self.net_dev = self.proc / "net" / "dev"
        self.net_dev.write_text(NET_DEV_HEADER)
        self.os_release = root / "os-release"
        self.addresses: dict[str, list[str]] = {}

    def interface(
        self,
        name: str,
        *,
        rx: tuple[int, int, int, int] = (0, 0, 0, 0),
        tx: tuple[int, int, int, int] = (0, 0, 0, 0),
        addresses: tuple[str, ...] = (),
        marks: tuple[str, ...] = (),
        master: str = "",
        **files: object,
    ) -> None:
        """`rx` and `tx` are bytes, packets, errors, drops; `marks` are directories; `files` are attributes of /sys."""
        received, sent = (" ".join(map(str, counters)) for counters in (rx, tx))
        with self.net_dev.open("a") as file:
            file.write(f"{name:>6}: {received} 0 0 0 0 {sent} 0 0 0 0\n")
        directory = self.net / name
        directory.mkdir(exist_ok=True)
        for attribute, value in files.items():
            (directory / attribute).write_text(f"{value}\n")
        for mark in marks:
            (directory / mark).mkdir(exist_ok=True)
        if master:
            (directory / "master").symlink_to(f"../{master}")
        self.addresses[name] = list(addresses)

    def net_if_addrs(self) -> dict[str, list[SimpleNamespace]]:
        return {
            name: [
                SimpleNamespace(family=socket.AF_INET6 if ":" in address else socket.AF_INET, address=address)
                for address in addresses
            ]
            for name, addresses in self.addresses.items()
        }


class Agent:
    """An agent of the fake machine that runs once a minute by the fake clock; `attempted` are its uptimes."""

    def __init__(self, clock: FakeClock, state: Path) -> None:
        self.clock = clock
        self.state = state
        self.attempted: list[float] = []

    def run(self, *argv: str) -> int:
        self.clock.pass_time(60)
        self.attempted.append(self.clock.up)
        return homelab_agent.main(list(argv), clock=self.clock)

    def waiting(self) -> list[Path]:
        return sorted((self.state / "spool").iterdir())

    def rejected(self) -> list[Path]:
        return sorted((self.state / "rejected").iterdir())

    def away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hub is away: nobody listens on the discard port of this machine."""
        monkeypatch.setenv("HOMELAB_URL", "http://127.0.0.1:9")

    def back(self, hub: HonestHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOMELAB_URL", hub.url)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(machine.proc))
    monkeypatch.setattr(psutil, "net_if_addrs", machine.net_if_addrs)
    monkeypatch.setattr(homelab_agent, "SYSFS_PATH", str(tmp_path / "sys"))
    monkeypatch.setattr(homelab_agent, "OS_RELEASE_PATH", str(machine.os_release))
    return machine


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def hub():
    with HonestHub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine the tests run on reaches the agent."""
    for name in list(os.environ):
        if name.startswith("HOMELAB_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(homelab_agent, "ENV_FILE", str(tmp_path / "agent.env"))
    monkeypatch.setattr(homelab_agent, "BATCH_PAUSE_SECONDS", 0)
    monkeypatch.setenv("HOMELAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def agent(
    hub: HonestHub, machine: FakeMachine, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Agent:
    machine.interface("eth0", rx=(1, 1, 0, 0), operstate="up")
    monkeypatch.setenv("HOMELAB_URL", hub.url)
    monkeypatch.setenv("HOMELAB_KEY", KEY)
    return Agent(clock, tmp_path / "state")
