"""What history must say, worked out the slow way: plain integers, one step and one bucket at a time, no code of ours.

Times are milliseconds since 1970 in UTC, and -1 stands for "not reported", as in the rest of the room.
"""

from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

WRAP_AT = 2**32
TEN_MINUTES = 600_000
FIVE_MINUTES = 300_000


class Reading(NamedTuple):
    at: int
    counters: tuple[int, ...]  # rx/tx bytes, rx/tx packets, rx/tx errors, rx/tx dropped
    boot: int = 0  # 0: the agent names no boot
    uptime: int = 0  # milliseconds since the boot started
    interval: int = 60_000
    link: int = 1
    ifindex: int = -1
    speed: int = -1  # Mbit/s


class Step(NamedTuple):
    """What happened between a reading and its predecessor."""

    start: int
    end: int
    increases: tuple[int, ...]
    reported: tuple[bool, ...]  # by both readings
    marks: frozenset[str]
    link: int

    @property
    def clean(self) -> bool:
        return not self.marks & {"reset", "gap"}


class Bucket(NamedTuple):
    increases: tuple[int | None, ...]
    rates: tuple[float | None, ...]
    peaks: tuple[int | None, ...]
    lows: tuple[int | None, ...]
    covered: int
    up: int
    resets: int
    marks: frozenset[str]


def steps_of(readings: list[Reading]) -> list[Step]:
    """The steps of one interface; readings may come in any order, and one that came twice counts once."""
    ordered = sorted(set(readings), key=lambda reading: (reading.at, reading.boot))
    boots: list[
        int
    ] = []  # the boot every reading belongs to, once those without a name have taken that of the one before
    steps = []
    for position, reading in enumerate(ordered):
        before = range(position - 1, -1, -1)
        boots.append(reading.boot or (boots[-1] if boots else 0))
        same_boot = (earlier for earlier in before if boots[earlier] == boots[position])
        if position:
            steps.append(step_between(ordered[next(same_boot, position - 1)], reading))
    return steps


def step_between(a: Reading, b: Reading) -> Step:
    elapsed = b.at - a.at
    capacity = max(a.speed, b.speed, 0) * 1_000_000 // 8 * elapsed * 11 // 10_000
    other_boot = a.boot != 0 and b.boot != 0 and a.boot != b.boot
    other_interface = a.ifindex != -1 and b.ifindex != -1 and a.ifindex != b.ifindex
    rolled_back = a.boot != 0 and a.boot == b.boot and b.uptime < a.uptime
    reported = tuple(x != -1 and y != -1 for x, y in zip(a.counters, b.counters, strict=True))

    def fell(counter: int) -> bool:
        return reported[counter] and b.counters[counter] < a.counters[counter]

    def may_have_wrapped(counter: int) -> bool:
        limit = 0 if elapsed > TEN_MINUTES else capacity if counter < 2 else capacity // 64
        through_zero = b.counters[counter] - a.counters[counter] + WRAP_AT
        return a.counters[counter] < WRAP_AT and through_zero <= limit

    packets_restarted = any(fell(counter) and not may_have_wrapped(counter) for counter in (2, 3))
    increases, marks = [], set()
    for counter, (x, y) in enumerate(zip(a.counters, b.counters, strict=True)):
        mark = None
        if not reported[counter]:
            increases.append(0)
        elif other_boot or other_interface:
            increases.append(y)
        elif y >= x:
            increases.append(y - x)
        elif may_have_wrapped(counter) and not packets_restarted:
            increases.append(y - x + WRAP_AT)
            mark = "wrap"
        else:
            increases.append(0 if rolled_back else y)
            mark = "reset"
        if mark and counter < 4:
            marks.add(mark)
    if other_boot or other_interface:
        marks.add("reset")
    if elapsed * 2 > max(a.interval, b.interval) * 5:
        marks.add("gap")
    if "reset" not in marks and capacity > 0 and max(increases[:2]) > capacity:
        marks.add("suspect")
    return Step(a.at, b.at, tuple(increases), reported, frozenset(marks), a.link)


