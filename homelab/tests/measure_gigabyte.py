"""How long a large database takes: to start on after a kill, to back up, to restore, to move; each beside `cp`.

`python -m homelab.tests.measure_gigabyte [GIGABYTES]`, with HOMELAB_DATA_DIR an empty folder; SQLite. With
DATABASE_URL, an empty PostgreSQL, it is moved there, and backed up and restored there too.
"""

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

POSTGRESQL = os.environ.pop("DATABASE_URL", "")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "homelab.settings")

import django

django.setup()

import requests
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from homelab.tests.hub import ROOT, Hub
from metrics import codec
from metrics.counters import empty_buckets
from metrics.models import READING_COLUMNS, Chunk, Interface, day_start, week_of
from servers.models import ApiKey, KeyKind, Server, Snapshot

WEEKS = 40
READINGS = 10_080


def main(gigabytes: float) -> None:
    folder = settings.DATA_DIR
    call_command("migrate", verbosity=0)
    fill(gigabytes)
    key = ApiKey.objects.make(KeyKind.SHARED)[1]
    connection.close()
    database = folder / "homelab.sqlite3"
    print(f"database: {database.stat().st_size / 1e9:.2f} GB")
    copying = took("cp", str(database), str(folder / "copy"), sync=folder / "copy")
    line("cp and fsync", copying, copying)

    hub = Hub(folder, "--no-agent", HOMELAB_THROTTLE="off")
    agent = Agent(hub, key)
    agent.start()
    time.sleep(3)
    quiet, agent.seconds = agent.seconds, []
    line("backup, while agents report", took(*hub.manage("backup", str(folder / "saved"))), copying)
    busy, agent.seconds = agent.seconds, []
    print(f"acks: before, {told(quiet)}; during the backup, {told(busy)}; refused {agent.refused}")
    assert hub.kill()
    agent.is_over = True
    agent.join()
    began = time.monotonic()
    hub.start(wait=False)
    while not healthy(hub):
        time.sleep(0.01)
    print(f"after kill -9, to the first 200: {time.monotonic() - began:.1f} s")
    hub.stop()
    line("restore", took(*hub.manage("restore", str(folder / "saved"), "--overwrite")), copying)
    if POSTGRESQL:
        os.environ["DATABASE_URL"] = POSTGRESQL
        line("migratedata", took(*hub.manage("migratedata")), copying)
        line("backup, PostgreSQL", took(*hub.manage("backup", str(folder / "dump"))), copying)
        line("restore, PostgreSQL", took(*hub.manage("restore", str(folder / "dump"), "--overwrite")), copying)


def fill(gigabytes: float) -> None:
    """Write weeks of readings that nothing makes smaller: every counter is drawn by lot."""
    chance = random.Random(1)
    columns = [[chance.getrandbits(62) for _ in range(READINGS)] for _ in READING_COLUMNS]
    monday = week_of((datetime.now(UTC) - timedelta(weeks=WEEKS + 1)).date())
    columns[0] = [day_start(monday) + 60_000 * minute for minute in range(READINGS)]
    packed = codec.pack(columns)
    server = Server.objects.create(id="nas", hostname="nas")
    Snapshot.objects.create(server=server)
    hours = empty_buckets(168)
    hours.sums["rx_bytes"] = [1_000_000] * 168
    for number in range(round(gigabytes * 1e9 / len(packed) / WEEKS)):
        interface = Interface.objects.create(server=server, name=f"eth{number}")
        chunks = [Chunk(interface=interface, start=monday + timedelta(weeks=week), days=7) for week in range(WEEKS)]
        for chunk in chunks:
            chunk.readings, chunk.count = packed, READINGS
            chunk.set_hours(hours)
        Chunk.objects.bulk_create(chunks)


class Agent(threading.Thread):
    """Reports as fast as it is answered, in a thread; `seconds` has how long each took."""

    def __init__(self, hub: Hub, key: str) -> None:
        super().__init__(daemon=True)
        self.url, self.headers = f"http://{hub.address}/api/v1/agents/heartbeat", {"Authorization": f"Bearer {key}"}
        self.seconds: list[float] = []
        self.refused = 0
        self.is_over = False

    def run(self) -> None:
        zeros = dict.fromkeys(("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"), 0)
        interfaces = [{"name": f"eth{number}", "is_up": True, **zeros} for number in range(8)]
        for uptime in range(1, 1_000_000):
            body = {
                "server_id": "pi", "hostname": "pi", "timestamp": datetime.now(UTC).isoformat(), "boot_id": "one",
                "uptime": uptime, "sent_uptime": uptime, "network_interfaces": interfaces,
            }  # fmt: skip
            began = time.monotonic()
            try:
                answer = requests.post(self.url, json=body, headers=self.headers, timeout=30)
            except requests.RequestException:
                if self.is_over:
                    return
                continue
            self.seconds.append(time.monotonic() - began)
            self.refused += answer.status_code != 200
            time.sleep(0.02)


def healthy(hub: Hub) -> bool:
    try:
        return hub.get("/api/v1/system/health").status_code == 200
    except requests.RequestException:
        return False


def took(*command: str, sync: Path | None = None) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if sync is not None:
        with sync.open("rb") as file:
            os.fsync(file)
    return time.monotonic() - began


def line(what: str, seconds: float, copying: float) -> None:
    print(f"{what}: {seconds:.1f} s, {seconds / copying:.1f} x cp", flush=True)


def told(seconds: list[float]) -> str:
    slowest = statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else max(seconds)
    return f"{len(seconds)} with p50 {statistics.median(seconds) * 1000:.0f} ms, p99 {slowest * 1000:.0f} ms"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
