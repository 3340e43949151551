"""From series to SVG: paths, axes, units. Pure: no Django, no settings, no clock.

A chart is drawn in a box of WIDTH x HEIGHT that the page stretches sideways, so that x goes out as a path coordinate
of that box and, for texts, as a percentage. Instants are milliseconds since 1970, rates bytes per second, and None is
what is unknown: a break in the line.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

WIDTH = 1000.0
HEIGHT = 240.0
SPARK_WIDTH, SPARK_HEIGHT, SPARK_POINTS = 120.0, 28.0, 48
MOST_LABELS = 8
MOST_STEPS = 5

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB")
BIT_UNITS = ("bit", "kbit", "Mbit", "Gbit", "Tbit", "Pbit", "Ebit", "Zbit")

MINUTE, HOUR, DAY = 60, 3600, 86_400
LABEL_STEPS = (
    1, 5, 10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR,
    4 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 5 * DAY, 7 * DAY, 14 * DAY,
)  # fmt: skip
LABEL_MONTHS = (1, 2, 3, 6, 12)

Values = Sequence[float | None]


class Happening(NamedTuple):
    """An event: when (ms), and what it is called."""

    at: int
    text: str


class Series(NamedTuple):
    """What passed in each of consecutive steps from `starts`, the last of which ends at `end`, and what happened."""

    starts: Sequence[int]
    end: int
    rx: Values
    tx: Values
    rx_peak: Values
    tx_peak: Values
    rx_low: Values
    tx_low: Values
    marks: Sequence[Sequence[str]]
    events: Sequence[Happening] = ()

    @property
    def is_empty(self) -> bool:
        return all(value is None for value in (*self.rx, *self.tx))

    def without_ranges(self) -> "Series":
        none = [None] * len(self.starts)
        return self._replace(rx_peak=none, tx_peak=none, rx_low=none, tx_low=none)


class Tick(NamedTuple):
    """A label of the y axis: where, and the rate it stands for; rates of tx, below the axis, are negative."""

    y: float
    rate: float
    text: str


class Label(NamedTuple):
    """A label of the x axis: where, in percent of the width, and when."""

    x: float
    at: int
    text: str


class Mark(NamedTuple):
    x: float
    kinds: str


class Chart(NamedTuple):
    """Paths of rx above the axis and tx below it, with what to write beside them.

    A range reaches from the lowest rate within each step to the highest.
    """

    axis: float
    rx_area: str
    rx_line: str
    rx_range: str
    tx_area: str
    tx_line: str
    tx_range: str
    ticks: list[Tick]
    labels: list[Label]
    marks: list[Mark]
    events: list[Mark]


class Spark(NamedTuple):
    """Two paths and the axis between them, in a box of SPARK_WIDTH x SPARK_HEIGHT."""

    axis: float
    rx: str
    tx: str


class Stack(NamedTuple):
    """Areas on top of each other, the first lowest, in a box of WIDTH x HEIGHT."""

    starts: Sequence[int]
    end: int
    areas: list[str]
    highest: float
    labels: list[Label]


def chart(series: Series, *, unit: str, zone: tzinfo) -> Chart:
    """Draw a series. `unit` is "bytes" or "bits"; labels of the x axis are in `zone`."""
    step = tick_step(max(_highest(series.rx_peak, series.rx), _highest(series.tx_peak, series.tx)), unit)
    above = _steps(_highest(series.rx_peak, series.rx), step)
    below = _steps(_highest(series.tx_peak, series.tx), step)
    scale = HEIGHT / (step * (above + below))
    axis = above * step * scale
    edges = [*series.starts, series.end]
    start, end = edges[0], edges[-1]
    xs = [_x(edge, start, end) * WIDTH for edge in edges]
    up, down = -scale, scale
    return Chart(
        axis=round(axis, 2),
        rx_area=_area(xs, series.rx, axis, up),
        rx_line=_line(xs, series.rx, axis, up),
        rx_range=_range(xs, series.rx_low, series.rx, series.rx_peak, axis, up),
        tx_area=_area(xs, series.tx, axis, down),
        tx_line=_line(xs, series.tx, axis, down),
        tx_range=_range(xs, series.tx_low, series.tx, series.tx_peak, axis, down),
        ticks=[
            Tick(round(axis - index * step * scale, 2), index * step, rate_text(abs(index) * step, unit))
            for index in range(above, -below - 1, -1)
        ],
        labels=_labels(start, end, zone),
        marks=[
            Mark(round(_x(edges[index], start, end) * 100, 3), ", ".join(kinds))
            for index, kinds in _first_of_each_run(series.marks)
        ],
        events=[
            Mark(round(_x(at, start, end) * 100, 3), ", ".join(event.text for event in group))
            for at, group in groupby(sorted(series.events), key=attrgetter("at"))
        ],
    )


def spark(rx: Values, tx: Values) -> Spark:
    """Draw rx above and tx below a common axis, on one scale, in at most SPARK_POINTS steps."""
    rx, tx = _fewer(rx), _fewer(tx)
    above, below = _highest(rx), _highest(tx)
    scale = (SPARK_HEIGHT - 2) / ((above + below) or 1)
    axis = 1 + above * scale if above + below else SPARK_HEIGHT / 2
    xs = [index * SPARK_WIDTH / max(len(rx), 1) for index in range(len(rx) + 1)]
    return Spark(round(axis, 2), _area(xs, rx, axis, -scale), _area(xs, tx, axis, scale))


def stack(starts: Sequence[int], end: int, columns: Sequence[Values], *, zone: tzinfo) -> Stack:
    """Draw rates on top of each other. What is unknown of one adds nothing. Labels of the x axis are in `zone`."""
    xs = [_x(edge, starts[0], end) * WIDTH for edge in (*starts, end)]
    levels = [[0.0] * len(starts)]
    for values in columns:
        levels.append([below + (value or 0) for below, value in zip(levels[-1], values, strict=True)])
    highest = max(levels[-1], default=0.0)
    scale = -HEIGHT / (highest or 1)
    everywhere = range(len(starts))
    areas = [_between(xs, below, above, everywhere, HEIGHT, scale) for below, above in pairwise(levels)]
    return Stack(starts, end, areas, highest, _labels(starts[0], end, zone))


def rate_text(rate: float | None, unit: str) -> str:
    """Return bytes per second as text, or a dash when the rate is unknown."""
    if rate is None:
        return "–"
    if unit == "bits":
        return f"{_scaled(rate * 8, 1000, BIT_UNITS)}/s"
    return f"{_scaled(rate, 1024, BYTE_UNITS)}/s"


def size_text(size: float | None) -> str:
    """Return a number of bytes as text, or a dash when it is unknown."""
    return "–" if not isinstance(size, int | float) else _scaled(size, 1024, BYTE_UNITS)


def count_text(count: int | None) -> str:
    """Return a number in groups of three digits, or a dash when it is unknown."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(count, int) else "–"


