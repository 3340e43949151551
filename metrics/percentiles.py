"""The 95th percentile of 5-minute rates. Those of days that are over are measured once."""

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from django.db.models import Q

from metrics import memory
from metrics.counters import BYTES, SUSPECT, UNKNOWN, Chain, Columns, Reading, sums_between, unroll
from metrics.final import FOREVER, final_until
from metrics.models import DAY_MS, Chunk, Interface, day_start
from metrics.readings import readings

SLOT_MS = 300_000
PLAIN = ("at", *BYTES)

Samples = tuple[Sequence[float], Sequence[float]]  # rx and tx of consecutive 5-minute slots, or UNKNOWN
NOTHING: Samples = (array("d", [UNKNOWN]) * (DAY_MS // SLOT_MS), array("d", [UNKNOWN]) * (DAY_MS // SLOT_MS))


def percentile(rates: Collection[float], share: int = 95) -> float | None:
    """Return the rate that `share` percent of the samples do not exceed (nearest rank), or None without samples."""
    if not rates:
        return None
    return round(sorted(rates)[-(-share * len(rates) // 100) - 1], 3)


def five_minute_rates(interfaces: Sequence[Interface], instants: Sequence[int]) -> dict[int, list[Samples]]:
    """Return the 5-minute rates of each interface in each period, slot by slot."""
    days = range(instants[0] // DAY_MS * DAY_MS, instants[-1], DAY_MS)
    versions, begins = _versions(interfaces, days)
    slots = [range(-(-start // SLOT_MS) * SLOT_MS, end - SLOT_MS + 1, SLOT_MS) for start, end in pairwise(instants)]
    rates: dict[int, list[Samples]] = {}
    for interface in interfaces:
        samples = _samples(interface, days, versions[interface.pk], begins.get(interface.pk, FOREVER))
        rates[interface.pk] = [_within(samples, of_period) for of_period in slots]
    return rates


def _within(samples: Mapping[int, Samples], slots: range) -> Samples:
    rx, tx = array("d"), array("d")
    end = slots.start + len(slots) * SLOT_MS
    for day in range(slots.start // DAY_MS * DAY_MS, end, DAY_MS):
        of_period = slice(max(slots.start - day, 0) // SLOT_MS, min(end - day, DAY_MS) // SLOT_MS)
        rx.extend(samples[day][0][of_period])
        tx.extend(samples[day][1][of_period])
    return rx, tx


def _versions(interfaces: Sequence[Interface], days: range) -> tuple[dict[int, dict[int, int]], dict[int, int]]:
    """Return, for each day on which the log changes nothing, a number that changes when its readings do.

    It stands for all chunks up to the first that follows the day: how many readings they have. Return, too, when the
    first chunk of each interface begins (ms), where there is one.
    """
    limits = final_until(interfaces)
    chunks: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    stored = (
        Chunk.objects.filter(interface__in=interfaces).annotate(is_pruned=Q(readings__isnull=True)).order_by("start")
    )
    for pk, *chunk in stored.values_list("interface_id", "start", "days", "count", "is_pruned"):
        chunks[pk].append(tuple(chunk))
    found: dict[int, dict[int, int]] = {}
    for interface in interfaces:
        of_interface = chunks[interface.pk]
        versions = list(accumulate(of_interface, lambda version, chunk: hash((version, *chunk)), initial=0))
        with_readings = [day_start(start) for start, _, count, _ in of_interface if count]
        starts = [day_start(start) for start, *_ in of_interface]
        found[interface.pk] = {}
        for day in days:
            following = bisect_left(with_readings, day + DAY_MS)
            until = with_readings[following] if following < len(with_readings) else FOREVER
            if day + DAY_MS <= limits[interface.pk]:
                found[interface.pk][day] = versions[bisect_right(starts, until)]
    return found, {pk: day_start(of_interface[0][0]) for pk, of_interface in chunks.items() if of_interface}


def _samples(interface: Interface, days: range, versions: Mapping[int, int], begins: int) -> dict[int, Samples]:
    """Return the 5-minute rates of each day; days that are over are measured once. Before `begins` there are none."""
    found: dict[int, Samples] = {}
    for day in days:
        kept: Samples | None = memory.recall(("rates", interface.pk, day), versions.get(day))
        if kept is not None:
            found[day] = kept
    missing = [day for day in days if day not in found]
    found |= {day: NOTHING for day in missing if day in versions and day + DAY_MS <= begins}
    over = [day for day in missing if day in versions and day not in found]
    found |= _plain_samples(interface, over) if over else {}
    for first, last in _runs([day for day in missing if day not in found]):
        lines = unroll(readings([interface], first, last + DAY_MS, BYTES)[interface.pk], BYTES)
        found |= {day: _rates_of_day(lines, day) for day in range(first, last + 1, DAY_MS)}
    for day in missing:
        memory.keep(("rates", interface.pk, day), versions.get(day), found[day], rows=100)
    return found


def _runs(days: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last of at most two runs of days; the first may have others in it."""
    starts = [index for index, day in enumerate(days) if not index or day - days[index - 1] > DAY_MS]
    last = starts[-1] if starts else 0
    return [(run[0], run[-1]) for run in (days[:last], days[last:]) if run]


def _plain_samples(interface: Interface, days: Sequence[int]) -> dict[int, Samples]:
    """Return the rates of days that are over, from three columns of their chunks: where all is a plain difference.

    That is where no hour of a chunk has a mark that says otherwise, and all in it and around it is of one boot.
    """
    found: dict[int, Samples] = {}
    wanted = set(days)
    chunks = Chunk.objects.filter(interface=interface, count__gt=0).around(days[0] - 7 * DAY_MS, days[-1] + 8 * DAY_MS)
    before: Chunk | None = None
    part: _Part | None = None
    for chunk in chunks.iterator(chunk_size=4):
        following = _part_of(chunk, before)
        if part is not None:
            found |= part.samples(wanted, following)
        before, part = chunk, following
    return found | (part.samples(wanted, None) if part is not None else {})


class _Part(NamedTuple):
    """The readings of a chunk, after the last one before it; `is_plain`, as far as the chunk itself tells."""

    days: range
    is_plain: bool
    before: Reading | None
    columns: Columns

    def samples(self, wanted: Collection[int], following: "_Part | None") -> dict[int, Samples]:
        """Return the rates of the days that are wanted; none where these are no plain differences."""
        boot = self.columns["boot"][0] if self.is_plain else None
        if boot is None or (self.before is not None and self.before.boot != boot):
            return {}
        if following is not None and following.columns["boot"][:1] != [boot]:
            return {}
        at, rx, tx = (
            [
                *([getattr(self.before, name)] if self.before is not None else ()),
                *self.columns[name],
                *(following.columns[name][:1] if following is not None else ()),
            ]
            for name in PLAIN
        )
        line = Chain(at, {}, {"rx_bytes": rx, "tx_bytes": tx, "covered_ms": at}, {}, {}, {}, {})
        return {day: _rates_of_day([line], day) for day in self.days if day in wanted}


def _part_of(chunk: Chunk, before: Chunk | None) -> _Part:
    columns = chunk.get_readings((*PLAIN, "boot"))
    (marks,) = chunk.get_columns_of_hours(["marks"])
    boots = columns["boot"]
    is_plain = bool(boots) and boots.count(boots[0]) == len(boots) and not any(mark & ~SUSPECT for mark in marks)
    days = range(chunk.start_ms, chunk.end_ms, DAY_MS)
    return _Part(days, is_plain, before.get_last_reading() if before is not None else None, columns)


def _rates_of_day(lines: Sequence[Chain], day: int) -> Samples:
    *both, covered = sums_between(lines, range(day, day + DAY_MS + 1, SLOT_MS), (*BYTES, "covered_ms"))
    seconds = SLOT_MS // 1000
    rx, tx = (array("d", [value / seconds for value in values]) for values in both)
    for slot, known in enumerate(covered):
        if not known:
            rx[slot] = tx[slot] = UNKNOWN
    return rx, tx


def add_rates(rates: Sequence[Sequence[Samples]], count: int) -> list[tuple[list[float], list[float]]]:
    """Return the samples of rx and of tx in each period, of the interfaces summed slot by slot, where any is known."""
    if not rates:
        return []
    return [(_add([of[index][0] for of in rates]), _add([of[index][1] for of in rates])) for index in range(count)]


def _add(rates: Sequence[Sequence[float]]) -> list[float]:
    if len(rates) == 1:
        return [rate for rate in rates[0] if rate != UNKNOWN]
    return [sum(known) for slot in zip(*rates, strict=True) if (known := [rate for rate in slot if rate != UNKNOWN])]
