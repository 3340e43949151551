"""F26: 1,000 agents in one second."""

import time
from collections import Counter

from homelab.tests.faults.machines import Machine
from homelab.tests.herd import Agent, stampede

AGENTS = 1000
WITHIN_SECONDS = 15.0


def test_all_are_acknowledged_soon(start_hub, patience, tally):
    hub = start_hub(HOMELAB_THROTTLE="on")
    machines = [Machine(f"machine-{number}", started=time.time() - 86_400) for number in range(AGENTS)]
    keys = hub.make_agent_keys([machine.server_id for machine in machines])
    beats = [machine.collect(time.time()) for machine in machines]
    agents = [
        Agent(key, lambda machine=machine, beat=beat: machine.body(beat))
        for key, machine, beat in zip(keys, machines, beats, strict=True)
    ]
    began = time.monotonic()
    acks = stampede(hub.address, agents, within=1.0)
    seconds = time.monotonic() - began
    acknowledged = [machine.server_id for machine, ack in zip(machines, acks, strict=True) if ack.status == 200]
    stored = Counter(server_id for (server_id,) in hub.rows("SELECT server_id FROM metrics_heartbeat"))
    tally.note(agents=len(acks), lost=len(set(acknowledged) - set(stored)), twice=stored.total() - len(stored))
    assert {ack.status for ack in acks} == {200}, hub.said()[-2000:]
    assert seconds < WITHIN_SECONDS * patience
    assert "locked" not in hub.said()
    assert "Traceback" not in hub.said()
