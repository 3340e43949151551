"""Fill the hub of HOMELAB_DATA_DIR with the fleet and an admin: `python -m homelab.tests.browser.fill`."""

import os
from datetime import timedelta

import django

NAME, PASSWORD = "admin", "a password of tests"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "homelab.settings")
    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.utils import timezone

    from homelab.tests.browser import fleet
    from metrics.models import Event, Interface
    from servers.models import ApiKey, KeyKind, Server

    call_command("migrate", verbosity=0)
    get_user_model().objects.create_superuser(NAME, password=PASSWORD)
    now = timezone.now()
    minutes = timedelta(minutes=5)
    nas, router, pi, backup = fleet.fleet()
    booted, rebooted = now - timedelta(days=23), now - timedelta(hours=9)
    fleet.report([nas], start=now - timedelta(days=1), end=rebooted - 2 * minutes, every=minutes, booted_at=booted)
    for interface in nas.interfaces:
        interface.restart()
    fleet.report([nas], start=rebooted, end=now, every=minutes, booted_at=rebooted)
    others = [router, pi, fleet.strange()]
    fleet.report(others, start=now - timedelta(hours=12), end=now, every=minutes, booted_at=booted)
    silent = now - timedelta(hours=3)
    fleet.report([backup], start=silent - timedelta(hours=2), end=silent, every=minutes, booted_at=booted)
    Server.objects.create(id="printer", hostname="printer")
    Interface.objects.filter(name="eth0", server="nas-01").update(label="uplink", best_speed_mbps=10_000)
    for number in range(40):  # more than fit: a port that flaps
        at = now - timedelta(days=2, minutes=number)
        kind = ("link_up", "link_down")[number % 2]
        number_of = Event.first_number(at)
        Event.objects.create(server_id="router", number=number_of, at=at, interface="lan0", kind=kind)
    ApiKey.objects.make(KeyKind.READ, label="grafana")


if __name__ == "__main__":
    main()
