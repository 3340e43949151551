"""F5: an ack before the heartbeat is on the disk."""

import re
import time
from pathlib import Path

from homelab.tests.faults.hubs import BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.faults.tracing import traced

pytestmark = sqlite_only

SYNC_SECONDS = 0.25
WRITE = re.compile(r"pwrite64\(\d+<[^>]*-wal>")
SYNC = re.compile(r"fdatasync\(\d+<[^>]*-wal>\) += 0|fdatasync resumed>\) += 0")
ACK = re.compile(r'(?:write|sendto|sendmsg)\(\d+<[^>]*>, "HTTP/1.1 200')


def test_every_ack_comes_after_the_log_was_synced(hub: BreakableHub, rounds, tally, tmp_path: Path):
    machine = Machine("nas", started=time.time() - 86_400)
    calls = tmp_path / "calls"
    with traced(hub.process.pid, "trace=fdatasync,pwrite64,write,sendto,sendmsg", output=calls):
        send(hub, machine, rounds(400))
    order = "".join(letter for line in calls.read_text().splitlines() for letter in letters(line))
    tally.note(acks=order.count("A"))
    assert re.fullmatch(r"((W+S+)+A)+", order), order
    assert order.count("A") == len(machine.acknowledged) == len(machine.attempted)


def test_while_the_disk_is_slow_no_ack_comes_before_it_is_done(hub: BreakableHub, rounds, tally):
    machine = Machine("nas", started=time.time() - 86_400)
    hub.drain([machine])
    delay = f"inject=fdatasync:delay_enter={round(SYNC_SECONDS * 1_000_000)}"
    with traced(hub.process.pid, "trace=fdatasync", delay):
        seconds = send(hub, machine, rounds(100))
    tally.note(slow_syncs=len(seconds))
    assert min(seconds) > SYNC_SECONDS
    assert len(machine.acknowledged) == len(seconds)


def send(hub: BreakableHub, machine: Machine, count: int) -> list[float]:
    """Send that many heartbeats, one after another. Return how long each took."""
    sender, seconds = hub.sender(), []
    for _ in range(count):
        beat = machine.collect(time.time())
        began = time.monotonic()
        assert sender.send(machine, [beat]) == 200
        seconds.append(time.monotonic() - began)
    return seconds


def letters(line: str) -> str:
    """Return W for a write to the log, S for a sync of it, A for an ack."""
    return "W" if WRITE.search(line) else "S" if SYNC.search(line) else "A" if ACK.search(line) else ""
