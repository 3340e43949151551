"""F7: the same heartbeats three times, shuffled, from 16 threads."""

import threading
import time
from random import Random

from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.faults.machines import Beat, Machine

THREADS = 16
COPIES = 3


def test_each_heartbeat_is_stored_once(hub: BreakableHub, rounds, tally):
    machines = [Machine(f"machine-{number}", started=time.time() - 2 * 86_400) for number in range(4)]
    deliveries: list[tuple[Machine, list[Beat]]] = []
    for machine in machines:
        beats = [machine.collect(time.time() - 60 * ago) for ago in range(max(rounds(1500), 90), 0, -1)]
        alone, batches = beats[: len(beats) // 2], beats[len(beats) // 2 :]
        deliveries += [(machine, [beat]) for beat in alone] * COPIES
        deliveries += [(machine, batches[first : first + 9]) for first in range(0, len(batches), 9)] * COPIES
    Random(7).shuffle(deliveries)
    threads = [threading.Thread(target=send, args=(hub, deliveries[number::THREADS])) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    assert hub.run("tick") != ""  # what is sealed meanwhile is known again, too
    for thread in threads:
        thread.join()
    lost, twice = hub.auditor().compare(machines)
    copies = sum(machine.outcomes["duplicate"] for machine in machines)
    tally.note(copies=copies, lost=lost, twice=twice)
    for machine in machines:
        count = len(machine.attempted)
        assert machine.outcomes == {"accepted": count, "duplicate": (COPIES - 1) * count}
        hub.auditor().check(machine)
    hub.run("tick")
    for machine in machines:
        hub.auditor().check(machine)


def send(hub: BreakableHub, deliveries: list[tuple[Machine, list[Beat]]]) -> None:
    sender = hub.sender()
    for machine, beats in deliveries:
        assert sender.send(machine, beats) == 200
