"""F14: the hub's disk is full."""

import json
import time
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path

import pytest
import requests

from homelab.sqlite3 import ballast
from homelab.tests.faults.disks import SmallDisk, needs_small_disks, small_disk
from homelab.tests.faults.hubs import BreakableHub, Origin, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.hub import wait_for

pytestmark = [sqlite_only, needs_small_disks]

MIB = 2**20
DAY = 86_400
INTERFACES = [f"eth{number}" for number in range(8)]
AT_ONCE = 50
RECOVERS_WITHIN = 60.0


@pytest.fixture
def disk(origin: Origin, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "96m", holding=origin.folder) as disk:
        yield disk


@pytest.fixture
def hub(origin: Origin, disk: SmallDisk) -> Iterator[BreakableHub]:
    with origin.copy(disk.point, of_hub=disk.hub()) as hub:
        yield hub


def test_sealing_makes_room_and_the_hub_goes_on(hub: BreakableHub, disk: SmallDisk, tally, every: int):
    now = time.time()
    admin = hub.sign_in()
    disk.fill(leaving=MIB)
    machine = Machine("nas", started=now - 30 * DAY, interfaces=INTERFACES)
    minutes = (now - 20 * DAY + 60 * minute for minute in count())
    send_until_refused(hub, machine, minutes)
    assert disk.free() > ballast.BYTES - MIB, "the ballast was not given up"
    assert_refusing_but_alive(hub, machine, minutes, admin)
    full = disk.free()
    make_room(hub, every)
    assert send_until_refused(hub, machine, minutes) > 500, "nothing was freed inside the database"
    assert full - disk.free() < 3 * MIB, "it was to use the pages that are free, and leave the room of the ballast"
    lost, twice = hub.auditor().compare([machine])
    tally.note(full_disks=2, lost=lost, twice=twice)
    hub.assert_intact()

    assert hub.kill()  # what was known of the ballast is known again
    hub.start()
    assert hub.get("/api/v1/system/health").json()["status"] in ("ok", "full")  # by the pages that the last batch left
    assert not ballast_of(disk).exists()
    make_room(hub, every)
    disk.empty()
    began = time.monotonic()
    hub.drain([machine])
    assert time.monotonic() - began < RECOVERS_WITHIN
    assert ballast_of(disk).stat().st_blocks * 512 >= ballast.BYTES
    assert wait_for(lambda: hub.get("/api/v1/system/health").status_code == 200, seconds=10)
    hub.auditor().check(machine, steps=["1h"])
    hub.assert_intact()


def test_retention_makes_room_and_the_hub_goes_on(hub: BreakableHub, disk: SmallDisk, tally, every: int):
    now = time.time()
    past = Machine("past", started=now - 90 * DAY, interfaces=INTERFACES)
    for minute in range(2000):
        past.collect(now - 80 * DAY + 60 * minute)
    hub.drain([past])
    make_room(hub, every)
    disk.fill(leaving=MIB)
    nas = Machine("nas", started=now - DAY, interfaces=INTERFACES)  # of this hour: nothing of it can be sealed
    instants = (now - 30 + number / 1000 for number in count())
    send_until_refused(hub, nas, instants)  # the log has no room, and gets that of the ballast
    send_until_refused(hub, nas, instants)  # nor are there pages that `past` left free
    assert_refusing_but_alive(hub, nas, instants, hub.sign_in())
    assert hub.kill()
    hub.environment["HOMELAB_RETENTION_READINGS_DAYS"] = "30"
    hub.start()
    make_room(hub, every, "SELECT count(*) FROM metrics_chunk WHERE readings IS NOT NULL")
    assert send_until_refused(hub, nas, instants) > 0, "nothing was freed inside the database"
    disk.empty()
    hub.drain([nas])
    lost, twice = hub.auditor().compare([nas])
    tally.note(full_disks=2, lost=lost, twice=twice)
    hub.assert_intact()


def send_until_refused(hub: BreakableHub, machine: Machine, instants: Iterator[float]) -> int:
    """Send what waits, then batch after batch, until the disk is full. Return how many were acknowledged."""
    sender, before = hub.sender(), len(machine.acknowledged)
    while status := sender.send(
        machine, machine.waiting()[:AT_ONCE] or list(map(machine.collect, islice(instants, AT_ONCE)))
    ):
        if status != 200:
            break
    assert status == 507, hub.said()
    return len(machine.acknowledged) - before


def assert_refusing_but_alive(
    hub: BreakableHub, machine: Machine, instants: Iterator[float], admin: requests.Session
) -> None:
    headers = {"Authorization": f"Bearer {hub.shared}"}
    url = f"http://{hub.address}/api/v1/agents/heartbeat"
    for beat in islice(chain(machine.waiting(), map(machine.collect, instants)), 500):  # pages for a few small ones
        answer = requests.post(url, json=machine.body(beat), headers=headers, timeout=10)
        if answer.status_code != 200:
            break
        machine.acknowledged.add(beat.number)
    assert answer.status_code == 507
    assert answer.json()["errors"][0]["code"] == "disk_full"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["Retry-After"] == "60"
    assert json.loads(hub.auditor().get("/api/v1/servers"))["total"]
    for path in ("/admin/", f"/admin/servers/server/{machine.server_id}/change/"):
        page = admin.get(f"http://{hub.address}{path}", timeout=10)
        assert (page.status_code, machine.server_id in page.text) == (200, True), path
    assert wait_for(lambda: hub.get("/api/v1/system/health").json() == {"status": "full"}, seconds=10)
    assert hub.get("/api/v1/system/health").status_code == 503


def make_room(hub: BreakableHub, every: int, waiting: str = "SELECT count(*) FROM metrics_heartbeat") -> None:
    """Let the hub make room by itself, within its minute; in short, do not wait until it does."""
    if every > 1:
        hub.run("tick")
    assert wait_for(lambda: hub.rows(waiting) == [(0,)], seconds=90), hub.said()


def ballast_of(disk: SmallDisk) -> Path:
    return disk.files / "homelab.sqlite3-ballast"
