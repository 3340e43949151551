"""Small disks in mount namespaces of their own, and hubs whose data folder is such a disk."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.hub import ROOT

UNSHARE = ["unshare", "--map-root-user", "--mount"]
MOUNT = 'mount -t tmpfs -o "size=$1" none "$2" && cp -a "$3"/. "$2" && echo ready && exec sleep infinity'
QUERY = """
import json, sqlite3, sys
_, path, query = sys.argv
print(json.dumps(sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute(query).fetchall()))
"""

needs_small_disks = pytest.mark.skipif(
    subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0 if shutil.which("unshare") else True,
    reason="needs namespaces of a user's own",
)


class SmallDisk:
    """`point` is where it is for those inside, `files` where it is for everybody else."""

    def __init__(self, point: Path, holder: int) -> None:
        self.point = point
        self.files = Path(f"/proc/{holder}/root{point}")
        self.inside = ["nsenter", f"--target={holder}", "--user", "--mount", "--preserve-credentials", f"--wd={ROOT}"]
        self.filler = self.files / "filler"

    def free(self) -> int:
        return shutil.disk_usage(self.files).free

    def fill(self, *, leaving: int = 0) -> None:
        """Somebody else takes all room but this."""
        size = self.free() - leaving
        subprocess.run(["fallocate", f"--length={size}", self.filler], check=True)

    def empty(self) -> None:
        self.filler.unlink()

    def hub(self) -> type[BreakableHub]:
        """Return a kind of hub that runs on this disk."""

        class HubOnSmallDisk(BreakableHub):
            inside = self.inside

            def rows(self, query: str) -> list[tuple[Any, ...]]:
                command = [*self.inside, sys.executable, "-c", QUERY, str(self.data / "homelab.sqlite3"), query]
                return list(map(tuple, json.loads(subprocess.check_output(command))))

        return HubOnSmallDisk


@contextmanager
def small_disk(point: Path, size: str, *, holding: Path) -> Iterator[SmallDisk]:
    """Mount a disk of that size with the files of a folder, until the block is over."""
    point.mkdir()
    command = [*UNSHARE, "sh", "-c", MOUNT, "sh", size, point, holding]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield SmallDisk(point, holder.pid)
        finally:
            holder.kill()
