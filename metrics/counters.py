"""Counter arithmetic: from readings to increases. Pure: integers only, no Django, no settings, no clock.

A reading is all counters of one interface at one instant. Readings are handled as columns: a mapping from each name
in COLUMNS to a list, all of one length, in the order of `order`. Instants are milliseconds since 1970, UTC.

The unrolled counter C(t) of an interface never decreases, and every answer is a difference of it: the increases of a
reading over its predecessor, added up, and between two readings in proportion to time. docs/history.md works an
example by hand.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import accumulate, chain
from operator import add, lt, mul, ne, or_, sub
from typing import NamedTuple

COUNTERS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
)  # fmt: skip
REQUIRED = COUNTERS[:4]  # every reading has these, and they alone decide the marks
BYTES = REQUIRED[:2]
CONTEXT = ("at", "boot", "started", "interval", "link", "ifindex", "speed")
COLUMNS = CONTEXT + COUNTERS

UNKNOWN = -1  # an optional value that was not reported
NO_BOOT = 0  # the boot of an agent that reports none

RESET, WRAP, GAP, SUSPECT = 1, 2, 4, 8
MARKS = {RESET: "reset", WRAP: "wrap", GAP: "gap", SUSPECT: "suspect"}
UNCLEAN = RESET | GAP  # what passed, or when it passed, is not fully known

GAP_INTERVALS_TENTHS = 25  # no reading for longer than 2.5 intervals
WRAP_ELAPSED_MS = 10 * 60 * 1000
SMALLEST_FRAME = 64  # bytes: bounds the packets that a link can carry
TOTALS = ("rx_uncovered", "tx_uncovered", "covered_ms", "up_ms", "resets")
PEAKS = ("rx_peak", "tx_peak")
LOWS = ("rx_low", "tx_low")

Columns = Mapping[str, Sequence[int]]


class Reading(NamedTuple):
    """One reading. `speed` in Mbit/s, `interval` in ms; `link` is 1 for up, 0 for down."""

    at: int
    boot: int
    started: int
    interval: int
    link: int
    ifindex: int
    speed: int
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_errors: int = UNKNOWN
    tx_errors: int = UNKNOWN
    rx_dropped: int = UNKNOWN
    tx_dropped: int = UNKNOWN

    @property
    def counters(self) -> tuple[int, ...]:
        return self[len(CONTEXT) :]


class Step(NamedTuple):
    """What passed between two neighbouring readings: an increase for each of COUNTERS, and what to know about it."""

    increases: tuple[int, ...]
    marks: int


def step(a: Reading, b: Reading) -> Step:
    """Return the increases from `a` to its successor `b`.

    Same boot and same interface: the difference. A counter that restarted: what the new one has seen, a lower bound,
    marked RESET. A 32-bit counter that ran over, where the link is fast enough for that: the difference plus 2^32,
    marked WRAP. A counter that either side does not report: 0. A machine rolled back within its boot repeats what it
    counted before, so a counter that fell says nothing new: 0, marked RESET.
    """
    elapsed = b.at - a.at
    marks = GAP if elapsed * 10 > GAP_INTERVALS_TENTHS * max(a.interval, b.interval) else 0
    capacity = _capacity(max(a.speed, b.speed), elapsed)
    increases = tuple(map(sub, b.counters, a.counters))
    if a.boot != b.boot or a.ifindex != b.ifindex or min(increases) < 0 or UNKNOWN in a.counters:
        increases, found = _irregular_step(a, b, capacity if elapsed <= WRAP_ELAPSED_MS else 0)
        marks |= found
    if not marks & RESET and 0 < capacity < max(increases[:2]):
        marks |= SUSPECT
    return Step(increases, marks)


def is_plain(a: Reading, b: Reading) -> bool:
    """Tell whether what passed between `a` and its successor `b` is nothing but the difference of each of REQUIRED.

    Then, of three readings that follow each other so, the one in the middle adds nothing to a sum over all of them.
    """
    return (
        a.at < b.at
        and (a.boot, a.link, a.ifindex) == (b.boot, b.link, b.ifindex)
        and (b.at - a.at) * 10 <= GAP_INTERVALS_TENTHS * max(a.interval, b.interval)
        and not any(map(lt, b.counters[: len(REQUIRED)], a.counters))
    )


def _irregular_step(a: Reading, b: Reading, wrap_bytes: int) -> tuple[tuple[int, ...], int]:
    """Return the increases that may be more than a difference, and their marks; `wrap_bytes` as in `_wrapped`."""
    is_new = _differs(a.boot, b.boot, NO_BOOT) or _differs(a.ifindex, b.ifindex, UNKNOWN)
    rolled_back = a.boot == b.boot != NO_BOOT and b.at - b.started < a.at - a.started
    pairs = list(zip(a.counters, b.counters, (wrap_bytes,) * 2 + (wrap_bytes // SMALLEST_FRAME,) * 6, strict=True))
    # A restart takes every counter with it, where a wrap of the bytes leaves the packets counting.
    restarted = any(after < before and not _wrapped(before, after, limit) for before, after, limit in pairs[2:4])

    increases = []
    marks = 0
    for index, (before, after, limit) in enumerate(pairs):
        mark = 0
        if UNKNOWN in (before, after):
            increase = 0
        elif is_new:
            increase, mark = after, RESET
        elif after >= before:
            increase = after - before
        elif not restarted and _wrapped(before, after, limit):
            increase, mark = after - before + 2**32, WRAP
        else:
            increase, mark = 0 if rolled_back else after, RESET
        increases.append(increase)
        if index < len(REQUIRED):
            marks |= mark
    return tuple(increases), marks


def rate(increase: int, elapsed_ms: int) -> float | None:
    """Return bytes per second, or None where no time is covered."""
    return round(increase * 1000 / elapsed_ms, 3) if elapsed_ms > 0 else None


def order(readings: list[Reading]) -> list[Reading]:
    """Return the readings in time order, each instant of a boot once."""
    return sorted({(reading.boot, reading.at): reading for reading in readings}.values())


def join(*parts: Columns, names: Sequence[str] = COLUMNS) -> dict[str, list[int]]:
    """Return the readings of all parts in time order, each instant of a boot once; the columns in `names`."""
    joined = {name: list(chain.from_iterable(part[name] for part in parts)) for name in names}
    at = joined["at"]
    if all(map(lt, at, at[1:])):
        return joined
    rows = sorted({(row[0], row[1]): row for row in zip(*joined.values(), strict=True)}.values())
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def between(readings: Columns, start: int, end: int) -> dict[str, list[int]]:
    """Return the readings from `start` to `end`, with the last up to `start` and the first from `end`."""
    at = readings["at"]
    first = max(bisect_right(at, start) - 1, 0)
    last = bisect_left(at, end) + 1
    return {name: list(values[first:last]) for name, values in readings.items()}


def columns(readings: Sequence[Reading]) -> dict[str, list[int]]:
    """Return ordered readings as columns."""
    if not readings:
        return join()
    return {name: list(values) for name, values in zip(COLUMNS, zip(*readings, strict=True), strict=True)}


class Chain(NamedTuple):
    """A run of readings, each the predecessor of the next, as cumulative columns: the unrolled counter.

    `counters` are the readings' own columns. `total` has, for each counter asked for and each of TOTALS that is not
    always 0, the sum up to each reading; `peaks` and `lows` the rate of the step that ends at each reading, UNKNOWN
    where it is not clean, and nothing where they are not asked for; `known` how long an optional counter was reported,
    None for never. `marks` maps the index of a reading to the marks of the step that ends at it, where there are any.
    """

    at: Sequence[int]
    counters: Columns
    total: dict[str, Sequence[int]]
    peaks: dict[str, Sequence[int]]
    lows: dict[str, Sequence[int]]
    known: dict[str, Sequence[int] | None]
    marks: dict[int, int]


def unroll(readings: Columns, wanted: Sequence[str] = COUNTERS) -> list[Chain]:
    """Return the chains of one interface's readings, for the counters in `wanted`. Usually there is one.

    A reading's predecessor is the one before it in its own boot; for the first of a boot, the latest reading before
    it of any. Two boots that overlap in time (a cloned machine, a boot without a clock) therefore make two chains,
    which are added.
    """
    if not readings["at"]:
        return []
    return [_chain(part, wanted) for part in _split(readings)]


class Buckets(NamedTuple):
    """Increases of consecutive time buckets: one list a column, one value a bucket.

    `sums` has each counter asked for (UNKNOWN where it was not reported) and TOTALS; `peaks` the highest clean rate and
    `lows` the lowest, in whole bytes per second (UNKNOWN where there is no lowest); `marks` the marks of the steps that
    overlap the bucket. A bucket that no step overlaps has no marks and no covered time: nothing is known of it.
    """

    sums: dict[str, list[int]]
    peaks: dict[str, list[int]]
    lows: dict[str, list[int]]
    marks: list[int]

    def is_known(self, index: int) -> bool:
        return self.sums["covered_ms"][index] > 0 or self.marks[index] > 0


def measure(chains: Sequence[Chain], edges: Sequence[int], wanted: Sequence[str] = COUNTERS) -> Buckets:
    """Return what passed in each bucket between consecutive `edges`: differences of C, so that parts add up."""
    buckets = empty_buckets(len(edges) - 1, wanted)
    for line in chains:
        points = _points(line.at, edges)
        covered = _differences(line.total["covered_ms"], points)
        for name, totals in line.total.items():
            passed = covered if totals is line.total["covered_ms"] else _differences(totals, points)
            known = line.known.get(name, line.at)
            if name not in line.known:
                buckets.sums[name][:] = map(add, buckets.sums[name], passed)
            elif known is not None:
                _add_reported(buckets.sums[name], passed, _differences(known, points))
        _add_peaks_and_lows(buckets, line, edges)
        _add_marks(buckets, line, edges)
    return buckets


def sums_between(chains: Sequence[Chain], edges: Sequence[int], names: Sequence[str]) -> list[list[int]]:
    """Return what `measure` does of some of REQUIRED and TOTALS, in a third of the time: a list each."""
    sums: dict[str, list[int]] = {}
    for line in chains:
        if line.at[0] < edges[-1] and line.at[-1] > edges[0]:
            points = _points(line.at, edges)
            for name in names:
                if name in line.total:
                    total = line.total[name]
                    passed = _elapsed(total, edges) if total is line.at else _differences(total, points)
                    sums[name] = list(map(add, sums[name], passed)) if name in sums else passed
    return [sums.get(name) or [0] * (len(edges) - 1) for name in names]


def add_buckets(into: Buckets, index: int, part: Buckets, start: int, stop: int) -> None:
    """Add buckets `start` up to `stop` of `part` to bucket `index` of `into`. What is unknown adds nothing."""
    for name, values in into.sums.items():
        added = part.sums[name][start:stop]
        if name not in REQUIRED and name in COUNTERS:
            added = [value for value in added if value != UNKNOWN]
            if not added:
                continue
            values[index] = max(values[index], 0)
        values[index] += sum(added)
    for name, values in into.peaks.items():
        values[index] = max(values[index], *part.peaks[name][start:stop])
    for name, values in into.lows.items():
        values[index] = _lowest([values[index], *part.lows[name][start:stop]])
    into.marks[index] = reduce(or_, part.marks[start:stop], into.marks[index])


def splice(into: Buckets, index: int, part: Buckets, start: int, stop: int) -> Buckets:
    """Return `into` with buckets `start` up to `stop` of `part` in place of as many from `index` on."""

    def replaced(values: list[int], by: list[int]) -> list[int]:
        return [*values[:index], *by[start:stop], *values[index + stop - start :]]

    return Buckets(
        sums={name: replaced(values, part.sums[name]) for name, values in into.sums.items()},
        peaks={name: replaced(values, part.peaks[name]) for name, values in into.peaks.items()},
        lows={name: replaced(values, part.lows[name]) for name, values in into.lows.items()},
        marks=replaced(into.marks, part.marks),
    )


def empty_buckets(count: int, wanted: Sequence[str] = COUNTERS) -> Buckets:
    """Return buckets of which nothing is known."""
    return Buckets(
        sums={name: [UNKNOWN if name in COUNTERS[4:] else 0] * count for name in (*wanted, *TOTALS)},
        peaks={name: [0] * count for name in PEAKS},
        lows={name: [UNKNOWN] * count for name in LOWS},
        marks=[0] * count,
    )


def _differs(a: int, b: int, unknown: int) -> bool:
    return a != b and a != unknown and b != unknown


def _capacity(speed_mbps: int, elapsed_ms: int) -> int:
    """Bytes that a link can carry, with a tenth to spare for clocks; 0 where its speed is unknown."""
    return max(speed_mbps, 0) * 1_000_000 // 8 * max(elapsed_ms, 0) * 11 // 10_000


def _wrapped(before: int, after: int, limit: int) -> bool:
    return after < before < 2**32 and after - before + 2**32 <= limit


def _split(readings: Columns) -> list[Columns]:
    boots = list(readings["boot"])
    for index, boot in enumerate(boots):
        if boot == NO_BOOT and index:
            boots[index] = boots[index - 1]  # an agent that names no boot speaks of the one that runs
    changes = sum(map(ne, boots[1:], boots))
    if changes + 1 == len(set(boots)):
        return [readings]
    rows: dict[int, list[int]] = {}
    for index, boot in enumerate(boots):
        if boot not in rows:
            rows[boot] = [index - 1] if index else []
        rows[boot].append(index)
    return [{name: [values[row] for row in part] for name, values in readings.items()} for part in rows.values()]


def _chain(readings: Columns, wanted: Sequence[str]) -> Chain:
    at = readings["at"]
    elapsed = list(map(sub, at[1:], at))
    increases = {name: list(map(sub, readings[name][1:], readings[name])) for name in {*wanted, *REQUIRED}}
    marks: dict[int, int] = {}
    for index in _irregular(readings, elapsed, increases):
        passed = step(_reading(readings, index), _reading(readings, index + 1))
        for name in increases:
            increases[name][index] = passed.increases[COUNTERS.index(name)]
        if passed.marks:
            marks[index + 1] = passed.marks

    total: dict[str, Sequence[int]] = {name: _cumulative(increases[name]) for name in wanted}
    unclean = [index - 1 for index, mark in marks.items() if mark & UNCLEAN]
    clean = elapsed
    if unclean:
        clean = list(elapsed)
        for index in unclean:
            clean[index] = 0
        for name, increased in zip(TOTALS[:2], BYTES, strict=True):
            uncovered = [0] * len(elapsed)
            for index in unclean:
                uncovered[index] = increases[increased][index]
            total[name] = _cumulative(uncovered)
    total["covered_ms"] = _cumulative(clean) if unclean else at
    links = readings["link"]
    if max(links):
        total["up_ms"] = total["covered_ms"] if min(links) else _cumulative(map(mul, clean, links))
    rates = [
        [
            UNKNOWN,
            *(passed * 1000 // span if span else UNKNOWN for passed, span in zip(increases[name], clean, strict=True)),
        ]
        for name in BYTES
    ]
    return Chain(
        at=at,
        counters=readings,
        total=total,
        peaks=dict(zip(PEAKS, rates, strict=True)),
        lows=dict(zip(LOWS, rates, strict=True)),
        known={name: _known(readings[name], at, elapsed) for name in wanted if name not in REQUIRED},
        marks=marks,
    )


def _cumulative(increases: Iterable[int]) -> list[int]:
    return list(accumulate(increases, initial=0))


def _irregular(readings: Columns, elapsed: list[int], increases: dict[str, list[int]]) -> list[int]:
    """Return the indexes of the steps that may be more than a difference."""
    if not elapsed:
        return []
    found: set[int] = set()
    for name in ("boot", "ifindex"):
        values = readings[name]
        if min(values) != max(values):
            found.update(index for index, differs in enumerate(map(ne, values[1:], values)) if differs)
    for name, changes in increases.items():
        if min(changes) < 0:
            found.update(index for index, change in enumerate(changes) if change < 0)
        if min(readings[name]) == UNKNOWN < max(readings[name]):
            found.update(index for index, value in enumerate(readings[name][:-1]) if value == UNKNOWN)
    intervals, speeds = readings["interval"], readings["speed"]
    if max(elapsed) * 10 > GAP_INTERVALS_TENTHS * min(intervals):
        found.update(
            index
            for index, duration in enumerate(elapsed)
            if duration * 10 > GAP_INTERVALS_TENTHS * max(intervals[index], intervals[index + 1])
        )
    if max(speeds) > 0:
        for name in BYTES:
            if max(increases[name]) > _capacity(min(speeds), min(elapsed)):
                found.update(
                    index
                    for index, increase in enumerate(increases[name])
                    if increase > _capacity(max(speeds[index], speeds[index + 1]), elapsed[index])
                )
    return sorted(found)


def _known(values: Sequence[int], at: Sequence[int], elapsed: list[int]) -> Sequence[int] | None:
    if min(values) != UNKNOWN:
        return at
    if max(values) == UNKNOWN:
        return None
    steps = zip(values, values[1:], elapsed, strict=False)
    return _cumulative([0 if UNKNOWN in (a, b) else max(duration, 1) for a, b, duration in steps])


def _reading(readings: Columns, index: int) -> Reading:
    return Reading(*(readings[name][index] if name in readings else UNKNOWN for name in COLUMNS))


def _points(at: Sequence[int], edges: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return where each edge lies: between which two readings, how far behind the first, of how long a step."""
    last = len(at) - 1
    points = []
    for edge in edges:
        index = bisect_right(at, edge)
        if 0 < index <= last:
            start = at[index - 1]
            points.append((index - 1, index, edge - start, at[index] - start))
        else:
            points.append((min(index, last), min(index, last), 0, 1))
    return points


