"""Rows that are streamed are those of the query, whichever the engine."""

from datetime import date, timedelta

import pytest

from metrics.models import Chunk, Interface
from metrics.streaming import stream
from servers.models import Server

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ("interface_id", "start", "days", "last_reading", "readings")


@pytest.fixture
def chunks():
    server = Server.objects.create(id="nas", hostname="nas")
    interface = Interface.objects.create(server=server, name="eth0")
    for number in range(7):
        readings = bytes(range(256)) * 300 * number if number else None
        Chunk.objects.create(
            interface=interface, start=date(2026, 3, 2) + timedelta(days=number), last_reading="ü", readings=readings
        )
    return Chunk.objects.filter(interface__in=[interface.pk], start__gt=date(2026, 3, 1)).order_by("start")


def test_they_are_those_of_the_query(chunks):
    expected = [(*of, bytes(readings) if readings else None) for *of, readings in chunks.values_list(*NAMES)]
    found = [(*of, bytes(readings) if readings else None) for *of, readings in stream(chunks.values_list(*NAMES))]
    assert (len(found), found) == (7, expected)


def test_who_stops_halfway_can_ask_on(chunks):
    rows = stream(chunks.values_list(*NAMES))
    assert next(rows)[1] == date(2026, 3, 2)
    rows.close()
    assert chunks.count() == 7


def test_it_counts_as_a_query(chunks, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert len(list(stream(chunks.values_list(*NAMES)))) == 7


def test_of_nothing_there_is_nothing(chunks):
    assert list(stream(chunks.filter(interface__in=[]).values_list(*NAMES))) == []
