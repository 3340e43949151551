"""F1: the hub is away for thirty days."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from homelab.tests.faults.conftest import StartHub
from homelab.tests.hub import wait_for
from homelab.tests.monitored import Monitored

AWAY = ("--url", "http://127.0.0.1:9")  # nobody listens on the discard port
MINUTES = 30 * 24 * 60
AT_LEAST = 2000
VISIBLE_WITHIN = 5.0  # seconds from the start of the agent; half a second where the machine has nothing else to do
DRAINED_WITHIN = 1800.0


def test_the_newest_is_visible_at_once_and_the_rest_follows_oldest_first(
    start_hub: StartHub,
    rounds: Callable[[int], int],
    patience: float,
    tally,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    hub = start_hub(HOMELAB_THROTTLE="on")
    names = [f"eth{number}" for number in range(8)]
    machine = Monitored("machine", tmp_path / "machine", f"http://{hub.address}", interfaces=names)
    assert machine.enrol(hub.createkey("enrolment")) == 0
    times = max(AT_LEAST, rounds(MINUTES))
    assert machine.run(*AWAY, behind=60.0 * times) == 75
    machine.keep(times - 1, every=60.0)
    files = [entry.stat() for entry in os.scandir(machine.spool)]
    assert len(files) == times

    def visible() -> bool:
        server = json.loads(hub.auditor().get("/api/v1/servers/machine"))
        return [of["rx_packets"] for of in server["network_interfaces"]] == [max(machine.attempted)] * 8

    began, seconds, runs = time.monotonic(), 0.0, 0
    while waiting := machine.kept():
        started = time.monotonic()
        # One day more than by default: these runs add heartbeats of their own.
        agent = machine.start("--spool-days", "31", "--deadline", "3" if runs == 0 else "50")
        if runs == 0:
            assert wait_for(visible, seconds=30)
            seconds = time.monotonic() - started
            assert len(machine.kept()) > times // 2, "the rest was there before the newest was looked for"
        _, said = agent.communicate(timeout=60)
        assert agent.returncode in (0, 75), said
        runs += 1
        left = machine.kept()
        assert left == {number for number in waiting if number >= min(left, default=times + 1)}, "not oldest first"
        if left and runs > 1:
            time.sleep(max(0.0, started + 60 - time.monotonic()))  # as cron does
    drained = time.monotonic() - began
    with capsys.disabled():
        size, blocks = sum(file.st_size for file in files), 512 * sum(file.st_blocks for file in files)
        print(f"\n{times:,} heartbeats of 8 interfaces: {size / 1e6:.1f} MB, {blocks / 1e6:.1f} MB of disk.", end=" ")
        print(f"The newest was visible after {seconds:.2f} s, all of them after {drained:.0f} s and {runs} runs.")

    machine.acknowledged = set(machine.attempted)
    lost, twice = hub.auditor().compare([machine])
    tally.note(heartbeats_kept=times, lost=lost, twice=twice)
    assert seconds < VISIBLE_WITHIN * patience
    assert drained < DRAINED_WITHIN
    assert runs > 1
    hub.auditor().check(machine, ["1h", "1d"])
