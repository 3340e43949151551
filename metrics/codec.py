"""Columns of 64-bit integers to bytes and back. Pure: no Django, no settings, no clock.

Packed columns are, little-endian,

    version, CRC-32 of everything else, rows, columns, size of the directory     "<BIIII"
    the directory: for each column its kind, planes, start, step and size        "<BBqqI", deflated
    one stream for each column that needs one

A column is a line, or sums, plus rests, of which the byte planes are kept: the lowest bytes of all rests, then the
second lowest, and so on. Bit k of `planes` says that plane k is there; the others are all zero. What is constant or
has a constant stride has no planes, and no stream.

    LINE            value i = start + step * i + rest i
    SUMS            value i = start + the first i rests
    SIGNED_SUMS     the same, with rests below zero: a counter that was reset

A stream is raw deflate. That every plane is a block of its own gives each the code that suits it, and those that do
not shrink are stored.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import add, sub

VERSION = 1
LINE, SUMS, SIGNED_SUMS = range(3)
TYPECODES = "BBHIIQQQQ"  # of unsigned rests, by the bytes that the largest needs

HEADER = struct.Struct("<BIIII")
CHECKED = struct.calcsize("<BI")  # the checksum covers the version, and all from here on
ENTRY = struct.Struct("<BBqqI")
INT64 = range(-(2**63), 2**63)

Packed = bytes | memoryview
Way = tuple[int, int, int, list[int]]  # kind, start, step, rests
Column = tuple[int, int, int, int, bytes]  # kind, planes, start, step, stream


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
    directory = _deflate([b"".join(ENTRY.pack(*entry, len(stream)) for *entry, stream in encoded)])
    counts = rows, len(columns), len(directory)
    body = b"".join((directory, *(stream for *_, stream in encoded)))
    checksum = _checksum(HEADER.pack(VERSION, 0, *counts) + body)
    return HEADER.pack(VERSION, checksum, *counts) + body


def unpack(data: Packed, wanted: Collection[int] | None = None) -> list[list[int] | None]:
    """Return the columns: those whose index is in `wanted`, or all; the others are None and are not decompressed.

    Raises CodecError for whatever `pack` did not make.
    """
    data = memoryview(data)
    rows, width, size = _header(data)
    position = HEADER.size + size
    columns: list[list[int] | None] = []
    try:
        directory = zlib.decompress(data[HEADER.size : position], -zlib.MAX_WBITS)
        for kind, planes, start, step, length in ENTRY.iter_unpack(directory):
            stream = data[position : position + length]
            is_wanted = wanted is None or len(columns) in wanted
            columns.append(_decode(rows, kind, planes, start, step, stream) if is_wanted else None)
            position += length
    except (zlib.error, struct.error, ValueError, OverflowError, MemoryError) as error:
        raise CodecError("The packed columns are damaged.") from error
    if len(columns) != width or position != len(data):
        raise CodecError("The packed columns are damaged: their sizes do not add up.")
    return columns


def count(data: Packed) -> int:
    """Return the number of rows. Raises CodecError for whatever `pack` did not make."""
    return _header(data)[0]


def _header(data: Packed) -> tuple[int, int, int]:
    """Return the rows, the columns and the size of the directory, once the checksum is found right."""
    if data and data[0] != VERSION:
        raise CodecError(f"The packed columns are of version {data[0]}; this code reads version {VERSION}.")
    if len(data) < HEADER.size:
        raise CodecError("The packed columns are cut short.")
    _, checksum, rows, width, size = HEADER.unpack_from(data)
    if checksum != _checksum(data):
        raise CodecError("The packed columns are damaged: the checksum is wrong.")
    return rows, width, size


def _checksum(data: Packed) -> int:
    return zlib.crc32(memoryview(data)[CHECKED:], data[0])


def _encode(values: Sequence[int]) -> Column:
    try:
        array("q", values)
    except OverflowError:
        raise ValueError("A value is not in -2^63 .. 2^63-1.") from None
    first = values[0] if values else 0
    if values.count(first) == len(values):
        return LINE, 0, first, 0, b""
    return min((_column(*way) for way in _ways(values)), key=lambda column: len(column[-1]))


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
    return kind, sum(1 << index for index in planes), start, step, _deflate(planes.values()) if planes else b""


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


def _decode(rows: int, kind: int, planes: int, start: int, step: int, stream: Packed) -> list[int]:
    if not planes:
        return list(_points(start, step, rows))
    size = rows if kind == LINE else rows - 1
    inflated = zlib.decompress(stream, -zlib.MAX_WBITS, size * planes.bit_count())
    if len(inflated) != size * planes.bit_count():
        raise ValueError("A stream has the wrong size.")
    rests = array("q" if kind == SIGNED_SUMS else TYPECODES[planes.bit_length()])
    raw = bytearray(size * rests.itemsize)
    for position, index in enumerate(index for index in range(rests.itemsize) if planes >> index & 1):
        raw[index :: rests.itemsize] = inflated[position * size : (position + 1) * size]
    rests.frombytes(raw)
    if sys.byteorder == "big":
        rests.byteswap()
    if kind == LINE:
        return list(map(add, rests, _points(start, step, rows)))
    return list(accumulate(rests, initial=start))


def _points(start: int, step: int, rows: int) -> Sequence[int]:
    return range(start, start + step * rows, step) if step else [start] * rows