def _differences(totals: Sequence[int], points: list[tuple[int, int, int, int]]) -> list[int]:
    values = [(before := totals[a]) + (totals[b] - before) * since // span for a, b, since, span in points]
    return list(map(sub, values[1:], values))


def _elapsed(at: Sequence[int], edges: Sequence[int]) -> list[int]:
    """Return what `_differences` does of instants: of each bucket, as much as lies between the first and the last."""
    first, last = bisect_left(edges, at[0]), bisect_right(edges, at[-1])
    values = [at[0]] * first + list(edges[first:last]) + [at[-1]] * (len(edges) - last)
    return list(map(sub, values[1:], values))


def _add_reported(sums: list[int], passed: list[int], seen: list[int]) -> None:
    """Add what passed an optional counter, in the buckets in which it was reported."""
    for index, increase in enumerate(passed):
        if seen[index] > 0:
            sums[index] = max(sums[index], 0) + increase


def _add_peaks_and_lows(buckets: Buckets, chain: Chain, edges: Sequence[int]) -> None:
    if not chain.peaks:
        return
    first = [max(bisect_right(chain.at, edge), 1) for edge in edges[:-1]]
    last = [bisect_left(chain.at, edge) + 1 for edge in edges[1:]]
    for peak, low in zip(PEAKS, LOWS, strict=True):
        highest, lowest = chain.peaks[peak], chain.lows[low]
        peaks, lows = buckets.peaks[peak], buckets.lows[low]
        for index, (start, stop) in enumerate(zip(first, last, strict=True)):
            if within := highest[start:stop]:
                peaks[index] = max(peaks[index], max(within))
                least = min(lowest[start:stop])
                lows[index] = _lowest([lows[index], *([least] if least != UNKNOWN else lowest[start:stop])])


def _lowest(rates: Sequence[int]) -> int:
    return min((rate for rate in rates if rate != UNKNOWN), default=UNKNOWN)


def _add_marks(buckets: Buckets, chain: Chain, edges: Sequence[int]) -> None:
    for index, marks in chain.marks.items():
        start, end = chain.at[index - 1], chain.at[index]
        ends_in = bisect_left(edges, end) - 1
        for bucket in range(max(bisect_right(edges, start) - 1, 0), min(ends_in, len(buckets.marks) - 1) + 1):
            buckets.marks[bucket] |= marks
        if marks & RESET and "resets" not in chain.total and 0 <= ends_in < len(buckets.marks):
            buckets.sums["resets"][ends_in] += 1