def bucket(steps: list[Step], start: int, end: int) -> Bucket | None:
    """What passed in [start, end): None where nothing is known."""
    overlapping = [
        step
        for step in steps
        if max(step.start, start) < min(step.end, end) or start < step.start == step.end <= end  # two boots at once
    ]
    if not overlapping:
        return None
    clean = [step for step in overlapping if step.clean]
    covered = sum(_inside(step, start, end) for step in clean)
    increases, rates, peaks, lows = [], [], [], []
    for counter in range(8):
        known = [step for step in overlapping if step.reported[counter]]
        increases.append(sum(_share(step, counter, start, end) for step in known) if known else None)
        passed = sum(_share(step, counter, start, end) for step in clean)
        rates.append(round(passed * 1000 / covered, 3) if covered else None)
        speeds = [step.increases[counter] * 1000 // (step.end - step.start) for step in clean]
        peaks.append(max(speeds, default=None))
        lows.append(min(speeds, default=None))
    return Bucket(
        tuple(increases),
        tuple(rates),
        tuple(peaks),
        tuple(lows),
        covered,
        sum(_inside(step, start, end) for step in clean if step.link == 1),
        sum("reset" in step.marks and start < step.end <= end for step in overlapping),
        frozenset().union(*(step.marks for step in overlapping)),
    )


def percentile_95(interfaces: list[list[Step]], counter: int, start: int, end: int) -> float | None:
    """Bytes per second that 95 of 100 five-minute slots do not exceed, of the slots that something covers."""
    samples: dict[int, int] = {}
    for steps in interfaces:
        slots = {slot for step in steps if step.clean for slot in _slots(step) if start <= slot <= end - FIVE_MINUTES}
        for slot in slots:
            known = bucket(steps, slot, slot + FIVE_MINUTES)
            if known is not None and known.covered:
                samples[slot] = samples.get(slot, 0) + (known.increases[counter] or 0)
    if not samples:
        return None
    in_order = sorted(samples.values())
    enough = next(rank for rank in range(1, len(in_order) + 1) if rank * 100 >= len(in_order) * 95)
    return round(in_order[enough - 1] / 300, 3)


def _slots(step: Step) -> range:
    return range(step.start // FIVE_MINUTES * FIVE_MINUTES, step.end, FIVE_MINUTES)


def days(zone: str, start: int, end: int) -> list[int]:
    """The instants in [start, end) at which the date changes there, found by looking at every quarter of an hour."""
    return _changes(start, end, lambda at: _local(zone, at).date())


def months(zone: str, start: int, end: int, first_day: int = 1) -> list[int]:
    """The instants at which a billing month begins: on `first_day`, or on the last day of a month that is shorter."""
    return [at for at in days(zone, start, end) if _begins_month(_local(zone, at), first_day)]


def _changes(start: int, end: int, name_of) -> list[int]:
    quarters = range(start - start % 900_000, end, 900_000)
    return [at for at in quarters if at >= start and name_of(at) != name_of(at - 1)]


def _local(zone: str, at: int) -> datetime:
    return datetime.fromtimestamp(at // 1000, ZoneInfo(zone))


def _begins_month(day: datetime, first_day: int) -> bool:
    tomorrow = datetime.fromordinal(day.toordinal() + 1)
    return day.day == first_day or (day.day < first_day and tomorrow.day == 1)


def _inside(step: Step, start: int, end: int) -> int:
    return min(step.end, end) - max(step.start, start)


def _share(step: Step, counter: int, start: int, end: int) -> int:
    if step.start == step.end:
        return step.increases[counter]
    return _grown(step, counter, min(step.end, end)) - _grown(step, counter, max(step.start, start))


def _grown(step: Step, counter: int, at: int) -> int:
    return step.increases[counter] * (at - step.start) // (step.end - step.start)
