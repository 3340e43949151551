"""F23: 200 veths come and go each hour."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from rest_framework.test import APIClient

from homelab.tick import tick
from metrics.ingest import Report, ingest_batch
from metrics.models import Chunk, Event, Heartbeat, Interface
from servers.models import ApiKey

pytestmark = pytest.mark.django_db

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEATS = 4  # an hour
COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")


class Docker:
    """A machine whose containers all end each hour, and others start; all that passes them passes eth0."""

    def __init__(self, veths: int) -> None:
        self.veths = veths
        self.numbers = count(1)
        self.eth0 = 0

    def hour(self, number: int) -> list[tuple[Report, datetime]]:
        """Return the reports of one hour, each with when it comes."""
        names = [f"veth{next(self.numbers):07x}" for _ in range(self.veths)]
        reports = []
        for beat in range(BEATS):
            self.eth0 += 1000 * self.veths
            at = BEGAN + number * HOUR + beat * HOUR / BEATS
            uptime = (at - BEGAN).total_seconds() + 3600
            veths = [interface(name, 1000 * beat, ifindex=1000 * number + place, kind="veth", master="docker0")
                     for place, name in enumerate(names)]  # fmt: skip
            reports.append((
                Report("nas", "nas", at, boot_id="one", uptime=uptime, sent_uptime=uptime, interval=3600 / BEATS,
                       network_interfaces=[interface("eth0", self.eth0, ifindex=2, kind="physical"), *veths]),
                at,
            ))  # fmt: skip
        return reports


def interface(name: str, passed: int, **facts: object) -> dict[str, object]:
    return {"name": name, "is_up": True, **dict.fromkeys(COUNTERS, passed), **facts}


def test_rows_are_bounded_the_gone_age_out_and_totals_are_unharmed(settings, tally, every: int):
    veths, kept, hours = (200, 24, 5 * 24) if every == 1 else (30, 3, 8)
    settings.RETENTION_VETH_DAYS = kept / 24
    docker, most = Docker(veths), 0
    for number in range(hours):
        for report, at in docker.hour(number):
            (receipt,) = ingest_batch([report], may_register=True, now=at)
            assert receipt.outcome == "accepted"
        tick(now=BEGAN + (number + 1) * HOUR)
        most = max(most, Interface.objects.count())
    now = BEGAN + hours * HOUR
    tally.note(veths=next(docker.numbers) - 1)
    assert most <= 1 + veths * (kept + 2)
    assert Heartbeat.objects.count() <= 1
    assert Chunk.objects.count() <= 2 * Interface.objects.count() + hours // 24 + 1
    assert Event.objects.count() < 10  # of a link that is a container's, coming and going is none
    _, text = ApiKey.objects.make("read")
    reader = APIClient(headers={"Authorization": f"Bearer {text}"})
    listed = reader.get("/api/v1/servers/nas").json()["network_interfaces"]
    assert len(listed) == 1 + veths
    window = {"start": BEGAN.isoformat(), "end": now.isoformat(), "tz": "UTC"}
    query = {"by": "server", "period": "day", "server": "nas", **window}
    rows = reader.get("/api/v1/metrics/usage", query).json()["rows"]
    assert sum(row["rx_bytes"] for row in rows) == docker.eth0 - 1000 * veths  # its first reading is where it begins
