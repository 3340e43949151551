"""A machine that is made up, with the real agent on it: its counters and its clock are what a test says.

`python -m homelab.tests.monitored FOLDER CLOCK [FLAG ...]` is one run of the agent, as a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from agent import homelab_agent
from homelab.tests.faults.machines import COUNTERS, Machine
from homelab.tests.hub import ROOT

NET_DEV = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n"
ROW = "{0}: {1[0]} {1[2]} {1[4]} {1[6]} 0 0 0 0 {1[1]} {1[3]} {1[5]} {1[7]} 0 0 0 0\n"
BOOTED_DAYS_AGO = 35


@dataclass
class Clock(homelab_agent.Clock):
    """Reads `at_first`, an uptime, and goes on from `behind` the present; the wall clock is `wrong` beside that."""

    started: float
    at_first: float
    behind: float = 0.0
    wrong: float = 0.0
    asked: int = 0

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() - self.behind + self.wrong, UTC)

    def uptime(self) -> float:
        self.asked += 1
        return self.at_first if self.asked == 1 else time.time() - self.behind - self.started


class Monitored(Machine):
    """A machine in `folder` that reports to the hub at `url`. Each run of its agent finds counters that moved on.

    A beat's number is the `rx_packets` of its interfaces, in the spool as on the hub.
    """

    def __init__(
        self, server_id: str, folder: Path, url: str, *, interfaces: Iterable[str] = ("eth0", "wlan0")
    ) -> None:
        started = round(time.time() - BOOTED_DAYS_AGO * 86_400, 3)
        super().__init__(server_id, started=started, interfaces=interfaces)
        self.folder, self.url = folder, url
        self.spool, self.rejected = folder / "state" / "spool", folder / "state" / "rejected"
        self._write("proc/sys/kernel/random/boot_id", "b007-1")
        for name in self.counters:
            for file, value in {"flags": "0x1003", "operstate": "up", "ifindex": "2"}.items():
                self._write(f"sys/class/net/{name}/{file}", value)

    @property
    def key(self) -> str:
        """The one that the agent keeps."""
        return (self.folder / "agent.env").read_text().partition("HOMELAB_KEY=")[2].split()[0]

    def reboot(self, *, started: float) -> None:
        """Begin another boot, with counters that begin anew."""
        self.starts.append(round(started, 3))
        self.counters = {name: [0] * len(COUNTERS) for name in self.counters}
        self._write("proc/sys/kernel/random/boot_id", f"b007-{len(self.starts)}")

    def clone(self, folder: Path) -> "Monitored":
        """Copy the machine with all that it keeps, and boot the copy. Both note their beats in one place."""
        shutil.copytree(self.folder, folder)
        clone = Monitored(self.server_id, folder, self.url)
        clone.starts, clone.attempted = self.starts[:], self.attempted
        clone.reboot(started=self.started + 1)
        return clone

    def enrol(self, enrolment_key: str) -> int:
        """Have the agent fetch a key of its own, and keep it."""
        os.environ["HOMELAB_ENROL_KEY"] = enrolment_key
        try:
            return run(
                self.folder, Clock(self.started, 0.0), ("--enrol", "--url", self.url, "--server-id", self.server_id)
            )
        finally:
            del os.environ["HOMELAB_ENROL_KEY"]

    def read(self, *, behind: float = 0.0, wrong: float = 0.0) -> Clock:
        """Let traffic pass and time; return the clock for a run that reads both."""
        beat = self.collect(time.time() - behind)
        self._write("proc/net/dev", NET_DEV + "".join(ROW.format(*of) for of in beat.counters.items()))
        return Clock(self.started, beat.uptime, behind, wrong)

    def run(self, *flags: str, behind: float = 0.0, wrong: float = 0.0) -> int:
        """Run the agent in this process. Return its exit code."""
        return run(self.folder, self.read(behind=behind, wrong=wrong), flags)

    def start(self, *flags: str, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start the agent as a process, under another command where one is given."""
        clock = json.dumps(asdict(self.read()))
        command = [*under, sys.executable, "-m", __name__, str(self.folder), clock, *flags]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def keep(self, times: int, *, every: float) -> None:
        """Put as many heartbeats into the spool as runs of the agent would have, up to the present, but at once."""
        (first,) = self.spool.iterdir()  # of a run
        heartbeat = json.loads(first.read_bytes().partition(b" ")[2])
        for number in range(times):
            clock = self.read(behind=every * (times - number))
            counters = self.attempted[next(reversed(self.attempted))].counters
            heartbeat.update(timestamp=clock.now().isoformat(), uptime=clock.at_first)
            for interface in heartbeat["network_interfaces"]:
                interface.update(zip(COUNTERS, counters[interface["name"]], strict=True))
            text = homelab_agent.as_json(heartbeat)
            (self.spool / f"{number + 2:012d}-{number:08x}.json").write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))

    def kept(self) -> set[int]:
        """Return the numbers of the beats that wait in the spool."""
        return {number for file in self.spool.glob("0*.json") if (number := number_in(file))}

    def drain(self) -> None:
        """Run the agent until nothing waits; take what it no longer keeps for acknowledged."""
        for _ in range(20):
            code = self.run()
            if code == 0 and not self.kept():
                break
            if code == 75:  # told to wait
                time.sleep(0.5)
        assert not self.kept()
        self.acknowledged = set(self.attempted)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def number_in(file: Path) -> int | None:
    """Return the number of the beat in a file of the spool, or None where it holds none."""
    try:
        heartbeat = json.loads(file.read_bytes().partition(b" ")[2])
        return heartbeat["network_interfaces"][0]["rx_packets"]
    except (OSError, ValueError, LookupError):
        return None


def run(folder: Path, clock: Clock, flags: tuple[str, ...]) -> int:
    psutil.PROCFS_PATH = str(folder / "proc")
    homelab_agent.SYSFS_PATH = str(folder / "sys")
    where = ("--env-file", str(folder / "agent.env"), "--state-dir", str(folder / "state"))
    return homelab_agent.main([*where, *flags], clock=clock)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Clock(**json.loads(sys.argv[2])), tuple(sys.argv[3:])))
