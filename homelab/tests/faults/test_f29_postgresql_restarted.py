"""F29: PostgreSQL crashes and starts again while heartbeats come.

Deadlocks and lost connections, and what is run again, are in `servers/tests/test_transactions.py`.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests

from homelab.tests.cluster import Cluster, cluster
from homelab.tests.faults.hubs import ON_POSTGRESQL
from homelab.tests.hub import Hub

pytestmark = pytest.mark.skipif(not ON_POSTGRESQL, reason="PostgreSQL's own crashes")

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


def test_nothing_that_was_acknowledged_is_lost_or_doubled_by_a_database_that_crashes(
    own: Cluster, hub: Hub, rounds, tally
):
    stop = threading.Event()
    key = hub.createkey("shared")
    senders = [Sender(number, hub, key, stop) for number in range(SENDERS)]
    for sender in senders:
        sender.start()

    def noticed() -> int:
        """Return how often a heartbeat was on its way in a crash: one between two heartbeats meets none."""
        return hub.said().count("Running _ingest again") + sum(sender.statuses[503] for sender in senders)

    crashes = 0
    while crashes < rounds(100) or (noticed() < rounds(100) and crashes < rounds(100) + 20):
        time.sleep(BETWEEN_SECONDS)
        own.control("restart", "-m", "immediate")
        crashes += 1
    time.sleep(BETWEEN_SECONDS)
    stop.set()
    for sender in senders:
        sender.join()
    statuses = sum((sender.statuses for sender in senders), Counter())
    with psycopg.connect(own.url) as database:
        counts = dict(database.execute("SELECT server_id, count(*) FROM metrics_heartbeat GROUP BY 1").fetchall())
        lost = sum(max(sender.acknowledged - counts.get(sender.server, 0), 0) for sender in senders)
        twice = sum(max(counts.get(sender.server, 0) - sender.acknowledged, 0) for sender in senders)
        tally.note(crashes_of_the_database=crashes, lost=lost, twice=twice)
        stored = database.execute("SELECT server_id, count(*), max(uptime_ms) FROM metrics_heartbeat GROUP BY 1")
        assert sorted(stored.fetchall()) == sorted(
            (sender.server, sender.acknowledged, 999_000 + 1000 * sender.acknowledged) for sender in senders
        )
        revisions = database.execute("SELECT server_id, revision FROM servers_snapshot")
        assert dict(revisions.fetchall()) == {sender.server: sender.acknowledged for sender in senders}
    said = hub.said()
    assert set(statuses) <= {200, 503}
    assert noticed() >= rounds(100)
    assert "Traceback" not in said
