"""F4: the agent is killed at any moment, and its hub with it now and then.

At every system call it is killed in `test_f04_kill_the_agent.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from homelab.serve import AGENT
from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.hub import wait_for

HUB_EVERY = 10  # runs of the agent
SERVER = "nas"
STORED = f"SELECT uptime_ms FROM metrics_heartbeat WHERE server_id = '{SERVER}'"


def test_what_the_agent_kept_reaches_the_hub_once(hub: BreakableHub, rounds, tally, tmp_path: Path):
    chance = Random(4)
    agent = Agent(hub, tmp_path / "agent")
    began = time.monotonic()
    agent.run()
    length = time.monotonic() - began
    kept: set[int] = set()
    kills = hub_kills = 0
    while kills < rounds(1400):
        kills += agent.run(kill_after=chance.uniform(0, 1.2 * length))
        kept |= agent.kept()
        if kills % HUB_EVERY == HUB_EVERY - 1:
            hub.process.send_signal(signal.SIGSTOP)  # no answer: what the agent has read it keeps, for certain
            kills += agent.run_until_it_keeps_one_more()
            kept |= agent.kept()
            hub_kills += hub.kill()
            kills += agent.run(kill_after=length)
            kept |= agent.kept()
            hub.restart()
    assert kept, "every kill came before a heartbeat was kept"
    while agent.kept():
        agent.run()
    stored = [uptime for (uptime,) in hub.rows(STORED)]
    tally.note(
        agent_kills=kills, hub_kills=hub_kills, lost=len(kept - set(stored)), twice=len(stored) - len(set(stored))
    )
    hub.assert_intact()


class Agent:
    """The agent's file, as cron runs it, with a key and a state folder of its own."""

    def __init__(self, hub: BreakableHub, state: Path) -> None:
        self.spool = state / "spool"
        (key,) = hub.make_agent_keys([SERVER])
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(state), "HOMELAB_URL": f"http://{hub.address}",
            "HOMELAB_KEY": key, "HOMELAB_STATE_DIR": str(state), "HOMELAB_SERVER_ID": SERVER, "HOMELAB_DEADLINE": "5",
        }  # fmt: skip

    def run(self, kill_after: float | None = None) -> bool:
        """Run it, to its end or for so many seconds. Tell whether it was killed."""
        with subprocess.Popen([sys.executable, AGENT], env=self.environment) as agent:
            try:
                return agent.wait(timeout=30 if kill_after is None else kill_after) == -signal.SIGKILL
            except subprocess.TimeoutExpired:
                agent.kill()
        return agent.returncode == -signal.SIGKILL

    def run_until_it_keeps_one_more(self) -> bool:
        """Run it, to be killed once its heartbeat is whole on its disk. Tell whether it was killed."""
        before = self.kept()
        with subprocess.Popen([sys.executable, AGENT], env=self.environment) as agent:
            assert wait_for(lambda: self.kept() - before, seconds=30)
            agent.kill()
        return agent.returncode == -signal.SIGKILL

    def kept(self) -> set[int]:
        """Return the uptimes, in milliseconds, of the heartbeats that are whole on its disk."""
        whole = [path.read_bytes() for path in self.spool.glob("[!.]*.json")]
        return {round(json.loads(text.partition(b" ")[2])["uptime"] * 1000) for text in whole}
