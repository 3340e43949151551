"""Days that are plain differences are told from three columns; that the numbers are right, test_exactness.py tells."""

from datetime import timedelta
from random import Random

import pytest

from metrics import memory, percentiles, seal
from metrics.ingest import Report, ingest_batch
from metrics.models import DAY_MS, Chunk, Interface, to_ms
from metrics.percentiles import five_minute_rates

pytestmark = pytest.mark.django_db

DAYS = 17


@pytest.fixture
def past(now, interface):
    """Readings of 17 days, each two minutes; a reboot in the middle of the second week, and all that is due sealed."""
    chance, counted, begin = Random(5), 0, now - timedelta(days=DAYS)
    for day in range(DAYS):
        reports = []
        for minute in range(0, 24 * 60, 2):
            at = begin + timedelta(days=day, minutes=minute, milliseconds=chance.randrange(900))
            since_reboot = (at - begin - timedelta(days=9)).total_seconds()
            boot, uptime = ("one", since_reboot + 10**7) if since_reboot < 0 else ("two", since_reboot + 5)
            counted = counted + chance.randrange(10**6) if since_reboot < 0 or since_reboot > 120 else 17
            reports.append(
                Report(
                    "nas",
                    "any",
                    at,
                    boot_id=boot,
                    uptime=uptime,
                    sent_uptime=uptime + (now - at).total_seconds(),
                    network_interfaces=[interface(rx_bytes=counted, tx_bytes=counted // 3)],
                )
            )
        ingest_batch(reports, may_register=True, now=now)
    seal.tick(now=now)
    assert set(Chunk.objects.values_list("days", flat=True)) == {1, 7}
    return list(Interface.objects.all())


def test_days_that_are_plain_differences_are_told_as_the_others_are(past, now, monkeypatch):
    instants = [to_ms(now) // DAY_MS * DAY_MS + day * DAY_MS for day in range(-DAYS - 1, 2)]
    told = five_minute_rates(past, instants)
    found = []
    plain = percentiles._plain_samples
    monkeypatch.setattr(percentiles, "_plain_samples", lambda *of: (found.append(plain(*of)), {})[1])
    memory.forget()
    assert five_minute_rates(past, instants) == told
    assert 9 <= len(found[0]) < DAYS  # the week of the reboot is read as a whole


def test_the_days_that_are_left_are_read_at_most_twice():
    assert percentiles._runs([]) == []
    assert percentiles._runs([0, DAY_MS]) == [(0, DAY_MS)]
    assert percentiles._runs([0, 5 * DAY_MS, 9 * DAY_MS, 10 * DAY_MS]) == [
        (0, 5 * DAY_MS),
        (9 * DAY_MS, 10 * DAY_MS),
    ]
