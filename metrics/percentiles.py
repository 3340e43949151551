"""The 95th percentile of 5-minute rates. Those of days that are over are measured once."""

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from django.db.models import Q

from metrics import memory
from metrics.counters import REQUIRED, UNKNOWN, Chain, sums_between, unroll
from metrics.increases import FOREVER, final_until
from metrics.models import DAY_MS, Chunk, Interface, day_start
from metrics.readings import readings

BYTES = REQUIRED[:2]
SLOT_MS = 300_000

Rates = list[dict[int, tuple[float, float]]]  # for each period, rx and tx by 5-minute slot
Samples = tuple[Sequence[float], Sequence[float]]  # of the 5-minute slots of a UTC day, rx and tx; UNKNOWN where it is


def percentile(rates: Collection[float], share: int = 95) -> float | None:
    """Return the rate that `share` percent of the samples do not exceed (nearest rank), or None without samples."""
    if not rates:
        return None
    return round(sorted(rates)[-(-share * len(rates) // 100) - 1], 3)


def five_minute_rates(interfaces: Sequence[Interface], instants: Sequence[int]) -> dict[int, Rates]:
    """Return the 5-minute rates of each interface in each period, of the slots of which something is known."""
    days = range(instants[0] // DAY_MS * DAY_MS, instants[-1], DAY_MS)
    versions = _versions(interfaces, days)
    slots = [range(-(-start // SLOT_MS) * SLOT_MS, end - SLOT_MS + 1, SLOT_MS) for start, end in pairwise(instants)]
    rates: dict[int, Rates] = {}
    for interface in interfaces:
        samples = _samples(interface, days, versions[interface.pk])
        rates[interface.pk] = [_known_rates(samples, of_period) for of_period in slots]
    return rates


def _known_rates(samples: Mapping[int, Samples], slots: range) -> dict[int, tuple[float, float]]:
    known = {}
    for slot in slots:
        rx, tx = samples[slot // DAY_MS * DAY_MS]
        index = slot % DAY_MS // SLOT_MS
        if rx[index] != UNKNOWN:
            known[slot] = rx[index], tx[index]
    return known


def _versions(interfaces: Sequence[Interface], days: range) -> dict[int, dict[int, int]]:
    """Return, for each day on which the log changes nothing, a number that changes when its readings do.

    It stands for all chunks up to the first that follows the day: how many readings they have.
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
            if day + DAY_MS <= limits[interface]:
                found[interface.pk][day] = versions[bisect_right(starts, until)]
    return found


def _samples(interface: Interface, days: range, versions: Mapping[int, int]) -> dict[int, Samples]:
    """Return the 5-minute rates of each day; days that are over are measured once."""
    found: dict[int, Samples] = {}
    for day in days:
        kept: Samples | None = memory.recall(("rates", interface.pk, day), versions.get(day))
        if kept is not None:
            found[day] = kept
    missing = [day for day in days if day not in found]
    if missing:
        lines = unroll(readings([interface], missing[0], missing[-1] + DAY_MS, BYTES)[interface.pk], BYTES)
        for day in missing:
            found[day] = _rates_of_day(lines, day)
            memory.keep(("rates", interface.pk, day), versions.get(day), found[day], rows=100)
    return found


def _rates_of_day(lines: Sequence[Chain], day: int) -> Samples:
    *both, covered = sums_between(lines, range(day, day + DAY_MS + 1, SLOT_MS), (*BYTES, "covered_ms"))
    seconds = SLOT_MS // 1000
    rx, tx = (
        array("d", [value / seconds if known else UNKNOWN for value, known in zip(values, covered, strict=True)])
        for values in both
    )
    return rx, tx


def add_rates(rates: Sequence[Rates], count: int) -> list[tuple[list[float], list[float]]]:
    """Return the samples of rx and of tx in each period, of the interfaces summed slot by slot."""
    summed = []
    for index in range(count):
        slots: dict[int, tuple[float, float]] = {}
        for of_interface in rates:
            for slot, (rx, tx) in of_interface[index].items():
                before = slots.get(slot, (0.0, 0.0))
                slots[slot] = (before[0] + rx, before[1] + tx)
        summed.append(([rx for rx, _ in slots.values()], [tx for _, tx in slots.values()]))
    return summed if rates else []
