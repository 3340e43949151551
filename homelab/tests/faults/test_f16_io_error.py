"""F16: an I/O error on the hub's disk."""

import time

from homelab.tests.faults.hubs import BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.faults.tracing import traced
from homelab.tests.hub import wait_for

pytestmark = sqlite_only

FAILING = "inject=fdatasync:error=EIO:when=5+"  # of each thread
THREADS = 8


def test_what_the_disk_did_not_take_is_not_acknowledged(hub: BreakableHub, rounds, tally):
    machine = Machine("nas", started=time.time() - 86_400)
    errors = lost = twice = 0
    for _ in range(rounds(40)):
        sender = hub.sender()
        with traced(hub.process.pid, "trace=fdatasync", FAILING):
            statuses = [sender.send(machine, [machine.collect(time.time())]) for _ in range(10 * THREADS)]
            assert statuses[:4] == [200] * 4
            assert statuses[-1] == 503, statuses
            assert set(statuses) == {200, 503}
            assert wait_for(lambda: hub.get("/api/v1/system/health").json() == {"status": "failing"}, seconds=15)
            assert hub.get("/api/v1/system/health").status_code == 503
            refused = statuses.count(503)
            assert len(machine.waiting()) == refused
            now_lost, now_twice = hub.auditor().compare([machine])  # it is read meanwhile
        hub.kill()
        hub.restart()
        hub.assert_intact()
        after = hub.auditor().compare([machine])
        errors, lost, twice = errors + refused, lost + now_lost + after[0], twice + now_twice + after[1]
        hub.drain([machine])
    tally.note(failed_writes=errors, lost=lost, twice=twice)
    hub.auditor().check(machine, steps=["1h"])
