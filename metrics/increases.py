"""What passed between any instants: from the chunks' hours where these are final, all else from readings.

The answer is the same whichever it is computed from, and the same before and after sealing. Hours serve as a chain
whose steps are hours: the same differences answer for both.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from typing import NamedTuple

from metrics import memory
from metrics.counters import (
    BYTES,
    COUNTERS,
    LOWS,
    PEAKS,
    REQUIRED,
    TOTALS,
    UNKNOWN,
    Buckets,
    Chain,
    Reading,
    add_buckets,
    empty_buckets,
    measure,
    splice,
    unroll,
)
from metrics.final import FOREVER, limits_as_of, limits_of, waiting_of
from metrics.models import HOUR_MS, Chunk, Interface, from_ms, to_ms
from metrics.plain import Window, plain_lines
from metrics.readings import (
    AROUND_MS,
    FEW_SERVERS,
    Log,
    Logs,
    Waiting,
    chunks_around,
    is_alone,
    logs_of,
    readings,
    sealed_readings,
    with_newest,
)
from metrics.shelf import MOST_CUT, Shelf, is_late, read_shelf, stored_of
from metrics.steady import Standings, standings_of

UNKNOWN_AT_FIRST = (*COUNTERS[4:], *LOWS)
VALUE_BYTES = 8
ALONE = 1  # server whose log is read as a whole: its charts need it, too


class Hours(NamedTuple):
    """The hours of one interface since `start` (ms): final up to `limit`; their readings gone before `kept_from`.

    The hour after `limit` is not final. Where `newest`, the newest sealed reading, is not None, that hour says all that
    passed until then, and what waits in the log, from `first_waiting` to `last_waiting` (ms), follows.
    """

    start: int
    limit: int
    first_waiting: int | None
    last_waiting: int | None
    newest: Reading | None
    kept_from: int
    line: Chain | None

    def bounds(self, instants: Sequence[int]) -> tuple[int, int]:
        """Return up to which hour the hours serve for these instants, and from when on readings do."""
        if self.newest is None:
            return self.limit, self.limit
        begins, ends = hour_around(self.newest.at)
        is_cut = begins < ends and bisect_right(instants, begins) < bisect_left(instants, ends)
        return (self.limit, self.limit) if is_cut else (ends, self.newest.at)


class _Stored(NamedTuple):
    """What the chunks of one interface hold of its hours, whatever waits in the log; as in `Hours`."""

    start: int
    last_reading: Reading | None
    kept_from: int
    line: Chain | None

    @property
    def rows(self) -> int:
        return room_of(self.line) if self.line else 0

    def with_log(self, interface: Interface, limit: int, waiting: Waiting | None, log: Log | None = None) -> Hours:
        first_waiting, last_waiting = (waiting.first_at, waiting.last_at) if waiting else (None, None)
        newest = followed(self.last_reading, interface, waiting, log)
        return Hours(self.start, limit, first_waiting, last_waiting, newest, self.kept_from, self.line)


class _Lines(NamedTuple):
    """Unrolled readings that answer for any window from `start` to `end` (ms)."""

    start: int
    end: int
    chains: list[Chain]


def increases(
    interfaces: Sequence[Interface], instants: Sequence[int], counters: Sequence[str] = COUNTERS
) -> dict[int, Buckets]:
    """Return what passed each interface, by its id, between consecutive `instants` (ms)."""
    if len(instants) < 2 or not interfaces:
        return {interface.id: empty_buckets(max(len(instants) - 1, 0), counters) for interface in interfaces}
    if not is_by_hours(instants):
        lines = unrolled(interfaces, instants[0], instants[-1], counters)
        return {interface: measure(chains, instants, counters) for interface, chains in lines.items()}
    logs = logs_of(interfaces)
    hours, shelf = _hours_of(interfaces, instants, counters, logs)
    totals = _of_whole_hours(interfaces, hours, instants, counters)
    add_cut_hours(totals, interfaces, hours, instants, counters, shelf=shelf)
    add_newest(totals, interfaces, hours, instants, counters, logs, shelf=shelf)
    return totals


def bytes_between(
    interfaces: Sequence[Interface], instants: Sequence[int], standings: Standings | None = None
) -> dict[int, Buckets]:
    """Return what `increases` does of BYTES, but for the highest and lowest rates, and with fewer marks.

    Much of the log need not be read for it. `standings` need not be asked for again where they know of the instants.
    """
    servers = {interface.server_id for interface in interfaces}
    are_few = len(servers) <= (FEW_SERVERS if standings is not None else ALONE)
    as_of = standings if standings is not None and standings.know(interfaces, instants) else None
    if len(servers) > ALONE and len(instants) > 1 and not is_by_hours(instants):
        logs = _logs_around(standings, interfaces, instants) if standings is not None else None
        lines = unrolled(interfaces, instants[0], instants[-1], BYTES, logs=logs)
        totals = {
            pk: measure([each._replace(peaks={}) for each in chains], instants, BYTES) for pk, chains in lines.items()
        }
    elif len(instants) < 2 or (are_few and as_of is None):
        totals = increases(interfaces, instants, BYTES)
    else:
        totals = bytes_as_of(as_of or standings_of(interfaces, instants), interfaces, instants)
    for buckets in totals.values():
        for values in (*buckets.peaks.values(), *buckets.lows.values()):
            values[:] = [UNKNOWN] * len(values)
    return totals


def _logs_around(standings: Standings, interfaces: Sequence[Interface], instants: Sequence[int]) -> Logs:
    """Return the logs that instants need: of a time that is final they say nothing, and some were read before."""
    if _are_final(standings, interfaces, instants[-1]):
        return dict.fromkeys((interface.server_id for interface in interfaces), Log(None, None, set(), {}))
    known = standings.whole_logs if standings.are_around(instants) else {}
    return {**known, **logs_of([interface for interface in interfaces if interface.server_id not in known])}


def _are_final(standings: Standings, interfaces: Sequence[Interface], end: int) -> bool:
    """Tell whether the hours of all interfaces are final up to `end` (ms), and nothing has to be read to know it."""
    if any(is_late(interface, standings.waiting) for interface in interfaces):
        return False
    return all(end <= limit for limit in limits_of(interfaces, standings.waiting).values())


def bytes_as_of(
    standings: Standings, interfaces: Sequence[Interface], instants: Sequence[int], shelf: Shelf | None = None
) -> dict[int, Buckets]:
    """Return what `bytes_between` does in buckets of an hour or more, as of standings that know of these instants.

    What is on the `shelf` is not read again.
    """
    logs = standings.logs
    hours, shelf = _hours_as_of(standings, interfaces, instants, logs, shelf or {})
    totals = _of_whole_hours(interfaces, hours, instants, BYTES)
    add_cut_hours(totals, interfaces, hours, instants, BYTES, standings.sealed, shelf=shelf)
    add_newest(totals, interfaces, hours, instants, BYTES, standings.all_logs, are_thin=True, shelf=shelf)
    return totals


def unrolled(
    interfaces: Sequence[Interface],
    start: int,
    end: int,
    counters: Sequence[str] = COUNTERS,
    *,
    logs: Logs | None = None,
    newest: Mapping[int, Reading] | None = None,
    last_waiting: int = FOREVER,
    stored: Sequence[Chunk] | None = None,
) -> dict[int, list[Chain]]:
    """Return the unrolled readings of each interface, by its id, that any instant from `start` to `end` needs.

    They may reach further; those of the same revision are read once. The rest is as `readings` takes it.
    """
    newest = newest or {}
    starts = {pk: max(start, reading.at) for pk, reading in newest.items()}
    found: dict[int, list[Chain]] = {}
    missing: list[Interface] = []
    for interface in interfaces:
        for key in _keys(interface, start, end, counters):
            kept: _Lines | None = memory.recall(key, interface.revision)
            if kept is not None and kept.start <= starts.get(interface.id, start) and end <= kept.end:
                found[interface.id] = kept.chains
                break
        else:
            missing.append(interface)
    if missing:
        loaded = readings(
            missing, start, end, counters, logs=logs, newest=newest, last_waiting=last_waiting, stored=stored
        )
        for interface in missing:
            of_interface = loaded[interface.id]
            first = starts.get(interface.id, start)
            chains = [_compact(chain) for chain in unroll(of_interface, counters)]
            found[interface.id] = chains
            # Where the readings end before the window does, there are none after it either: if that is the newest, and
            # not the last of a chunk whose readings are gone.
            at = of_interface["at"] or [-FOREVER]
            has_newest = interface.sealed_until is None or to_ms(interface.sealed_until) <= at[-1]
            since = -FOREVER if not of_interface["at"] or at[0] > first else first
            until = FOREVER if at[-1] < end and has_newest else end
            key = _keys(interface, start, end, counters)[-1]
            memory.keep(key, interface.revision, _Lines(since, until, chains), rows=sum(map(room_of, chains)))
    return found


def is_by_hours(instants: Sequence[int]) -> bool:
    """Tell whether whole hours serve: buckets of an hour or more, on the hour or few enough that are not."""
    inner = instants[1:-1]
    shortest = min((after - before for before, after in pairwise(inner)), default=HOUR_MS)
    if shortest < HOUR_MS:
        return False
    if instants[-1] - instants[0] < 2 * HOUR_MS:
        return all(instant % HOUR_MS == 0 for instant in instants)
    return shortest >= 6 * HOUR_MS or all(instant % HOUR_MS == 0 for instant in inner)


def _keys(interface: Interface, start: int, end: int, counters: Sequence[str]) -> list[tuple[object, ...]]:
    """Return under which keys a window may be kept; the last is its own: the window's, or that of one hour."""
    keys: list[tuple[object, ...]] = [("lines", interface.id, *counters)]
    if end - start <= 3 * HOUR_MS:
        keys.append(("lines", interface.id, start // HOUR_MS, *counters))
    return keys


def _hours_of(
    interfaces: Sequence[Interface], instants: Sequence[int], counters: Sequence[str], logs: Logs
) -> tuple[dict[int, Hours], Shelf]:
    """Return the hours of each interface, by its id, from the first instant or before until now, and what was read.

    They are read once a heartbeat.
    """
    found: dict[int, Hours] = {}
    missing: list[Interface] = []
    for interface in interfaces:
        kept: Hours | None = memory.recall(("hours", interface.id, *counters), interface.revision)
        # Readings that were sealed since would be in neither these hours nor the logs.
        log = logs.get(interface.server_id)
        is_current = log is None or kept is None or kept.first_waiting == log.first_at
        if kept is not None and kept.start <= instants[0] and is_current:
            found[interface.id] = kept
        else:
            missing.append(interface)
    if not missing:
        return found, {}
    waiting = waiting_of(missing, logs)
    shelf = read_shelf(missing, instants, waiting)
    limits = limits_of(missing, waiting, shelf, instants[0])
    for interface in missing:
        stored = _stored_hours(shelf[interface.id], instants[0], counters, PEAKS, LOWS)
        found[interface.id] = hours = stored.with_log(interface, limits[interface.id], waiting.get(interface.server_id))
        memory.keep(("hours", interface.id, *counters), interface.revision, hours, rows=stored.rows)
    return found, shelf


def _hours_as_of(
    standings: Standings, interfaces: Sequence[Interface], instants: Sequence[int], logs: Logs, shelf: Shelf
) -> tuple[dict[int, Hours], Shelf]:
    """Return the hours of BYTES as `_hours_of` does; read once until something is sealed."""
    waiting = standings.waiting
    stored: dict[int, _Stored] = {}
    for interface in interfaces:
        kept: _Stored | None = memory.recall(("stored", interface.id), standings.of[interface.server_id].sealed)
        if kept is not None and kept.start <= instants[0]:
            stored[interface.id] = kept
    missing = [interface for interface in interfaces if interface.id not in stored]
    if to_read := [interface for interface in missing if interface.id not in shelf]:
        shelf = {**shelf, **read_shelf(to_read, instants, waiting)}
    for interface in missing:
        stored[interface.id] = kept = _stored_hours(shelf[interface.id], instants[0], BYTES, (), ())
        memory.keep(("stored", interface.id), standings.of[interface.server_id].sealed, kept, rows=kept.rows)
    limits = limits_as_of(standings, interfaces, logs, shelf, instants[0])
    hours = {
        each.id: stored[each.id].with_log(each, limits[each.id], waiting.get(each.server_id), logs.get(each.server_id))
        for each in interfaces
    }
    return hours, shelf


def _stored_hours(
    chunks: Sequence[Chunk], start: int, counters: Sequence[str], peaks: Sequence[str], lows: Sequence[str]
) -> _Stored:
    chunks = [chunk for chunk in chunks if start - AROUND_MS < chunk.end_ms]
    last_reading = chunks[-1].get_last_reading() if chunks else None
    kept_from = max((chunk.end_ms for chunk in chunks if not chunk.has_readings), default=-FOREVER)
    return _Stored(start, last_reading, kept_from, hours_line(chunks, counters, peaks, lows))


def followed(
    newest: Reading | None, interface: Interface, waiting: Waiting | None, log: Log | None = None
) -> Reading | None:
    """Return the newest sealed reading, where every reading that waits is one of its successors.

    That is when all come later, and are of its boot, or, as far as the `log` is known, of one that started after it:
    any other's may reach further back. None where it is not so.
    """
    if newest is None or waiting is None or from_ms(newest.at) != interface.sealed_until:
        return None
    if newest.at >= waiting.first_at:
        return None
    if waiting.boots == {newest.boot}:
        return newest
    return newest if log is not None and is_alone(newest, log.readings.get(interface.name, [])) else None


def hours_line(
    chunks: Sequence[Chunk], counters: Sequence[str], peaks: Sequence[str] = PEAKS, lows: Sequence[str] = LOWS
) -> Chain | None:
    """Return consecutive chunks as a chain of which each step is an hour."""
    if not chunks:
        return None
    start, end = chunks[0].start_ms, chunks[-1].end_ms
    names = (*counters, *TOTALS)
    columns: dict[str, list[int]] = {name: [] for name in (*names, *peaks, *lows, "marks")}
    position = start
    for chunk in chunks:
        missing = (chunk.start_ms - position) // HOUR_MS
        of_chunk = chunk.get_hours(counters, peaks, lows)
        read = {**of_chunk.sums, **of_chunk.peaks, **of_chunk.lows, "marks": of_chunk.marks}
        for name, values in columns.items():
            if missing:
                values.extend([UNKNOWN if name in UNKNOWN_AT_FIRST else 0] * missing)
            values.extend(read[name])
        position = chunk.end_ms
    at = range(start, end + 1, HOUR_MS)
    return Chain(
        at=at,
        counters={},
        total=_running_totals(columns, names),
        peaks={name: _compacted([0, *columns[name]]) for name in peaks},
        lows={name: _compacted([UNKNOWN, *columns[name]]) for name in lows},
        known={name: _reported(columns[name]) for name in counters if name not in REQUIRED},
        marks={index: marks for index, marks in enumerate(columns["marks"], 1) if marks},
    )


def _running_totals(columns: Mapping[str, Sequence[int]], names: Iterable[str]) -> dict[str, Sequence[int]]:
    totals: dict[str, Sequence[int]] = {"covered_ms": _compacted(accumulate(columns["covered_ms"], initial=0))}
    for name in names:
        values = columns[name]
        if name in UNKNOWN_AT_FIRST:
            totals[name] = _compacted(accumulate(map(max, values, repeat(0)), initial=0))
        elif name == "up_ms" and values == columns["covered_ms"]:
            totals[name] = totals["covered_ms"]
        elif name != "covered_ms" and any(values):
            totals[name] = _compacted(accumulate(values, initial=0))
    return totals


def _reported(values: Sequence[int]) -> Sequence[int] | None:
    if max(values) == UNKNOWN:
        return None
    return _compacted(accumulate((int(value != UNKNOWN) * HOUR_MS for value in values), initial=0))


def _compact(chain: Chain) -> Chain:
    """Return the chain in a fifth of the room, of its own columns only those that a point shows."""
    known = [values for values in chain.known.values() if values is not None]
    own = (chain.at, *chain.total.values(), *chain.peaks.values(), *known)
    compacted = {id(values): _compacted(values) for values in own}
    return chain._replace(
        at=compacted[id(chain.at)],
        counters={name: _compacted(chain.counters[name]) for name in BYTES},
        total={name: compacted[id(values)] for name, values in chain.total.items()},
        peaks={name: compacted[id(values)] for name, values in chain.peaks.items()},
        lows={name: compacted[id(values)] for name, values in chain.lows.items()},
        known={name: compacted[id(values)] if values is not None else None for name, values in chain.known.items()},
    )


def _compacted(values: Iterable[int]) -> Sequence[int]:
    values = list(values)
    try:
        return array("q", values)
    except OverflowError:
        return values


def _of_whole_hours(
    interfaces: Sequence[Interface], hours: dict[int, Hours], instants: Sequence[int], counters: Sequence[str]
) -> dict[int, Buckets]:
    """Return what the hours say of the buckets, but for the hours that an instant cuts."""
    totals: dict[int, Buckets] = {}
    grid = sorted({edge for instant in instants for edge in hour_around(instant)})
    hours_only = {instant for instant in instants if instant % HOUR_MS == 0}
    for interface in interfaces:
        of_interface = hours[interface.id]
        limit = min(of_interface.bounds(instants)[0], grid[-1])
        edges = [*grid[: bisect_left(grid, limit)], limit]
        line = of_interface.line
        if line is None or len(edges) < 2:
            totals[interface.id] = empty_buckets(len(instants) - 1, counters)
            continue
        whole = measure([line], edges, counters)
        into = empty_buckets(len(instants) - 1, counters)
        on_hour = [index for index, instant in enumerate(instants) if instant in hours_only and instant <= edges[-1]]
        first, last = (on_hour[0], on_hour[-1]) if on_hour else (0, -1)
        if last - first + 1 == len(on_hour) > 1:  # a run of buckets that are whole hours
            at = bisect_left(edges, instants[first])
            into = splice(into, first, whole, at, at + last - first)
        else:
            first, last = 0, 0
        for index, (start, end) in enumerate(pairwise(edges)):
            if not instants[first] <= start < instants[last]:
                bucket = bisect_right(instants, start) - 1
                if 0 <= bucket < len(instants) - 1 and end <= instants[bucket + 1]:
                    add_buckets(into, bucket, whole, index, index + 1)
        totals[interface.id] = into
    return totals


def hour_around(instant: int) -> tuple[int, int]:
    """Return the whole hours before and after an instant; twice itself where it is one."""
    return instant // HOUR_MS * HOUR_MS, -(-instant // HOUR_MS) * HOUR_MS


def add_cut_hours(
    totals: dict[int, Buckets],
    interfaces: Sequence[Interface],
    hours: dict[int, Hours],
    instants: Sequence[int],
    counters: Sequence[str],
    sealed: Mapping[str, int] | None = None,
    *,
    shelf: Shelf,
) -> None:
    """Add the parts of the hours that an instant cuts, from readings.

    `sealed` is how often something of each server was sealed, where that was read with what waits, or after it.
    """
    cut: dict[int, list[int]] = defaultdict(list)
    for instant in instants:
        if instant % HOUR_MS:
            cut[instant // HOUR_MS * HOUR_MS].append(instant)
    final = {
        (hour, hour + HOUR_MS): [each for each in interfaces if hour + HOUR_MS <= hours[each.id].bounds(instants)[0]]
        for hour in cut
    }
    if len(cut) > MOST_CUT:
        of_all = unrolled(interfaces, min(cut), max(cut) + HOUR_MS, counters)
        lines = dict.fromkeys(final, of_all)
    else:
        lines = unrolled_windows(final, counters, sealed, shelf)
    for (hour, end), of_hour in final.items():
        edges = [hour, *cut[hour], end]
        for interface in of_hour:
            of_interface = hours[interface.id]
            if hour < of_interface.kept_from and of_interface.line is not None:
                part = measure([of_interface.line], edges, counters)  # in proportion to time, past their retention
            else:
                part = measure(lines[hour, end][interface.id], edges, counters)
            for index, start in enumerate(edges[:-1]):
                bucket = bisect_right(instants, start) - 1
                if bucket >= 0 and edges[index + 1] <= instants[-1]:
                    add_buckets(totals[interface.id], bucket, part, index, index + 1)


def unrolled_windows(
    interfaces: Mapping[Window, Sequence[Interface]],
    counters: Sequence[str],
    sealed: Mapping[str, int] | None,
    shelf: Shelf | None = None,
) -> dict[Window, dict[int, list[Chain]]]:
    """Return the unrolled readings of some windows (ms) that are final: no log changes them. These are whole hours.

    They are read once until the next heartbeat or, where it is known what was `sealed`, until something is. What is on
    the `shelf` is not read again; it was read after what was `sealed`.
    """
    kind = "window" if sealed is None else "sealed window"
    found: dict[Window, dict[int, list[Chain]]] = {}
    missing: dict[Window, list[Interface]] = {}
    revisions = {
        each.id: each.revision if sealed is None else sealed.get(each.server_id)
        for final in interfaces.values()
        for each in final
    }
    for window, final in interfaces.items():
        kept = {each.id: memory.recall((kind, each.id, window, *counters), revisions[each.id]) for each in final}
        found[window] = {pk: chains for pk, chains in kept.items() if chains is not None}
        missing[window] = [each for each in final if each.id not in found[window]]
    for window, read in _read_windows(missing, counters, sealed, shelf).items():
        for pk, chains in read.items():
            found[window][pk] = chains
            memory.keep((kind, pk, window, *counters), revisions[pk], chains, rows=sum(map(room_of, chains)))
    return found


def room_of(chain: Chain) -> int:
    """Return how many rows of memory a chain takes: the instants of one without rates are those of its server."""
    of_all = (chain.counters, chain.total, chain.peaks, chain.lows, chain.known)
    own = {id(values): len(values) for of in of_all for values in of.values() if values is not None}
    own[id(chain.at)] = len(chain.at) if chain.peaks else 0
    return sum(own.values()) * VALUE_BYTES // memory.ROW_BYTES


def _read_windows(
    missing: Mapping[Window, Sequence[Interface]],
    counters: Sequence[str],
    sealed: Mapping[str, int] | None,
    shelf: Shelf | None,
) -> dict[Window, dict[int, list[Chain]]]:
    """Return the unrolled readings of interfaces in some windows: without peaks and lows where it is known what was
    `sealed`.
    """
    found: dict[Window, dict[int, list[Chain]]] = {window: {} for window in missing}
    windows: dict[int, list[Window]] = defaultdict(list)
    newest: dict[int, int] = {}
    for window, of_window in missing.items():
        for each in of_window:
            windows[each.id].append(window)
            is_as_read = sealed is None or each.sealed_revision == sealed.get(each.server_id)
            if each.sealed_until is not None and is_as_read:
                newest[each.id] = to_ms(each.sealed_until)
    stored: list[Chunk] = []
    if sealed is not None:
        plain = plain_lines(windows, newest, shelf=shelf)
        for pk, of_interface in plain.lines.items():
            for window, line in of_interface.items():
                found[window][pk] = [line]
        stored = [chunk for of_others in plain.others.values() for chunk in of_others]
    elif windows.keys() <= (shelf or {}).keys():
        stored = [chunk for pk in windows for chunk in (shelf or {})[pk]]
    else:
        around = chunks_around(windows, {window for of_interface in windows.values() for window in of_interface})
        stored = list(with_newest(around))
    for (start, end), of_window in missing.items():
        rest = [each for each in of_window if each.id not in found[start, end]]
        # What passed in a gap is in chunks, too: where there is none, nothing did.
        holding = {chunk.interface_id for chunk in stored if chunk.start_ms < end and start < chunk.end_ms}
        found[start, end] |= {each.id: [] for each in rest if each.id not in holding}
        if some := [each for each in rest if each.id in holding]:
            ids = [each.id for each in some]
            silent = {pk for pk in ids if newest.get(pk, end) < end}
            for pk, read in sealed_readings(ids, start, end, counters, stored=stored, silent=silent).items():
                found[start, end][pk] = [_compact(chain) for chain in unroll(read, counters)]
    return found


def add_newest(
    totals: dict[int, Buckets],
    interfaces: Sequence[Interface],
    hours: dict[int, Hours],
    instants: Sequence[int],
    counters: Sequence[str],
    logs: Logs,
    *,
    are_thin: bool = False,
    shelf: Shelf | None = None,
) -> None:
    """Add what readings say of the time after the hours that are final; `are_thin`: the logs are of `Standings`.

    What is on the `shelf`, which was read after these, is not read again.
    """
    starts = {interface.id: max(hours[interface.id].bounds(instants)[1], instants[0]) for interface in interfaces}
    newest = {
        each.id: of
        for each in interfaces
        if (of := hours[each.id].newest) is not None
        and (of.at == starts[each.id] or (of.at < starts[each.id] and each.server_id in logs))
    }
    last_waiting = max((hours[pk].last_waiting or 0 for pk in newest), default=0)
    groups: dict[int, list[Interface]] = defaultdict(list)
    for interface in interfaces:
        if starts[interface.id] < instants[-1]:
            # Those that go on from their newest sealed reading are read at once, wherever that is.
            groups[-1 if interface.id in newest else starts[interface.id]].append(interface)
    apart = [(start, group) for start, group in groups.items() if start >= 0]
    shelf = shelf or {}
    is_read = are_thin or all(interface.id in shelf for _, group in apart for interface in group)
    stored = stored_of(apart, instants[-1], shelf) if is_read else None
    for begins, group in groups.items():
        since = min(starts[interface.id] for interface in group)
        if are_thin:
            read = readings(
                group, since, instants[-1], counters, logs=logs, newest=newest, last_waiting=last_waiting,
                stored=stored if begins >= 0 else None,
            )  # fmt: skip
            lines = {pk: unroll(of, counters) for pk, of in read.items()}
        else:
            lines = unrolled(
                group, since, instants[-1], counters, logs=logs, newest=newest, last_waiting=last_waiting,
                stored=stored if begins >= 0 else None,
            )  # fmt: skip
        for key, chains in lines.items():
            first = bisect_right(instants, starts[key]) - 1
            edges = [starts[key], *instants[first + 1 :]]
            part = measure(chains, edges, counters)
            add_buckets(totals[key], first, part, 0, 1)
            if len(edges) > 2:
                totals[key] = splice(totals[key], first + 1, part, 1, len(edges) - 1)