def speed_text(mbps: int | None) -> str:
    """Return a link's speed as text; empty when the link reports none."""
    return _scaled(mbps * 1_000_000, 1000, BIT_UNITS) + "/s" if mbps and mbps > 0 else ""


def tick_step(highest: float, unit: str) -> float:
    """Return a round step, in bytes per second, that reaches `highest` in at most MOST_STEPS steps."""
    if highest <= 0:
        return 1.0 if unit == "bytes" else 0.125
    if unit == "bits":
        return next(step for step in _round_decimal() if step / 8 * MOST_STEPS >= highest) / 8
    return next(step for step in _round_binary() if step * MOST_STEPS >= highest)


def _labels(start: int, end: int, zone: tzinfo) -> list[Label]:
    return [Label(round(_x(at, start, end) * 100, 3), at, text) for at, text in time_labels(start, end, zone)]


def time_labels(start: int, end: int, zone: tzinfo) -> list[tuple[int, str]]:
    """Return the instants to label between `start` and `end`, on round local times, and their texts."""
    seconds = (end - start) / 1000
    step = next((step for step in LABEL_STEPS if seconds / step <= MOST_LABELS), None)
    instants = _by_step(start, end, step, zone) if step else _by_month(start, end, zone)
    texts = [(_ms(at), _label(at, step)) for at in instants]
    return [(at, text) for at, text in texts if start <= at <= end]


