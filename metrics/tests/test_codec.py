import random
import struct
import zlib
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import codec
from metrics.codec import ENTRY, FIRST_VERSION, HEADER, STREAM_ROWS, VERSION, CodecError, Table, count, pack, unpack

LEAST, MOST = -(2**63), 2**63 - 1
SMALL = [[1_760_000_000_000, 1_760_000_060_017, 1_760_000_120_003], [10, 25, 20], [-1, -1, -1]]

int64 = st.integers(LEAST, MOST) | st.sampled_from([LEAST, -1, 0, 1, 2**32, MOST])


def counter(rows: int, seed: int = 0) -> list[int]:
    noise = random.Random(seed)
    values = [10**11]
    while len(values) < rows:
        values.append(values[-1] + int(noise.lognormvariate(11, 1)))
    return values


def instants(rows: int) -> list[int]:
    noise = random.Random(rows)
    return [1_760_000_000_000 + 60_000 * i + int(noise.expovariate(1 / 45)) for i in range(rows)]


@st.composite
def tables(draw) -> list[list[int]]:
    rows = draw(st.integers(0, 40))
    ramps = st.tuples(int64, st.integers(-100_000, 100_000)).map(
        lambda line: [min(max(line[0] + line[1] * i, LEAST), MOST) for i in range(rows)]
    )
    counters = st.lists(st.integers(0, 2000), min_size=rows, max_size=rows).map(
        lambda increases: [sum(increases[: i + 1]) % 30_000 for i in range(rows)]
    )
    grids = st.lists(st.integers(0, 400), min_size=rows, max_size=rows).map(
        lambda jitter: [10**12 + 60_000 * i + late for i, late in enumerate(jitter)]
    )
    anything = st.lists(int64, min_size=rows, max_size=rows)
    states = st.lists(st.sampled_from([-1, 0, 1]), min_size=rows, max_size=rows)
    return draw(st.lists(ramps | counters | grids | anything | states, max_size=6))


@settings(max_examples=300, deadline=None)
@given(tables())
def test_whatever_is_packed_is_unpacked(columns):
    packed = pack(columns)
    assert unpack(packed) == columns
    assert count(packed) == (len(columns[0]) if columns else 0)


@pytest.mark.parametrize("value", [LEAST, -1, 0, 1, 2**32, MOST])
def test_one_row_holds_every_value(value):
    assert unpack(pack([[value]])) == [[value]]


def test_no_columns_and_no_rows_are_tables_too():
    assert unpack(pack([])) == []
    assert unpack(pack([[], []])) == [[], []]
    assert count(pack([[], []])) == 0


def test_a_leap_across_the_whole_range_comes_back():
    columns = [[LEAST, MOST, LEAST], [MOST, -1, MOST], [-1, MOST, 0], [MOST, LEAST, LEAST]]
    assert unpack(pack(columns)) == columns


def test_an_optional_that_is_missing_now_and_then_comes_back():
    values = [-1 if i % 50 < 3 else value for i, value in enumerate(counter(500))]
    assert unpack(pack([values])) == [values]


def test_constants_and_strides_cost_next_to_nothing_however_long():
    columns = [[7] * 10_080, [LEAST] * 10_080, list(range(0, 10_080 * 60_000, 60_000)), list(range(10_080, 0, -1))]
    packed = pack(columns)
    assert unpack(packed) == columns
    assert len(packed) < 100


def test_a_reset_costs_its_neighbours_nothing():
    values = counter(10_080)
    after = values[:5000] + [value - values[5000] for value in values[5000:]]
    assert unpack(pack([after])) == [after]
    assert len(pack([after])) < len(pack([values])) + 400


def test_jittered_instants_cost_their_jitter():
    values = instants(10_080)
    assert unpack(pack([values])) == [values]
    assert len(pack([values])) < 0.95 * len(values)


