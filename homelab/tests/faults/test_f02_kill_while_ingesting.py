"""F2: the hub is killed while it ingests."""

import threading
import time
from itertools import cycle
from random import Random

from homelab.tests.faults.hubs import SERVES_WITHIN, BreakableHub
from homelab.tests.faults.machines import Machine

SENDERS = 4


def test_what_was_acknowledged_before_a_kill_is_there_after_it(hub: BreakableHub, rounds, patience, tally):
    chance = Random(2)
    machines = [Machine(f"machine-{number}", started=time.time() - 86_400) for number in range(2 * SENDERS)]
    kills, slowest, lost, twice = 0, 0.0, 0, 0
    for _ in range(rounds(200)):
        with Traffic(hub, machines) as traffic:
            time.sleep(chance.uniform(0.02, 0.12))
            kills += hub.kill()
        assert traffic.broken, "the kill met no request"
        slowest = max(slowest, hub.restart())
        hub.assert_intact()
        lost_now, twice_now = hub.auditor().compare(machines)
        lost, twice = lost + lost_now, twice + twice_now
    tally.note(hub_kills=kills, lost=lost, twice=twice)
    assert slowest < SERVES_WITHIN * patience
    hub.drain(machines)
    for machine in machines:
        hub.auditor().check(machine)


class Traffic:
    """Threads that send for their machines, each heartbeat until it is acknowledged, until the hub is gone."""

    def __init__(self, hub: BreakableHub, machines: list[Machine]) -> None:
        self.broken = 0
        self.hub = hub
        shares = [machines[number::SENDERS] for number in range(SENDERS)]
        self.threads = [threading.Thread(target=self.send, args=(share,)) for share in shares]

    def __enter__(self) -> "Traffic":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.threads:
            thread.join()

    def send(self, machines: list[Machine]) -> None:
        sender = self.hub.sender()
        for machine in cycle(machines):
            machine.collect(time.time())
            if sender.send(machine, machine.waiting()[:50]) == 0:
                self.broken += 1
                return
