"""Kill a tick at random moments, run it again, and compare every total with that of a tick that nobody disturbed.

`python -m homelab.tests.kill_tick KILLS`, with HOMELAB_DATA_DIR an empty folder; SQLite.
"""

import os
import random
import shutil
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "homelab.settings")
django.setup()

from django.conf import settings
from django.core.management import call_command
from django.db import connection

from homelab import demo
from metrics import history, seal
from metrics.models import Chunk, Heartbeat, Interface
from metrics.periods import parse_step, parse_zone

NOW = datetime(2026, 3, 20, 12, 30, tzinfo=UTC)
LATER = NOW + timedelta(days=10)


def main(rounds: int) -> None:
    database = Path(settings.DATABASES["default"]["NAME"])
    pristine = database.with_suffix(".pristine")
    call_command("migrate", verbosity=0)
    for name in ("nas", "router"):
        demo.build_server(name, interfaces=4, days=1, now=NOW, in_log=True)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(database, pristine)
    before = answers()
    started = time.monotonic()
    in_child(None)
    length = time.monotonic() - started
    expected = answers()
    assert expected["totals"] == before["totals"]
    assert expected["waiting"] == 0
    killed = midway = tried = 0
    while killed < rounds:
        tried += 1
        connection.close()
        for path in database.parent.glob(f"{database.name}-*"):
            path.unlink()
        shutil.copy(pristine, database)
        killed += in_child(random.uniform(0, length))
        midway += 0 < Heartbeat.objects.count() < before["waiting"]
        in_child(None)
        assert answers() == expected
    print(f"{killed} ticks killed of {tried}, {midway} of them with a part sealed; every total as undisturbed")


def in_child(seconds: float | None) -> bool:
    """Run a tick in a process of its own, and kill it after so long. Tell whether it was killed."""
    connection.close()
    child = os.fork()
    if child == 0:
        seal.tick(now=LATER)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert seconds is not None or status == 0
    return os.WIFSIGNALED(status)


def answers() -> dict[str, object]:
    """Return what is known: the series of each interface, and what lies where."""
    step, zone = parse_step("1h"), parse_zone("Asia/Kolkata")
    return {
        "totals": [
            history.series([interface], NOW - timedelta(days=3), NOW, step, zone)
            for interface in Interface.objects.order_by("pk")
        ],
        "chunks": list(Chunk.objects.order_by("interface", "start").values_list("interface", "start", "days", "count")),
        "waiting": Heartbeat.objects.count(),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