def _fewer(rates: Values) -> Values:
    """Return the rates of a few longer steps; the steps are equally long, so that their mean is the rate."""
    size = -(-len(rates) // SPARK_POINTS)
    parts = ([rate for rate in rates[at : at + size] if rate is not None] for at in range(0, len(rates), size or 1))
    return [sum(part) / len(part) if part else None for part in parts]


def _highest(*columns: Values) -> float:
    return max((value for column in columns for value in column if value is not None), default=0.0)


def _steps(highest: float, step: float) -> int:
    return max(1, -int(-highest // step))


def _x(at: int, start: int, end: int) -> float:
    return (at - start) / max(end - start, 1)


def _runs(values: Values) -> Iterator[range]:
    """Yield the indexes of each run of known values."""
    for is_known, group in groupby(range(len(values)), key=lambda index: values[index] is not None):
        if is_known:
            indexes = list(group)
            yield range(indexes[0], indexes[-1] + 1)


def _line(xs: Sequence[float], values: Values, axis: float, scale: float) -> str:
    """Return the path along the tops, a step wide each: what is known of a step is known of all of it."""
    return "".join("M" + "L".join(_tops(xs, values, run, axis, scale)) for run in _runs(values))


def _area(xs: Sequence[float], values: Values, axis: float, scale: float) -> str:
    return "".join(
        f"M{xs[run.start]:.1f} {axis:.1f}L"
        + "L".join(_tops(xs, values, run, axis, scale))
        + f"L{xs[run.stop]:.1f} {axis:.1f}Z"
        for run in _runs(values)
    )


def _range(xs: Sequence[float], lows: Values, rates: Values, peaks: Values, axis: float, scale: float) -> str:
    """Return the area between the lows and the peaks; from the rates where no low is known."""
    lowest = [rate if low is None else low for low, rate in zip(lows, rates, strict=True)]
    return "".join(_between(xs, lowest, peaks, run, axis, scale) for run in _runs(peaks))


def _between(xs: Sequence[float], below: Values, above: Values, run: range, axis: float, scale: float) -> str:
    back = reversed(list(_tops(xs, below, run, axis, scale)))
    return f"M{'L'.join(_tops(xs, above, run, axis, scale))}L{'L'.join(back)}Z"


def _tops(xs: Sequence[float], values: Values, run: range, axis: float, scale: float) -> Iterator[str]:
    """Yield the points of one run: the middle of each step, and its outer edges at both ends."""
    tops = [axis + (values[index] or 0) * scale for index in run]
    yield f"{xs[run.start]:.1f} {tops[0]:.1f}"
    for index, top in zip(run, tops, strict=True):
        yield f"{(xs[index] + xs[index + 1]) / 2:.1f} {top:.1f}"
    yield f"{xs[run.stop]:.1f} {tops[-1]:.1f}"


def _first_of_each_run(marks: Sequence[Sequence[str]]) -> Iterator[tuple[int, Sequence[str]]]:
    before: Sequence[str] = ()
    for index, kinds in enumerate(marks):
        if kinds and kinds != before:
            yield index, kinds
        before = kinds


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while power < len(units) - 1 and round(value, 1 if power else 0) >= base:
        value, power = value / base, power + 1
    digits = 0 if value >= 100 or (power == 0 and value == int(value)) else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {units[power]}"


def _round_binary() -> Iterator[float]:
    step = 1.0
    while True:
        yield step
        step *= 2


def _round_decimal() -> Iterator[float]:
    power = 1.0
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _by_step(start: int, end: int, step: int, zone: tzinfo) -> Iterable[datetime]:
    """Yield local times on multiples of `step` seconds since local midnight, or of whole days."""
    first = _local(start, zone)
    if step >= DAY:
        days = step // DAY
        day = first.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        day -= timedelta(days=day.toordinal() % days)
        while _ms(day) <= end:
            yield day
            day += timedelta(days=days)
        return
    at = start - (start + round((first.utcoffset() or timedelta()).total_seconds() * 1000)) % (step * 1000)
    seen: set[int] = set()
    while at <= end:
        local = _local(at, zone)
        past = (local.hour * HOUR + local.minute * MINUTE + local.second) % step
        aligned = at - past * 1000  # where the clock was changed
        if aligned not in seen:
            seen.add(aligned)
            yield _local(aligned, zone)
        at += step * 1000


def _by_month(start: int, end: int, zone: tzinfo) -> Iterable[datetime]:
    months = (end - start) / 1000 / DAY / 30.4
    step = LABEL_MONTHS[min(bisect_left(LABEL_MONTHS, months / (MOST_LABELS + 4)), len(LABEL_MONTHS) - 1)]
    first = _local(start, zone)
    number = first.year * 12 + first.month - 1
    number -= number % step
    while True:
        at = datetime(number // 12, number % 12 + 1, 1, tzinfo=zone)
        if _ms(at) > end:
            return
        yield at
        number += step


def _label(at: datetime, step: int | None) -> str:
    if step is None:
        return f"{at:%Y}" if at.month == 1 else f"{at:%b}"
    if step >= DAY or (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at.day} {at:%b}"
    return f"{at:%H:%M:%S}" if step < MINUTE else f"{at:%H:%M}"


def _local(at: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(at / 1000, tz=zone)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
