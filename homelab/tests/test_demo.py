"""A demo fleet is as if the hub had been there."""

import re
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest

from homelab import demo
from metrics import memory
from metrics.history import series
from metrics.models import Chunk, Heartbeat, Interface
from metrics.periods import parse_step
from servers.models import Server

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
HOUR = NOW.replace(minute=0)


def test_what_waits_in_the_log_goes_on_from_what_the_hub_has_sealed():
    written = demo.build(servers=2, interfaces=3, days=1, now=NOW)
    waiting = list(Heartbeat.objects.order_by("collected_at"))
    assert {heartbeat.server_id for heartbeat in waiting} == {"router", "nas"}
    assert waiting[0].collected_at >= HOUR
    assert written == 3 * len(waiting) + sum(Chunk.objects.values_list("count", flat=True))
    for interface in Interface.objects.select_related("server__snapshot"):
        assert interface.sealed_until < HOUR
        assert interface.server.snapshot.sealed_revision
        assert interface.server.snapshot.steady_since <= interface.sealed_until
        assert interface.server.snapshot.last_seen_at > NOW - timedelta(minutes=2)


def test_the_same_arguments_give_the_same_traffic():
    def traffic():
        demo.build(servers=1, interfaces=2, days=1, now=NOW)
        interfaces = list(Interface.objects.with_revision())
        found = series(interfaces, NOW - timedelta(days=1), NOW, parse_step("1h"), UTC)
        Server.objects.all().delete()
        memory.forget()
        return found.rx_bytes, found.tx_bytes

    first = traffic()
    assert sum(filter(None, first[0])) > 0
    assert traffic() == first


def test_each_reboot_is_an_event():
    demo.build(servers=8, interfaces=1, days=3, now=NOW)
    for server in Server.objects.all():
        first, second = server.boots.order_by("started_at")
        (reboot,) = server.events.all()
        assert (reboot.kind, reboot.before, reboot.after) == ("reboot", first.boot_id, second.boot_id)
        assert timedelta(0) <= reboot.at - second.started_at < timedelta(hours=4)  # or once its outage is over


@pytest.mark.parametrize("days", [0, 1])
def test_a_machine_is_not_up_before_it_started(days):
    demo.build(servers=12, interfaces=1, days=days, now=NOW)
    assert Heartbeat.objects.exists()
    assert not Heartbeat.objects.filter(uptime_ms__lt=0).exists()


@pytest.mark.parametrize("minutes", [-390, -300, 0])  # midnight, half past one, half past six
def test_the_progress_ends_at_its_end(minutes):
    shown = StringIO()
    demo.build(servers=1, interfaces=1, days=2, now=NOW + timedelta(minutes=minutes), out=shown)
    assert re.search(r"100%\|\S+\| (\d+)/\1 ", shown.getvalue())
    assert "day [" not in shown.getvalue()
