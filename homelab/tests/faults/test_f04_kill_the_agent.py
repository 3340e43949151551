"""F4: the agent is killed at every system call."""

import re
import signal
from itertools import count
from pathlib import Path

from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.monitored import Monitored

RENAME = "rename,renameat,renameat2"
CALLS = ("write", "fsync", RENAME, "unlink,unlinkat", "pwrite64", "connect", "sendto", "recvfrom")
RENAMED = re.compile(r"rename\w*\(.*/spool/\.0.*/spool/0.*\) += 0")
AWAY = ("--url", "http://127.0.0.1:9")  # nobody listens on the discard port


def test_what_the_agent_kept_is_stored_once_wherever_it_is_killed(hub: BreakableHub, every: int, tally, tmp_path: Path):
    machine = Monitored("machine", tmp_path / "machine", f"http://{hub.address}")
    assert machine.enrol(hub.createkey("enrolment")) == 0
    kills = 0
    for calls in CALLS:
        assert [machine.run(*AWAY) for _ in range(3)] == [75] * 3
        for number in count(1, every):
            if not killed(machine, calls, number, tmp_path / "trace"):
                break
            kills += 1
        assert number > 1, f"never killed at {calls}"
    machine.drain()
    lost, twice = hub.auditor().compare([machine])
    tally.note(agent_kills=kills, lost=lost, twice=twice)
    hub.auditor().check(machine)


def killed(machine: Monitored, calls: str, number: int, trace: Path) -> bool:
    """Run the agent, to be killed at that call. Tell whether it was.

    What it read counts as attempted only where it had its name in the spool by then: before that it is nowhere.
    """
    expressions = ("-e", f"trace={calls},{RENAME}", "-e", f"inject={calls}:signal=SIGKILL:when={number}")
    agent = machine.start(under=("strace", "-f", "-qqq", "-o", str(trace), *expressions))
    _, said = agent.communicate(timeout=60)
    assert agent.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), said
    newest = max(machine.attempted)
    if newest not in machine.kept() and not RENAMED.search(trace.read_text()):
        del machine.attempted[newest]
    return agent.returncode != 0
