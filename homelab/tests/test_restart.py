"""PostgreSQL crashes and starts again while heartbeats come: what was acknowledged is there, and once."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests
from django.db import connection

from homelab.tests.cluster import Cluster, cluster
from homelab.tests.test_serve import Hub

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's own crashes")

RESTARTS = int(os.environ.get("RESTARTS", "3"))
SENDERS = 8
BETWEEN_SECONDS = 1.5


class Sender(threading.Thread):
    """An agent of one server: sends each heartbeat until it is acknowledged, then the next, 1000 bytes further."""

    def __init__(self, number: int, hub: Hub, key: str, stop: threading.Event) -> None:
        super().__init__()
        self.server, self.hub, self.key, self.stop = f"pi-{number}", hub, key, stop
        self.acknowledged = 0
        self.statuses: Counter[int | str] = Counter()
        self.slowest = 0.0

    def run(self) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {self.key}"
            while not self.stop.is_set():
                while not self.post(session):
                    time.sleep(0.1)
                self.acknowledged += 1

    def post(self, session: requests.Session) -> bool:
        counters = dict.fromkeys(("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"), 1000 * self.acknowledged)
        uptime = 1000.0 + self.acknowledged
        body = {
            "server_id": self.server, "hostname": self.server, "timestamp": "2026-03-01T06:30:00+00:00",
            "boot_id": "one", "uptime": uptime, "sent_uptime": uptime + 100_000,
            "network_interfaces": [{"name": "eth0", "is_up": True, **counters}],
        }  # fmt: skip
        began = time.monotonic()
        answer = session.post(f"http://{self.hub.address}/api/v1/agents/heartbeat", json=body, timeout=60)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.statuses[answer.status_code] += 1
        assert answer.status_code == 200 or answer.headers["Retry-After"]
        return answer.status_code == 200


@pytest.fixture
def own() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def hub(own: Cluster, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path, "--no-agent", DATABASE_URL=own.url, HOMELAB_THROTTLE="off")
    yield hub
    hub.process.kill()
    hub.process.wait()


def test_nothing_that_was_acknowledged_is_lost_or_doubled_by_a_database_that_crashes(own: Cluster, hub: Hub):
    stop = threading.Event()
    key = hub.createkey("shared")
    senders = [Sender(number, hub, key, stop) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for _ in range(RESTARTS):
        time.sleep(BETWEEN_SECONDS)
        own.control("restart", "-m", "immediate")
    time.sleep(BETWEEN_SECONDS)
    stop.set()
    for sender in senders:
        sender.join()
    statuses = sum((sender.statuses for sender in senders), Counter())
    with psycopg.connect(own.url) as database:
        stored = database.execute("SELECT server_id, count(*), max(uptime_ms) FROM metrics_heartbeat GROUP BY 1")
        assert sorted(stored.fetchall()) == sorted(
            (sender.server, sender.acknowledged, 999_000 + 1000 * sender.acknowledged) for sender in senders
        )
        revisions = database.execute("SELECT server_id, revision FROM servers_snapshot")
        assert dict(revisions.fetchall()) == {sender.server: sender.acknowledged for sender in senders}
    said = hub.said()
    again = said.count("Running _ingest again")
    print(
        f"{RESTARTS} crashes, {sum(sender.acknowledged for sender in senders)} acknowledged, {again} run again,",
        end=" ",
    )
    print(f"answers {dict(statuses)}, slowest {max(sender.slowest for sender in senders):.1f} s")
    assert set(statuses) <= {200, 503}
    assert again + statuses[503] >= RESTARTS  # they were noticed
    assert "Traceback" not in said
