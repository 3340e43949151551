"""What the hub has, against what it was sent: lost, stored twice, and every total, worked out by an oracle."""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from http.client import HTTPConnection
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from homelab.tests.faults.machines import COUNTERS, Beat, Machine
from metrics.tests import oracle

ZONE = "Asia/Kolkata"  # its hours are not those of the chunks
HOUR_MS = 3_600_000
POINTS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")


class Stored(NamedTuple):
    """What the hub has of one machine: how often each beat's readings, by number, and the instants (ms)."""

    times: dict[str, Counter[int]]
    at: dict[int, set[int]]


class Auditor:
    """Asks a hub as any reader does, so that the log and the chunks are read through the same door."""

    def __init__(self, address: str, key: str) -> None:
        self.http = HTTPConnection(address, timeout=120)
        self.headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str, **query: Any) -> bytes:
        self.http.request("GET", f"{path}?{urlencode(query)}", headers=self.headers)
        answer = self.http.getresponse()
        text = answer.read()
        assert answer.status == 200, (path, query, answer.status, text[:300])
        return text

    def stored(self, machine: Machine) -> Stored:
        """Return what is in the log and the chunks. Every value that is stored must be the one that was sent."""
        found = Stored({name: Counter() for name in machine.counters}, {})
        beats = list(machine.attempted.values())
        if not beats:
            return found
        start, end = text_of(instant_of(machine, beats[0]) - HOUR_MS), text_of(instant_of(machine, beats[-1]) + HOUR_MS)
        text = self.get("/api/v1/metrics/export", server=machine.server_id, format="ndjson", start=start, end=end)
        for line in text.splitlines():
            row = json.loads(line)
            beat = machine.attempted.get(row["rx_packets"])
            assert beat is not None, f"stored, but never sent: {row}"
            assert tuple(row[name] for name in COUNTERS) == beat.counters[row["interface"]]
            found.times[row["interface"]][beat.number] += 1
            found.at.setdefault(beat.number, set()).add(milliseconds(row["at"]))
        return found

    def compare(self, machines: Iterable[Machine]) -> tuple[int, int]:
        """Return how many beats are lost, acknowledged but not stored whole, and how many are there twice."""
        lost = twice = 0
        for machine in machines:
            if machine.acknowledged:
                times = self.stored(machine).times.values()
                lost += len(machine.acknowledged - set.intersection(*(set(of) for of in times)))
                twice += sum(count > 1 for of in times for count in of.values())
        return lost, twice

    def check(self, machine: Machine, steps: Sequence[str] = ("5m", "1h", "1d")) -> None:
        """Once all is acknowledged: what is stored is what was attempted, and every total is the oracle's."""
        assert machine.acknowledged == set(machine.attempted)
        stored = self.stored(machine)
        for times in stored.times.values():
            assert times == Counter(machine.attempted.keys())
        starts = starts_of(machine, stored)
        for name in machine.counters:
            truth = oracle.steps_of([reading(machine, beat, name, starts) for beat in machine.attempted.values()])
            for step in steps if truth else ():
                self._compare_series(machine, name, truth, step)

    def _compare_series(self, machine: Machine, name: str, truth: list[oracle.Step], step: str) -> None:
        start = truth[0].start // HOUR_MS * HOUR_MS - HOUR_MS
        end = truth[-1].end // HOUR_MS * HOUR_MS + 2 * HOUR_MS
        series = self.series(machine.server_id, name, start, end, step)
        points = series["points"]
        edges = [*(milliseconds(text) for text in points["start"]), end]
        assert edges[0] == start
        expected = [oracle.bucket(steps, since, until) for steps, since, until in steps_by_bucket(truth, edges)]
        for place, column in enumerate(POINTS):
            known = [bucket and bucket.increases[place] for bucket in expected]
            assert points[column] == known, (machine.server_id, name, step, column, truth[:20])
            assert series["total"][column] == sum(value for value in known if value is not None)
            assert series["total"][column] == sum(of.increases[place] for of in truth)

    def series(self, server_id: str, name: str, start: int, end: int, step: str) -> dict[str, Any]:
        window = {"start": text_of(start), "end": text_of(end), "step": step, "tz": ZONE}
        path = f"/api/v1/metrics/history/{quote(server_id)}/network"
        return json.loads(self.get(path, interface=name, **window))


def steps_by_bucket(
    truth: Sequence[oracle.Step], edges: Sequence[int]
) -> Iterator[tuple[Sequence[oracle.Step], int, int]]:
    """Yield the bucket between each two edges, and before its edges the steps that may lie in it.

    Steps are in order of their ends. Where two boots take turns, one may begin before the one that precedes it.
    """
    ends = [of.end for of in truth]
    earliest = [*accumulate((of.start for of in reversed(truth)), min)][::-1]  # that it or one after it begins
    for since, until in pairwise(edges):
        yield truth[bisect_right(ends, since) : bisect_right(earliest, until)], since, until


def reading(machine: Machine, beat: Beat, name: str, starts: dict[int, int]) -> oracle.Reading:
    uptime, counters = round(beat.uptime * 1000), beat.counters[name]
    return oracle.Reading(
        starts[beat.boot] + uptime, counters, boot=beat.boot, uptime=uptime, interval=machine.interval * 1000, ifindex=2
    )


def starts_of(machine: Machine, stored: Stored) -> dict[int, int]:
    """Return when the hub says that each boot began (ms); it must say the same of all its beats, and be right."""
    starts: dict[int, int] = {}
    for number, instants in stored.at.items():
        beat, (at,) = machine.attempted[number], instants
        started = at - round(beat.uptime * 1000)
        assert starts.setdefault(beat.boot, started) == started
    for boot, started in starts.items():
        assert abs(started - machine.starts[boot - 1] * 1000) < 5000
    return starts


def instant_of(machine: Machine, beat: Beat) -> int:
    """Return when the beat was collected, by the machine's own clock (ms)."""
    return round((machine.starts[beat.boot - 1] + beat.uptime) * 1000)


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def text_of(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat()