def test_an_outage_leaves_jittered_instants_small():
    values = instants(5000) + [instant + 86_400_000 for instant in instants(10_080)[5000:]]
    assert unpack(pack([values])) == [values]
    assert len(pack([values])) < len(values)


def test_a_beat_on_an_idle_link_costs_next_to_nothing():
    values = [342 * (i // 5) for i in range(10_080)]
    assert unpack(pack([values])) == [values]
    assert len(pack([values])) < 200


def test_more_rows_than_one_block_holds_come_back():
    values = counter(60_480)
    assert unpack(pack([values, instants(60_480)])) == [values, instants(60_480)]


def test_a_busy_week_stays_within_its_bytes():
    columns = [instants(10_080), *(counter(10_080, seed) for seed in range(4)), *([[-1] * 10_080] * 10)]
    assert len(pack(columns)) < 11 * 10_080


def test_only_the_wanted_columns_are_unpacked():
    columns = [counter(50, seed) for seed in range(4)]
    assert unpack(pack(columns), {1, 3}) == [None, columns[1], None, columns[3]]
    assert unpack(pack(columns), []) == [None] * 4


def test_a_memoryview_is_read_as_bytes_are():
    assert unpack(memoryview(pack(SMALL))) == SMALL
    assert count(memoryview(pack(SMALL))) == 3


def test_tuples_and_ranges_are_columns_too():
    assert unpack(pack([(3, 1, 2), range(3)])) == [[3, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("value", [LEAST - 1, MOST + 1])
def test_a_value_beyond_64_bits_is_refused(value):
    with pytest.raises(ValueError, match="-2\\^63"):
        pack([[0, value]])


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="length"):
        pack([[1, 2], [1]])


@pytest.mark.parametrize("read", [unpack, count])
def test_every_flipped_bit_is_an_error(read):
    packed = pack(SMALL)
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            read(bytes(damaged))


@pytest.mark.parametrize("read", [unpack, count])
def test_every_truncation_is_an_error(read):
    packed = pack(SMALL)
    for size in range(len(packed)):
        with pytest.raises(CodecError):
            read(packed[:size])


@pytest.mark.parametrize("extra", [b"\0", b"\xff", pack(SMALL)])
def test_trailing_bytes_are_an_error(extra):
    with pytest.raises(CodecError):
        unpack(pack(SMALL) + extra)


@pytest.mark.parametrize("read", [unpack, count])
def test_an_unknown_version_says_so(read):
    with pytest.raises(CodecError, match="version 3"):
        read(bytes([VERSION + 1]) + pack(SMALL)[1:])


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_an_error_and_no_other(data, has_version):
    with pytest.raises(CodecError):
        unpack(bytes([VERSION]) * has_version + data)


@given(st.data())
def test_damage_behind_a_right_checksum_raises_no_other_error(data):
    packed = bytearray(pack(SMALL))
    packed[data.draw(st.integers(HEADER.size, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed[1:5] = zlib.crc32(packed[5:], VERSION).to_bytes(4, "little")
    with suppress(CodecError):
        unpack(bytes(packed))


def span(values, start, end):
    before = [row for row, value in enumerate(values) if value <= start] or [0]
    after = [row for row, value in enumerate(values) if value >= end] or [len(values) - 1]
    return before[-1], values[before[-1] : after[0] + 1]


@settings(max_examples=300, deadline=None)
@given(tables(), st.data())
def test_any_rows_of_a_column_are_what_the_whole_column_says(columns, data):
    table = Table(pack(columns))
    for index, values in enumerate(columns):
        first = data.draw(st.integers(0, len(values)))
        last = data.draw(st.integers(first, len(values)))
        assert table.values(index, first, last) == values[first:last]
        assert table.total(index, first, last) == sum(values[first:last])
        if first < last:
            rows = sorted({first, last - 1, *data.draw(st.lists(st.integers(first, last - 1), max_size=4))})
            of_rows = [values[row] for row in rows]
            assert table.increases(index, rows) == [after - before for before, after in pairwise(of_rows)]
            falls = any(after < before for before, after in pairwise(values[first:last]))
            assert table.are_ascending([index], first, last - 1) != falls
        if table.constant(index) is not None:
            assert set(values) <= {table.constant(index)}
        if values == sorted(values):
            value = data.draw(int64 | st.sampled_from([*values, 0]))
            assert table.count_up_to(index, value) == sum(each <= value for each in values)
        if values and values == sorted(values):
            start, end = sorted(
                data.draw(st.lists(int64 | st.sampled_from(values), min_size=2, max_size=2, unique=True))
            )
            assert table.span(index, start, end) == span(values, start, end)


def test_the_rows_of_counters_and_instants_are_found():
    columns = [counter(2000), instants(2000), [7] * 2000]
    table = Table(pack(columns))
    assert [table.constant(index) for index in range(3)] == [None, None, 7]
    for index, values in enumerate(columns):
        assert table.values(index, 500, 700) == values[500:700]
        assert table.total(index, 500, 700) == sum(values[500:700])
    assert table.count_up_to(1, columns[1][1000]) == 1001
    assert table.count_up_to(1, columns[1][1000] - 1) == 1000


def test_columns_of_the_same_values_are_packed_the_same():
    table = Table(pack([instants(100), instants(100), counter(100)]))
    assert table.packed(0) == table.packed(1) != table.packed(2)


def test_a_column_that_is_damaged_behind_a_right_checksum_says_so_when_it_is_asked_for():
    packed = bytearray(pack([counter(500), [7] * 500]))
    packed[-1] ^= 0xFF
    packed[-20:-1] = bytes(19)
    packed[1:5] = zlib.crc32(packed[5:], VERSION).to_bytes(4, "little")
    table = Table(bytes(packed))
    assert table.values(1, 0, 3) == [7, 7, 7]
    for read in (table.values, table.total):
        with pytest.raises(CodecError):
            read(0, 0, 500)
    with pytest.raises(CodecError):
        table.increases(0, [0, 499])


FIRST = bytes.fromhex(
    "01d4c21d6128000000040000002100000063646638a073622623031ce800312333031a3002118c5168a26260929d0113000004c1210100000080"
    "a0ff572d5c10922492249244924c101c100000000008f93f552b22492249224924c9030062e59754d63577f40e8dcf2cae6d9f387be9fa9d87cf"
    "5e7ff8faeb7f4e615975436b57ffc8e4dcf24680187002466400180004c12101000000802033ff070b92244992244992f400"
)


def test_the_first_version_is_read():
    at = [1_760_000_000_000 + 60_000 * i + 7919 * i % 251 for i in range(40)]
    columns = [at, [5 * i * i for i in range(40)], [100, 90] * 20, [7] * 40]
    assert unpack(FIRST) == columns
    assert count(FIRST) == 40
    assert Table(FIRST).count_up_to(0, at[20]) == 21


def test_a_stream_of_the_first_version_may_be_long():
    columns = [instants(10_080), counter(10_080)]
    table = Table(as_first_version(pack(columns)))
    assert table.all() == columns
    assert table.values(1, 6000, 6010) == columns[1][6000:6010]


def as_first_version(packed: bytes) -> bytes:
    """Return version 2 as version 1: the streams of a column are one."""
    _, _, rows, width, size = HEADER.unpack_from(packed)
    entries = zlib.decompress(packed[HEADER.size : HEADER.size + size], -15)
    sizes = iter(struct.unpack(f"<{(len(entries) - width * ENTRY.size) // 4}I", entries[width * ENTRY.size :]))
    position, body, of_columns = HEADER.size + size, b"", []
    for kind, planes, start, step, length in ENTRY.iter_unpack(entries[: width * ENTRY.size]):
        end, count_of_planes = position + length, planes.bit_count()
        of_planes: list[bytes] = [b""] * count_of_planes
        while position < end:
            raw = zlib.decompress(packed[position : (position := position + next(sizes))], -15)
            each = len(raw) // count_of_planes
            for number in range(count_of_planes):
                of_planes[number] += raw[number * each : (number + 1) * each]
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        stream = deflater.compress(b"".join(of_planes)) + deflater.flush() if planes else b""
        of_columns.append(ENTRY.pack(kind, planes, start, step, len(stream)))
        body += stream
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    directory = deflater.compress(b"".join(of_columns)) + deflater.flush()
    checked = HEADER.pack(FIRST_VERSION, 0, rows, width, len(directory))[5:] + directory + body
    return bytes([FIRST_VERSION]) + zlib.crc32(checked, FIRST_VERSION).to_bytes(4, "little") + checked


@settings(max_examples=30, deadline=None)
@given(st.integers(-3, 3), st.sampled_from([1, 2, 4]), st.data())
def test_rows_are_found_across_streams(beyond, streams, data):
    rows = streams * STREAM_ROWS + beyond
    signed = [value - 500 * (i % 7) for i, value in enumerate(counter(rows))]
    columns = [instants(rows), counter(rows), signed, [i * i % 300 for i in range(rows)]]
    table = Table(pack(columns))
    for index, values in enumerate(columns):
        near = st.integers(0, rows) | st.sampled_from([n * STREAM_ROWS + off for n in range(streams) for off in (0, 1)])
        first, last = sorted([data.draw(near), data.draw(near)])
        assert table.values(index, first, last) == values[first:last]
        assert table.total(index, first, last) == sum(values[first:last])
        if first < last:
            ends = sorted({first, (first + last) // 2, last - 1})
            of_ends = [values[row] for row in ends]
            assert table.increases(index, ends) == [after - before for before, after in pairwise(of_ends)]
    for row in (0, rows // 2, rows - 1):
        assert table.count_up_to(0, columns[0][row]) == row + 1
        assert table.count_up_to(0, columns[0][row] - 1) == row
    start = data.draw(st.sampled_from(columns[0]))
    end = start + data.draw(st.integers(1, 10**8))
    assert table.span(0, start, end) == span(columns[0], start, end)
    assert unpack(pack(columns)) == columns


def test_a_minute_of_a_week_is_read_from_one_stream(monkeypatch):
    inflated = []
    inflate = codec._inflate
    monkeypatch.setattr(codec, "_inflate", lambda size, *rest: inflated.append(size) or inflate(size, *rest))
    columns = [instants(10_080), counter(10_080)]
    table = Table(pack(columns))
    first = table.count_up_to(0, columns[0][6000]) - 1
    assert table.values(0, first, first + 10) == columns[0][6000:6010]
    assert table.increases(1, [first, first + 10]) == [columns[1][6010] - columns[1][6000]]
    assert inflated == [STREAM_ROWS, STREAM_ROWS]


def test_sizes_of_streams_that_do_not_add_up_are_an_error():
    packed = pack([instants(6000), counter(6000)])
    size = HEADER.unpack_from(packed)[-1]
    directory = zlib.decompress(packed[HEADER.size : HEADER.size + size], -15)
    sizes = struct.unpack("<6I", directory[2 * ENTRY.size :])
    fewer = directory[: 2 * ENTRY.size] + struct.pack("<5I", sizes[0] + sizes[1], *sizes[2:])
    for damaged in (directory[:-4], directory[:-1], directory[:-4] + b"\xff" * 4, directory + bytes(8), fewer):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        again = deflater.compress(damaged) + deflater.flush()
        checked = HEADER.pack(VERSION, 0, 6000, 2, len(again))[5:] + again + packed[HEADER.size + size :]
        with pytest.raises(CodecError):
            Table(bytes([VERSION]) + zlib.crc32(checked, VERSION).to_bytes(4, "little") + checked)
