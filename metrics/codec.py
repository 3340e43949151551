"""Columns of 64-bit integers to bytes and back. Pure: no Django, no settings, no clock.

Packed columns are, little-endian,

    version, CRC-32 of everything else, rows, columns, size of the directory     "<BIIII"
    the directory: for each column its kind, planes, start, step and size, then  "<BBqqI", "<I", deflated
        the sizes of all streams, where a column has more than one
    the streams of each column that needs any: one for each 2,520 rows, so that a minute of a week is read from a
        quarter of it

A column is a line, or sums, plus rests, of which a stream has the byte planes: the lowest bytes of its rests, then the
second lowest, and so on. Bit k of `planes` says that plane k is there; the others are all zero. What is constant or
has a constant stride has no planes, and no stream. In version 1 a column had one stream, however long.

    LINE            value i = start + step * i + rest i
    SUMS            value i = start + the first i rests
    SIGNED_SUMS     the same, with rests below zero: a counter that was reset

A stream is raw deflate, which zlib-ng reads in half the time. That every plane is a block of its own gives each the
code that suits it, and those that do not shrink are stored.
"""

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import accumulate, pairwise
from operator import add, itemgetter, lt, sub
from typing import ParamSpec, TypeVar, cast

from zlib_ng import zlib_ng

VERSION = 2
FIRST_VERSION = 1
STREAM_ROWS = 2520  # half of it would take 2 % more room, the double 2 % less
LINE, SUMS, SIGNED_SUMS = range(3)
TYPECODES = "BBHIIQQQQ"  # of unsigned rests, by the bytes that the largest needs

HEADER = struct.Struct("<BIIII")
CHECKED = struct.calcsize("<BI")  # the checksum covers the version, and all from here on
ENTRY = struct.Struct("<BBqqI")
SIZE = struct.Struct("<I")
SIZE_OF = itemgetter(4)  # an entry's
PLANES = [[plane for plane in range(8) if planes >> plane & 1] for planes in range(256)]
SUMMED = 256  # bytes, of which the sum is less than what Adler-32 divides by
INT64 = range(-(2**63), 2**63)
ZLIB_ERROR = cast(type[Exception], zlib_ng.error)  # its stub has an instance
DAMAGE = (ZLIB_ERROR, struct.error, ValueError, OverflowError, MemoryError)

P = ParamSpec("P")
T = TypeVar("T")

Packed = bytes | memoryview
Way = tuple[int, int, int, list[int]]  # kind, start, step, rests
Column = tuple[int, int, int, int, list[bytes]]  # kind, planes, start, step, streams


class CodecError(ValueError):
    """These bytes are not what `pack` made: damaged, cut short, or of an unknown version."""


def pack(columns: Sequence[Sequence[int]]) -> bytes:
    """Return columns of one length as bytes.

    Raises ValueError where their lengths differ, or a value is not in -2^63 .. 2^63-1.
    """
    rows = len(columns[0]) if columns else 0
    if any(len(values) != rows for values in columns):
        raise ValueError("The columns differ in length.")
    encoded = [_encode(values) for values in columns]
    streams = [stream for *_, of_column in encoded for stream in of_column]
    entries = [ENTRY.pack(*entry, sum(map(len, of_column))) for *entry, of_column in encoded]
    sizes = [SIZE.pack(len(stream)) for stream in streams] if rows > STREAM_ROWS else []
    directory = _deflate([b"".join(entries + sizes)])
    counts = rows, len(columns), len(directory)
    body = b"".join((directory, *streams))
    checksum = _checksum(HEADER.pack(VERSION, 0, *counts) + body)
    return HEADER.pack(VERSION, checksum, *counts) + body


def unpack(data: Packed, wanted: Collection[int] | None = None) -> list[list[int] | None]:
    """Return the columns: those whose index is in `wanted`, or all; the others are None and are not decompressed.

    Raises CodecError for whatever `pack` did not make.
    """
    return Table(data).all(wanted)


def count(data: Packed) -> int:
    """Return the number of rows. Raises CodecError for whatever `pack` did not make."""
    return _header(data)[0]


def _tells_damage(read: Callable[P, T]) -> Callable[P, T]:
    @wraps(read)
    def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except CodecError:
            raise
        except DAMAGE as error:
            raise CodecError("The packed columns are damaged.") from error

    return telling


