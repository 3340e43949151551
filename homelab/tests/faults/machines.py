"""Machines that are made up: they know every byte that passed, what they tried to send, and what was acknowledged."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from http.client import HTTPConnection, HTTPException
from random import Random
from typing import Any, NamedTuple

COUNTERS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
)  # fmt: skip
PATIENCE = 10.0  # seconds that a sender waits for an answer

_noting = threading.Lock()


class Beat(NamedTuple):
    """One heartbeat. Its number is the `rx_packets` of its interfaces, too, by which it is found again."""

    number: int
    uptime: float
    counters: dict[str, tuple[int, ...]]
    boot: int = 1


class Machine:
    """A machine in one boot, which began at `started` (seconds since 1970); its clock is right.

    `starts` has when each of its boots began, where there are more: beats name theirs, from 1 on.
    """

    def __init__(
        self, server_id: str, *, started: float, interfaces: Iterable[str] = ("eth0", "wlan0"), interval: int = 60
    ) -> None:
        self.server_id = server_id
        self.starts = [started]
        self.interval = interval
        self.chance = Random(server_id)
        self.counters = {name: [0] * len(COUNTERS) for name in interfaces}
        self.attempted: dict[int, Beat] = {}
        self.acknowledged: set[int] = set()
        self.outcomes: Counter[str] = Counter()

    @property
    def started(self) -> float:
        return self.starts[-1]

    def collect(self, at: float) -> Beat:
        """Read the counters at an instant later than all before."""
        number = next(reversed(self.attempted), 0) + 1
        for row in self.counters.values():
            for place in range(len(COUNTERS)):
                row[place] += self.chance.randrange(10**6 if place < 2 else 10)
            row[2] = number
        counters = {name: tuple(row) for name, row in self.counters.items()}
        beat = Beat(number, round(at - self.started, 3), counters, len(self.starts))
        self.attempted[number] = beat
        return beat

    def waiting(self) -> list[Beat]:
        """What is not acknowledged yet, oldest first."""
        return [beat for number, beat in self.attempted.items() if number not in self.acknowledged]

    def body(self, beat: Beat) -> dict[str, Any]:
        """Return the beat as it goes out now."""
        return {
            "server_id": self.server_id,
            "hostname": self.server_id,
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started + beat.uptime)),
            "boot_id": "boot",
            "uptime": beat.uptime,
            "sent_uptime": round(time.time() - self.started, 3),
            "interval": self.interval,
            "network_interfaces": [
                {"name": name, "is_up": True, "ifindex": 2, **dict(zip(COUNTERS, row, strict=True))}
                for name, row in beat.counters.items()
            ],
        }


class Sender:
    """Sends what machines collected, over one connection that it opens anew when it breaks."""

    def __init__(self, address: str, key: str, patience: float = PATIENCE) -> None:
        self.http = HTTPConnection(address, timeout=patience)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def send(self, machine: Machine, beats: Sequence[Beat]) -> int:
        """Send one beat alone, several as a batch, and note what is acknowledged. Return the status, 0 for no answer.

        An ack is a 200 that names an outcome for each.
        """
        bodies = [machine.body(beat) for beat in beats]
        if len(bodies) == 1:
            status, answer = self.post("/api/v1/agents/heartbeat", bodies[0])
            results = [answer]
        else:
            status, answer = self.post("/api/v1/agents/heartbeats", {"heartbeats": bodies})
            results = answer.get("results", [])
        if status == 200 and len(results) == len(beats):
            with _noting:
                for beat, result in zip(beats, results, strict=True):
                    machine.outcomes[result["outcome"]] += 1
                    if result["outcome"] in ("accepted", "duplicate"):
                        machine.acknowledged.add(beat.number)
        return status

    def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        try:
            self.http.request("POST", path, json.dumps(body), self.headers)
            answer = self.http.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, HTTPException):
            self.http.close()
            return 0, {}

    def close(self) -> None:
        self.http.close()


def drain(address: str, key: str, machines: Iterable[Machine], *, batch: int = 200) -> None:
    """Send all that waits, as agents do once the hub is well again."""
    sender = Sender(address, key)
    for machine in machines:
        while waiting := machine.waiting()[:batch]:
            status = sender.send(machine, waiting)
            assert status == 200, f"{machine.server_id}: {status}"
            assert machine.acknowledged.issuperset(beat.number for beat in waiting), machine.outcomes
    sender.close()
