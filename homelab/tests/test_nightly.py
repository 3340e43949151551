"""The nights' backups: when one is made, how many are kept, and what one that fails leaves alone."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from homelab.backup import suffix
from homelab.nightly import kept, nightly

pytestmark = pytest.mark.django_db

NIGHT = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def folder(settings, tmp_path: Path) -> Path:
    settings.DATA_DIR = tmp_path
    settings.BACKUP_DIR = tmp_path / "nights"
    settings.BACKUP_DIR.mkdir()
    settings.TIME_ZONE = "UTC"
    return settings.BACKUP_DIR


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def name(day: int) -> str:
    return f"homelab-2026-03-{day:02}{suffix()}"


def test_it_is_made_once_a_night_from_three_o_clock_on(folder: Path):
    assert nightly(now=NIGHT - timedelta(seconds=1)) is None
    assert nightly(now=NIGHT) == folder / name(1)
    assert nightly(now=NIGHT + timedelta(minutes=11)) is None
    assert nightly(now=NIGHT + timedelta(hours=23, minutes=59)) is None
    assert nightly(now=NIGHT + timedelta(hours=30)) == folder / name(2)  # the hub was off at three
    assert names(folder) == [name(1), name(2)]
    assert (folder / name(1)).stat().st_mode & 0o077 == 0


def test_the_night_is_that_of_the_hub(folder: Path, settings):
    settings.TIME_ZONE = "America/New_York"
    assert nightly(now=datetime(2026, 3, 2, 7, 59, tzinfo=UTC)) is None
    assert nightly(now=datetime(2026, 3, 2, 8, 0, tzinfo=UTC)) == folder / name(2)


def test_the_newest_are_kept_and_nothing_else_is_touched(folder: Path, settings):
    settings.BACKUP_KEEP = 2
    for other in ("homelab-2026-02-26.sqlite3", "homelab-2026-02-27.dump", "homelab-old.sqlite3", "photos"):
        (folder / other).touch()
    (folder / f"{name(1)}.part-wal").touch()
    assert nightly(now=NIGHT + timedelta(days=1))
    assert names(folder) == ["homelab-2026-02-27.dump", name(2), "homelab-old.sqlite3", "photos"]
    assert [each.path.name for each in kept()] == [name(2), "homelab-2026-02-27.dump"]


def test_one_that_fails_is_logged_removes_nothing_and_is_tried_again(folder: Path, settings, caplog):
    settings.BACKUP_KEEP = 1
    (folder / name(1)).touch()
    in_its_way = folder / f"{name(2)}.part"
    in_its_way.mkdir()
    night = NIGHT + timedelta(days=1)
    assert nightly(now=night) is None
    assert "The nightly backup failed" in caplog.text
    in_its_way.rmdir()
    assert nightly(now=night + timedelta(minutes=9)) is None
    assert names(folder) == [name(1)]
    assert nightly(now=night + timedelta(minutes=10))
    assert names(folder) == [name(2)]


def test_a_disk_that_is_not_mounted_is_not_written_under(folder: Path, caplog):
    folder.rmdir()
    assert nightly(now=NIGHT) is None
    assert (folder.exists(), "is not there" in caplog.text) == (False, True)


def test_two_ticks_at_once_make_one(folder: Path, tmp_path: Path):
    """The other is stopped while it has its turn."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import fcntl

        held = os.open(tmp_path / "nightly-lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(write, b"held")
        time.sleep(60)
        os._exit(0)
    assert os.read(read, 4) == b"held"
    assert nightly(now=NIGHT) is None
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.utime(tmp_path / "nightly-lock", (0, 0))
    assert nightly(now=NIGHT)


def test_without_a_folder_there_are_none(settings):
    settings.BACKUP_DIR = None
    assert (nightly(now=NIGHT), kept()) == (None, [])


def test_a_tick_under_another_web_server_makes_it(folder: Path, settings):
    settings.TIME_ZONE = at_night()
    call_command("tick")
    assert len(names(folder)) == 1


def test_the_storage_page_tells_of_the_last(admin_client, folder: Path, settings):
    page = reverse("admin:storage")
    assert "never" in admin_client.get(page).text
    saved = nightly(now=NIGHT)
    assert "0 s ago" in admin_client.get(page).text
    long_ago = (timezone.now() - timedelta(days=3)).timestamp()
    os.utime(saved, (long_ago, long_ago))
    assert '<div class="warning">\n    <dt>Last backup' in admin_client.get(page).text
    settings.BACKUP_DIR = None
    assert "Last backup" not in admin_client.get(page).text


def at_night() -> str:
    """Return a zone in which a backup is due by now."""
    return "UTC" if timezone.now().hour >= 3 else "Etc/GMT-6"
