"""F3: the hub is killed at every system call of a write.

strace counts the calls of each thread apart: heartbeats, a tick and the last checkpoint each have a scene of their own.
None of them renames a file.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import count, islice
from pathlib import Path

import pytest

from homelab.tests.faults.hubs import BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.faults.tracing import killing, traced
from homelab.tests.hub import ROOT

pytestmark = sqlite_only

MOST = 2000  # calls of a kind, of which a whole run takes each
PAGE_IN_LOG = 4096 + 24
NEARLY_A_CHECKPOINT = 980  # of the 1000 pages after which SQLite writes its log back
TICK = """
import sys, django
django.setup()
from django.db import connection
from django.utils import timezone
from metrics import seal
connection.ensure_connection()
print("ready", flush=True)
sys.stdin.readline()
seal.tick(now=timezone.now())
"""


class Scene:
    """A hub that was killed, and what its database was then: every write begins from there."""

    def __init__(self, hub: BreakableHub, *, pages: int = 0) -> None:
        self.hub = hub
        self.machine = Machine("before", started=time.time() - 86_400)
        this_hour = time.time() // 3600 * 3600
        for minute in range(-90, 0):
            self.machine.collect(this_hour + 60 * minute)
        last = self.machine.collect(time.time())
        hub.drain([self.machine])
        sender = hub.sender()
        while (hub.data / "homelab.sqlite3-wal").stat().st_size < pages * PAGE_IN_LOG:
            sender.send(self.machine, [last])
        assert hub.kill()
        self.kept = hub.data.with_name("kept")
        self.kept.mkdir()
        _copy_database(hub.data, self.kept)

    def play(self, write: Callable[["Scene", list[Machine], tuple[str, str]], int], call: str, number: int) -> bool:
        """Let it write, and be killed at that call. Tell whether it was; all that it acknowledged must be there."""
        _copy_database(self.kept, self.hub.data)
        machines = [deepcopy(self.machine), Machine("new", started=time.time() - 86_400)]
        code = write(self, machines, killing(call, number))
        assert code in (0, -signal.SIGKILL), self.hub.said()
        if code == 0:
            return False
        self.hub.restart()
        self.hub.assert_intact()
        assert self.hub.auditor().compare(machines) == (0, 0)
        self.hub.drain(machines)
        for machine in machines:
            self.hub.auditor().check(machine, steps=["1h"])
        assert self.hub.kill()
        return True


def heartbeats(scene: Scene, machines: list[Machine], kill: tuple[str, str]) -> int:
    scene.hub.restart()
    with traced(scene.hub.process.pid, *kill):
        sender = scene.hub.sender()
        for machine, size in [(machine, size) for machine in machines for size in (1, 1, 8)]:
            beats = [machine.collect(time.time() + number / 100) for number in range(size)]
            if sender.send(machine, beats) == 0:
                return scene.hub.process.wait(timeout=20)
    scene.hub.kill()
    return 0


def stopping(scene: Scene, machines: list[Machine], kill: tuple[str, str]) -> int:
    """The last connection to close writes the log back, and removes it."""
    scene.hub.restart()
    with traced(scene.hub.process.pid, *kill):
        scene.hub.process.terminate()
        return scene.hub.process.wait(timeout=20)


def tick(scene: Scene, machines: list[Machine], kill: tuple[str, str]) -> int:
    environment = {**scene.hub.environment, "DJANGO_SETTINGS_MODULE": "homelab.settings"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TICK], cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        with traced(process.pid, *kill):
            process.communicate("go\n", timeout=30)
            return process.returncode


@pytest.mark.parametrize(
    ("write", "calls", "pages"),
    [
        (heartbeats, ["fdatasync", "pwrite64", "ftruncate"], NEARLY_A_CHECKPOINT),
        (tick, ["fdatasync", "pwrite64", "unlink"], 0),
        (stopping, ["fdatasync", "pwrite64", "ftruncate", "unlink"], 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_acknowledged_is_there_wherever_the_hub_is_killed(
    hub: BreakableHub, every, tally, write, calls: list[str], pages: int
):
    scene = Scene(hub, pages=pages)
    kills = {}
    for call in calls:
        for number in islice(count(1, every), max(MOST // every**2, 1)):
            if not scene.play(write, call, number):
                break
            kills[call] = kills.get(call, 0) + 1
    tally.note(hub_kills=sum(kills.values()))
    assert kills.keys() == set(calls)


def _copy_database(source: Path, target: Path) -> None:
    for old in _files(target):
        old.unlink()
    for file in _files(source):
        shutil.copy(file, target)


def _files(folder: Path) -> list[Path]:
    """Return the database and what is beside it, but for the ballast."""
    return [path for path in folder.glob("homelab.sqlite3*") if not path.name.endswith("-ballast")]
