import pytest

from metrics.codec import CodecError
from metrics.counters import COUNTERS, UNKNOWN, Reading
from metrics.models import Heartbeat, from_ms


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
