"""What the hub says about the machine before it serves."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import Tags, run_checks
from django.core.management import CommandError, call_command
from django.db import connection

from homelab import mounts
from homelab.checks import loses_rows
from homelab.mounts import Mount, mount_of
from homelab.tests.hub import ROOT, environment

MOUNTS = """\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 28 0:30 / /srv rw - nfs4 nas:/export rw,vers=4.2
32 31 8:2 / /srv/local\\040disk rw - xfs /dev/sdb1 rw
33 28 0:33 / /mnt/c rw - 9p drvfs rw
34 28 0:34 / /home/ada/cloud rw - fuse.sshfs ada@nas: rw
35 28 8:3 / /over rw - ext4 /dev/sdc1 rw
36 35 0:36 / /over rw - cifs //nas/share rw
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/lib/homelab/homelab.sqlite3", Mount(Path("/"), "ext4")),
        ("/srv/homelab.sqlite3", Mount(Path("/srv"), "nfs4")),
        ("/srv/local disk/homelab.sqlite3", Mount(Path("/srv/local disk"), "xfs")),
        ("/srvx/homelab.sqlite3", Mount(Path("/"), "ext4")),
        ("/mnt/c/data/homelab.sqlite3", Mount(Path("/mnt/c"), "9p")),
        ("/home/ada/cloud/db", Mount(Path("/home/ada/cloud"), "fuse.sshfs")),
        ("/over/db", Mount(Path("/over"), "cifs")),
    ],
)
def test_a_path_is_on_the_file_system_that_was_mounted_nearest_to_it(path: str, mount: Mount):
    assert mount_of(Path(path), MOUNTS) == mount
    assert mount.is_network == (mount.kind not in ("ext4", "xfs"))


def test_a_link_is_on_the_file_system_that_it_leads_to(tmp_path: Path):
    (tmp_path / "data").symlink_to("/proc/self")
    assert mount_of(tmp_path / "data" / "status") == Mount(Path("/proc"), "proc")
    assert mount_of(tmp_path / "data").point != mount_of(tmp_path).point


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ("3.6.23", False), ("3.7.0", True), ("3.40.1", True), ("3.44.5", True), ("3.44.6", False), ("3.45.0", True),
        ("3.50.6", True), ("3.50.7", False), ("3.51.0", True), ("3.51.2", True), ("3.51.3", False), ("3.53.0", False),
    ],
)  # fmt: skip
def test_the_versions_of_sqlite_that_can_lose_rows(version: str, is_affected: bool):
    assert loses_rows(tuple(map(int, version.split(".")))) is is_affected


def test_no_command_but_serve_and_check_speaks_of_the_machine(tmp_path: Path):
    run = [sys.executable, "manage.py"]
    for command in (["migrate", "-v0", "--skip-checks"], ["createkey", "--kind", "read"], ["tick"], ["check"]):
        done = subprocess.run([*run, *command], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.skipif(connection.vendor != "sqlite", reason="of SQLite")
def test_a_check_names_the_version_of_sqlite_and_what_to_do(db: None):
    found = {message.id: message for message in run_checks(tags=[Tags.database], databases=["default"])}
    assert ("homelab.I001" in found) is loses_rows(sqlite3.sqlite_version_info)
    for message in found.values():
        assert not message.is_serious()
        assert message.hint


@pytest.mark.skipif(connection.vendor != "sqlite", reason="of SQLite")
def test_serve_refuses_a_network_file_system_in_one_line(monkeypatch: pytest.MonkeyPatch):
    here = mount_of(Path(str(connection.settings_dict["NAME"])))
    monkeypatch.setattr(mounts, "NETWORK", {here.kind})
    with pytest.raises(CommandError, match=f"network file system, {here.kind} at {here.point},.* Set HOMELAB_DATA_DIR"):
        call_command("serve", "--bind", "127.0.0.1:1")


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a mount namespace")
def test_a_disk_with_little_room_is_told_of_and_served_on(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    check = f"mount -t tmpfs -o size=40m none {data} && {sys.executable} manage.py check --database default"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", check], cwd=ROOT, env=environment(data), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "(homelab.W002) Only 39 MiB are free" in done.stderr or "(homelab.W002) Only 40 MiB" in done.stderr
    assert "HINT: Free some" in done.stderr