class Table:
    """Packed columns, each decompressed when it is asked for.

    Raises CodecError for whatever `pack` did not make: at once, or, of a column, when that is asked for.
    """

    @_tells_damage
    def __init__(self, data: Packed) -> None:
        self._data = bytes(data)
        self.rows, width, size = _header(self._data)
        self._stream_rows = STREAM_ROWS if self._data[0] > FIRST_VERSION else max(self.rows, 1)
        begin = HEADER.size + size
        directory = zlib_ng.decompress(self._data[HEADER.size : begin], -zlib.MAX_WBITS)
        entries = width * ENTRY.size
        self._columns = list(ENTRY.iter_unpack(directory[:entries]))
        self._begins = list(accumulate(map(SIZE_OF, self._columns), initial=begin))
        self._of_column = -(-self.rows // self._stream_rows)
        is_whole = (len(self._columns), self._begins[-1]) == (width, len(self._data))
        self._sizes: list[int] = []  # of all streams, where a column has more than one
        if self._of_column > 1 or len(directory) > entries:
            self._sizes = [each for (each,) in SIZE.iter_unpack(directory[entries:])]
            streams = self._of_column * sum([column[1] > 0 for column in self._columns])
            is_whole = is_whole and (len(self._sizes), begin + sum(self._sizes)) == (streams, len(self._data))
        if not is_whole:
            raise CodecError("The packed columns are damaged: their sizes do not add up.")
        self._inflated: dict[tuple[int, int], list[bytes]] = {}

    @_tells_damage
    def all(self, wanted: Collection[int] | None = None) -> list[list[int] | None]:
        """Return the columns whose index is in `wanted`, or all; the others are None."""
        return [
            self._values(index, 0, self.rows) if wanted is None or index in wanted else None
            for index in range(len(self._columns))
        ]

    @_tells_damage
    def values(self, index: int, first: int, last: int) -> list[int]:
        """Return the values of a column in the rows from `first` up to `last`, without it."""
        return self._values(index, first, last)

    @_tells_damage
    def total(self, index: int, first: int, last: int) -> int:
        """Return the sum of a column's values in the rows from `first` up to `last`, without it."""
        kind, _, start, step, _ = self._columns[index]
        if kind != LINE:
            return sum(self._values(index, first, last))
        return start * (last - first) + step * sum(range(first, last)) + self._sum_of_rests(index, first, last)

    @_tells_damage
    def increases(self, index: int, rows: Sequence[int]) -> list[int]:
        """Return how much a column's value increases from each of these rows, which ascend, to the next."""
        kind, planes, _, step, _ = self._columns[index]
        first, last = rows[0], rows[-1]
        if not planes:
            return [step * (after - before) if kind == LINE else 0 for before, after in pairwise(rows)]
        if kind == LINE:
            values = self._values(index, first, last + 1)
            return [values[after - first] - values[before - first] for before, after in pairwise(rows)]
        if len(rows) == last - first + 1:
            return list(self._rests(index, first, last))
        if kind == SIGNED_SUMS:
            rests = self._rests(index, first, last)
            return [sum(rests[before - first : after - first]) for before, after in pairwise(rows)]
        sums = [0] * (len(rows) - 1)
        spans = [(number, before - first, after - first) for number, (before, after) in enumerate(pairwise(rows))]
        for plane, of_plane in self._planes(index, first, last):
            for number, before, after in spans:
                sum_of_plane = of_plane[before] if after == before + 1 else _sum(of_plane[before:after])
                sums[number] += sum_of_plane << 8 * plane
        return sums

    @_tells_damage
    def are_ascending(self, indexes: Iterable[int], first: int, last: int) -> bool:
        """Tell whether no value of some columns is lower than the one before it, from row `first` to row `last`."""
        for index in indexes:
            kind, planes, _, step, _ = self._columns[index]
            if planes and kind == SIGNED_SUMS:
                if min(self._rests(index, first, last), default=0) < 0:
                    return False
            elif planes and kind == LINE:
                values = self.values(index, first, last + 1)
                if any(map(lt, values[1:], values)):
                    return False
            elif kind == LINE and step < 0 and first < last:
                return False
        return True

    @_tells_damage
    def count_up_to(self, index: int, value: int) -> int:
        """Return how many rows are no higher than `value`, in a column of which none is lower than the one before."""
        first, last = self._bounds(index, value)
        return first + bisect_right(self._values(index, first, last), value)

    @_tells_damage
    def span(self, index: int, start: int, end: int) -> tuple[int, list[int]]:
        """Return values next to each other, and the row of the first, of a column of which none is lower than before.

        They begin with the last that is no higher than `start`, and end with the first that is no lower than `end`,
        where there are such. `start` is lower than `end`, and there is a row.
        """
        first, last = max(self._bounds(index, start)[0] - 1, 0), self._bounds(index, end - 1)[1] + 1
        values = self._values(index, first, min(last, self.rows))
        begin = max(bisect_right(values, start) - 1, 0)
        return first + begin, values[begin : bisect_left(values, end) + 1]

    def _bounds(self, index: int, value: int) -> tuple[int, int]:
        """Return how few rows, and how many, may be no higher than `value`, in an ascending column."""
        kind, planes, start, step, _ = self._columns[index]
        if kind != LINE or step <= 0:
            return 0, self.rows
        last = (value - start) // step + 1  # the rests are less than what their planes hold
        first = (value - start - 256 ** planes.bit_length()) // step + 1
        return max(min(first, self.rows), 0), max(min(last, self.rows), 0)

    def packed(self, index: int) -> Hashable:
        """Return what is the same for columns of the same values that were packed in the same way."""
        return self.rows, self._columns[index], self._data[self._begins[index] : self._begins[index + 1]]

    def constant(self, index: int) -> int | None:
        """Return the value that all rows have; None where they may differ."""
        _, planes, start, step, _ = self._columns[index]
        return None if planes or step else start

    def _values(self, index: int, first: int, last: int) -> list[int]:
        kind, planes, start, step, _ = self._columns[index]
        if first >= last:
            return []
        if kind != LINE:
            before = self._sum_of_rests(index, 0, first) if first else 0
            return list(accumulate(self._rests(index, first, last - 1), initial=start + before))
        if planes and not step:
            return [start + rest for rest in self._rests(index, first, last)]
        points = _points(start + step * first, step, last - first)
        return list(map(add, self._rests(index, first, last), points) if planes else points)

    def _rests(self, index: int, first: int, last: int) -> Sequence[int]:
        """Return the rests from `first` up to `last`."""
        kind, planes, *_ = self._columns[index]
        rests = array("q" if kind == SIGNED_SUMS else TYPECODES[planes.bit_length()])
        raw = bytearray((last - first) * rests.itemsize)
        for plane, values in self._planes(index, first, last):
            raw[plane :: rests.itemsize] = values
        rests.frombytes(raw)
        if sys.byteorder == "big":
            rests.byteswap()
        return rests

    def _sum_of_rests(self, index: int, first: int, last: int) -> int:
        if self._columns[index][0] == SIGNED_SUMS:
            return sum(self._rests(index, first, last))
        return sum([_sum(values) << 8 * plane for plane, values in self._planes(index, first, last)])

    def _planes(self, index: int, first: int, last: int) -> Iterable[tuple[int, bytes]]:
        """Return the numbers of the byte planes that are there, and what they hold from `first` up to `last`."""
        of_column = PLANES[self._columns[index][1]]
        if not of_column or first >= last:
            return ()
        begin = first // self._stream_rows
        streams = [self._stream(index, number) for number in range(begin, (last - 1) // self._stream_rows + 1)]
        planes = streams[0] if len(streams) == 1 else map(b"".join, zip(*streams, strict=True))
        at, to = first - begin * self._stream_rows, last - begin * self._stream_rows
        return zip(of_column, [values[at:to] for values in planes], strict=True)

    def _stream(self, index: int, number: int) -> list[bytes]:
        """Return the byte planes of one of a column's streams."""
        inflated = self._inflated.get((index, number))
        if inflated is None:
            kind, planes, *_ = self._columns[index]
            rests = self.rows if kind == LINE else self.rows - 1
            size = min(rests - number * self._stream_rows, self._stream_rows)
            inflated = _inflate(size, planes, self._packed_stream(index, number))
            self._inflated[index, number] = inflated
        return inflated

    def _packed_stream(self, index: int, number: int) -> bytes:
        begin, end = self._begins[index], self._begins[index + 1]
        if self._sizes:
            before = self._of_column * sum([column[1] > 0 for column in self._columns[:index]])
            sizes = self._sizes[before : before + self._of_column]
            if begin + sum(sizes) != end:
                raise ValueError("The sizes of a column's streams do not add up.")
            begin += sum(sizes[:number])
            end = begin + sizes[number]
        return self._data[begin:end]


def _header(data: Packed) -> tuple[int, int, int]:
    """Return the rows, the columns and the size of the directory, once the checksum is found right."""
    if data and not FIRST_VERSION <= data[0] <= VERSION:
        raise CodecError(f"The packed columns are of version {data[0]}; this code reads versions up to {VERSION}.")
    if len(data) < HEADER.size:
        raise CodecError("The packed columns are cut short.")
    _, checksum, rows, width, size = HEADER.unpack_from(data)
    if checksum != _checksum(data):
        raise CodecError("The packed columns are damaged: the checksum is wrong.")
    return rows, width, size


def _checksum(data: Packed) -> int:
    return zlib_ng.crc32(memoryview(data)[CHECKED:], data[0])


def _encode(values: Sequence[int]) -> Column:
    try:
        array("q", values)
    except OverflowError:
        raise ValueError("A value is not in -2^63 .. 2^63-1.") from None
    first = values[0] if values else 0
    if values.count(first) == len(values):
        return LINE, 0, first, 0, []
    return min((_column(*way) for way in _ways(values)), key=lambda column: sum(map(len, column[-1])))


def _ways(values: Sequence[int]) -> Iterator[Way]:
    """Yield the ways to hold the values that may turn out to be the smallest: one for most columns, at least one."""
    increases = list(map(sub, values[1:], values))
    lowest, highest = min(increases), max(increases)
    if lowest >= 0:
        yield SUMS, values[0], 0, increases
    elif lowest in INT64 and highest in INT64:
        yield SIGNED_SUMS, values[0], 0, increases
    if max(values) - min(values) < 16 * max(highest, -lowest):  # they come and go: states, what passed in an hour
        yield _line(values, 0)
    # Instants jitter about a grid of whole seconds: from it they differ less than from each other.
    typical = sorted(increases[:: len(increases) // 100 + 1])
    quarter = len(typical) // 4
    step = lowest if lowest == highest else round(typical[len(typical) // 2], -3)
    if step in INT64 and 8 * (typical[-1 - quarter] - typical[quarter]) < abs(step):
        way = _line(values, step)
        if way[1] in INT64 and max(way[-1]) < 2**64:
            yield way


def _line(values: Sequence[int], step: int) -> Way:
    rests = list(map(sub, values, _points(0, step, len(values))))
    start = min(rests)
    return LINE, start, step, list(map(sub, rests, _points(start, 0, len(values))))


def _column(kind: int, start: int, step: int, rests: list[int]) -> Column:
    ordered = array("q" if kind == SIGNED_SUMS else TYPECODES[(max(rests).bit_length() + 7) // 8], rests)
    if sys.byteorder == "big":
        ordered.byteswap()
    raw, width = ordered.tobytes(), ordered.itemsize
    planes = {index: plane for index in range(width) if any(plane := raw[index::width])}
    rows = len(rests) if kind == LINE else len(rests) + 1
    begins = range(0, rows, STREAM_ROWS) if planes else ()  # as many for sums, though the last may be empty
    streams = [_deflate([plane[at : at + STREAM_ROWS] for plane in planes.values()]) for at in begins]
    return kind, sum(1 << index for index in planes), start, step, streams


def _deflate(planes: Collection[bytes]) -> bytes:
    """Return the planes as a stream. Most are noise and runs: a search for more takes five times as long for nothing.

    Where runs alone halve them there may be more to find, across planes too: a beat of one packet every five minutes.
    """
    stream = _stream(planes, zlib.Z_RLE, zlib.Z_BLOCK)
    if 2 * len(stream) > sum(map(len, planes)):
        return stream
    return min(stream, _stream(planes, zlib.Z_DEFAULT_STRATEGY, zlib.Z_NO_FLUSH), key=len)


def _stream(planes: Iterable[bytes], strategy: int, end: int) -> bytes:
    # Sizes that hold a week of minutes; the next larger ones take longer to set up than a day takes to compress.
    deflater = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, -14, zlib.DEF_MEM_LEVEL, strategy)
    return b"".join(deflater.compress(plane) + deflater.flush(end) for plane in planes) + deflater.flush()


def _inflate(size: int, planes: int, stream: Packed) -> list[bytes]:
    """Return the byte planes, each of a size."""
    inflated = zlib_ng.decompress(stream, -zlib.MAX_WBITS, size * planes.bit_count())
    if len(inflated) != size * planes.bit_count():
        raise ValueError("A stream has the wrong size.")
    return [inflated[at : at + size] for at in range(0, len(inflated), size)]


def _sum(values: bytes) -> int:
    """Return the sum of the bytes, from a checksum of a few at a time: half of it is their sum and 1."""
    if len(values) <= SUMMED:
        return (zlib_ng.adler32(values) & 0xFFFF) - 1
    return sum([(zlib_ng.adler32(values[at : at + SUMMED]) & 0xFFFF) - 1 for at in range(0, len(values), SUMMED)])


def _points(start: int, step: int, rows: int) -> Sequence[int]:
    return range(start, start + step * rows, step) if step else [start] * rows
