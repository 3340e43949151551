"""Thirty days without a hub: what waits on disk, and how long it takes to go: `python agent/tests/measure_drain.py`.

Fills a spool with 43,200 heartbeats of 8 interfaces and runs the agent as cron would until nothing waits. Against the
small hub of these tests, or against the one that HOMELAB_URL, HOMELAB_KEY and HOMELAB_SERVER_ID name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent import homelab_agent
from agent.tests.hub import KEY, HonestHub

GOLDEN = Path(__file__).parents[2] / "docs" / "heartbeat.json"


def fill(spool: homelab_agent.Spool, server_id: str, number: int) -> None:
    heartbeat = json.loads(GOLDEN.read_text())
    del heartbeat["sent_uptime"], heartbeat["server_guid"]
    heartbeat["server_id"] = server_id
    interfaces = (heartbeat["network_interfaces"] * 2)[:8]
    heartbeat["network_interfaces"] = [{**interface, "name": f"eth{n}"} for n, interface in enumerate(interfaces)]
    now, name = datetime.now(timezone.utc), []
    for minute in range(number):
        heartbeat["uptime"] = 60.0 * minute
        heartbeat["timestamp"] = (now - timedelta(minutes=number - minute)).isoformat(timespec="milliseconds")
        for interface in heartbeat["network_interfaces"]:
            interface["rx_bytes"] += 7_500_000
            interface["rx_packets"] += 5_000
        name = [spool.add(heartbeat, name) or sys.exit("the disk is full")]


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as directory, HonestHub() as hub:
        environ = {"HOMELAB_URL": hub.url, "HOMELAB_KEY": KEY, "HOMELAB_SERVER_ID": "drain", **os.environ}
        # One day more than the spool takes by default: the runs that drain it add heartbeats of their own.
        environ.update(HOMELAB_STATE_DIR=directory, HOMELAB_SPOOL_DAYS="31")
        spool = homelab_agent.Spool(directory, number)
        spool.prepare()
        started = time.monotonic()
        fill(spool, environ["HOMELAB_SERVER_ID"], number)
        blocks = sum(entry.stat().st_blocks for entry in os.scandir(spool.files)) * 512
        sizes = sum(entry.stat().st_size for entry in os.scandir(spool.files))
        seconds = time.monotonic() - started
        print(f"{number} heartbeats of 8 interfaces: {sizes / 1e6:.0f} MB, {blocks / 1e6:.0f} MB of disk", end="")
        print(f", written in {seconds:.0f} s")
        started, runs = time.monotonic(), 0
        while spool.waiting():
            began, before = time.monotonic(), len(spool.waiting())
            done = subprocess.run([sys.executable, homelab_agent.__file__], env=environ, check=False)
            runs += 1
            print(f"run {runs}: exit {done.returncode}, {before} -> {len(spool.waiting())}", end="")
            print(f" in {time.monotonic() - began:.1f} s")
            if spool.waiting():
                time.sleep(max(0.0, 60 - (time.monotonic() - began)))
        print(f"drained in {time.monotonic() - started:.0f} s, {runs} runs; {spool.stats(0)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 43_200)
