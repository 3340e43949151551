"""F25: the hub is restored from an old backup."""

import time

from homelab.tests.faults.audit import HOUR_MS, instant_of, milliseconds
from homelab.tests.faults.hubs import BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine

pytestmark = sqlite_only

MINUTE = 60
STEP_MS = 600_000


def test_agents_resend_what_they_keep_and_the_rest_is_a_marked_gap(hub: BreakableHub, tally):
    now = time.time()
    machine = Machine("nas", started=now - 86_400)
    for ago in range(240, 120, -1):
        machine.collect(now - ago * MINUTE)
    hub.drain([machine])
    hub.run("tick")
    backup = hub.data / "old-backup"
    hub.run("backup", str(backup))
    saved = set(machine.acknowledged)
    for ago in range(120, 60, -1):
        machine.collect(now - ago * MINUTE)
    hub.drain([machine])
    gone = machine.acknowledged - saved  # their agent deleted them, as it may
    assert hub.stop()[0] == 0
    for ago in range(60, 0, -1):
        machine.collect(now - ago * MINUTE)  # and keeps these
    hub.run("restore", str(backup), "--overwrite")
    hub.restart()
    hub.drain([machine])
    edges = [instant_of(machine, machine.attempted[number]) for number in (min(gone) - 1, max(gone) + 1)]
    for number in gone:
        del machine.attempted[number]
    machine.acknowledged -= gone
    lost, twice = hub.auditor().compare([machine])
    tally.note(restored_backups=1, gone_heartbeats=len(gone), lost=lost, twice=twice)
    hub.auditor().check(machine, steps=["10m", "1h", "1d"])
    hub.run("tick")
    hub.auditor().check(machine, steps=["10m", "1h", "1d"])
    assert_gap_is_marked(hub, machine, *edges)
    hub.assert_intact()


def assert_gap_is_marked(hub: BreakableHub, machine: Machine, start: int, end: int) -> None:
    """The points of the gap have its mark and no reading; no other point has it."""
    beats = [instant_of(machine, beat) for beat in machine.attempted.values()]
    since, until = beats[0] // HOUR_MS * HOUR_MS, beats[-1] // HOUR_MS * HOUR_MS + HOUR_MS
    points = hub.auditor().series(machine.server_id, "eth0", since, until, "10m")["points"]
    for text, marks in zip(points["start"], points["marks"], strict=True):
        at = milliseconds(text)
        if start < at < end - STEP_MS:
            assert marks == ["gap"], text
        elif at + STEP_MS < start or at > end:
            assert marks == [], text
