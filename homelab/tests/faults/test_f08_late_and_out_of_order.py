"""F8: heartbeats that come late and out of order, up to the whole retention."""

import time
from random import Random

from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.faults.machines import Machine

DAY = 86_400
RETENTION_DAYS = 400
CHUNKS = """
SELECT interface.name, chunk.start, chunk.days, chunk.count, chunk.resets
FROM metrics_chunk chunk JOIN metrics_interface interface ON interface.id = chunk.interface_id
WHERE interface.server_id = '{}' ORDER BY interface.name, chunk.start
"""


def test_totals_are_those_of_a_run_in_order(hub: BreakableHub, rounds, tally):
    now = time.time()
    chance = Random(8)
    tidy, untidy = (Machine(name, started=now - (RETENTION_DAYS + 30) * DAY) for name in ("tidy", "untidy"))
    untidy.chance = Random("tidy")  # the same bytes pass
    for instant in instants(now, max(rounds(6000), 150)):
        tidy.collect(instant), untidy.collect(instant)
    hub.drain([tidy])
    held_back = [beat for beat in untidy.waiting() if chance.random() < 0.5]
    in_time = [beat for beat in untidy.waiting() if beat not in held_back]
    deliver(hub, untidy, in_time)
    hub.run("tick")
    assert {days for _, _, days, *_ in hub.rows(CHUNKS.format("untidy"))} == {1, 7}, "not sealed and merged before"
    newest_first = sorted(held_back[::2], reverse=True)
    shuffled = chance.sample(held_back[1::2], k=len(held_back) // 2)
    deliver(hub, untidy, newest_first + shuffled)
    lost, twice = hub.auditor().compare([tidy, untidy])
    tally.note(late_heartbeats=len(held_back), lost=lost, twice=twice)
    for machine in (tidy, untidy):
        hub.auditor().check(machine, steps=["1h", "1d", "1month"])
    hub.run("tick")
    for machine in (tidy, untidy):
        hub.auditor().check(machine, steps=["1h", "1d", "1month"])
    assert hub.rows(CHUNKS.format("untidy")) == hub.rows(CHUNKS.format("tidy"))


def instants(now: float, count: int) -> list[float]:
    """Return when the beats are collected: some all through the retention, some each minute at its ends and between."""
    chance = Random(count)
    oldest = now - RETENTION_DAYS * DAY + 3600
    scattered = [chance.uniform(oldest, now - DAY) for _ in range(count // 2)]
    runs = (oldest, now - 20 * DAY, now - DAY)
    return sorted(scattered + [begin + 60 * minute for begin in runs for minute in range(count // 6)])


def deliver(hub: BreakableHub, machine: Machine, beats: list) -> None:
    """Send some beats in this order, in batches of any size."""
    chance, sender = Random(len(beats)), hub.sender()
    while beats:
        size = chance.randrange(1, 60)
        assert sender.send(machine, beats[:size]) == 200
        assert machine.acknowledged.issuperset(beat.number for beat in beats[:size])
        beats = beats[size:]
