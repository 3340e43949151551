import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import codec
from metrics.codec import CodecError
from metrics.counters import COUNTERS, LOWS, UNKNOWN, Reading, empty_buckets
from metrics.models import READING_COLUMNS, Chunk, Heartbeat, from_ms


def test_a_heartbeat_of_the_log_that_has_changed_is_an_error_that_names_it():
    reading = Reading(0, 1, 0, 60_000, 1, 2, UNKNOWN, *[7] * len(COUNTERS))
    text = Heartbeat.pack({"eth0": reading})
    heartbeat = Heartbeat(server_id="nas", boot_number=1, uptime_ms=0, collected_at=from_ms(0), interval_ms=60_000)
    for place in range(len(text)):
        heartbeat.readings = f"{text[:place]}{chr(ord(text[place]) ^ 1)}{text[place + 1 :]}"
        with pytest.raises(CodecError, match="heartbeat of nas at 1970-01-01 00:00:00 is damaged"):
            list(heartbeat.unpack())
    for whole in (text, text[:-8]):  # as it is, and as it was before there was a checksum
        heartbeat.readings = whole
        assert list(heartbeat.unpack()) == [("eth0", reading)]


def test_hours_that_were_sealed_before_there_were_lows_are_read_without_them():
    hours = empty_buckets(24)
    hours.sums["rx_bytes"][:] = range(24)
    hours.lows["rx_low"][:] = [5] * 24
    chunk = Chunk()
    chunk.set_hours(hours)
    assert chunk.get_hours() == hours
    columns = [column for column in codec.unpack(chunk.hours) if column is not None]
    chunk.hours = codec.pack(columns[: -len(LOWS)])
    assert chunk.get_hours() == hours._replace(lows={name: [UNKNOWN] * 24 for name in LOWS})


@given(st.sets(st.integers(0, 60)), st.integers(-5, 65), st.integers(0, 20), st.booleans())
def test_readings_around_a_window_have_two_neighbours_on_each_side_and_one_of_each_boot(
    instants, start, length, one_boot
):
    at = sorted(instants)
    values = {name: [31 * instant for instant in at] for name in READING_COLUMNS}
    boots = [7] * len(at) if one_boot else [instant % 2 for instant in at]
    chunk = Chunk()
    chunk.set_readings(values | {"at": at, "boot": boots})
    end = start + length
    before, within, after = (
        [of for of in at if of < start],
        [of for of in at if start <= of <= end],
        [of for of in at if of > end],
    )
    boot_of = dict(zip(at, boots, strict=True))
    last, first = {boot_of[of]: of for of in before}, {boot_of[of]: of for of in reversed(after)}
    of_each = {*last.values(), *first.values()} if len(set(boots)) > 1 else set()
    near = sorted({*before[-2:], *within, *after[:2], *of_each})
    expected = {"at": near, "rx_bytes": [31 * instant for instant in near]}
    assert chunk.get_readings_around(start, end, ("at", "rx_bytes")) == expected
