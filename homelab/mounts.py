"""Which file system a path is on, as the kernel lists them."""

import re
from pathlib import Path
from typing import NamedTuple

NETWORK = {
    "9p", "afs", "ceph", "cifs", "coda", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
    "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
}  # fmt: skip


class Mount(NamedTuple):
    point: Path
    kind: str

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK


def mount_of(path: Path, mounts: str | None = None) -> Mount | None:
    """Return where the file system of `path` is mounted; `mounts` are the lines of /proc/self/mountinfo.

    None where that cannot be told, as on other systems than Linux.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return None
    path = path.resolve()
    found = [mount for mount in map(_mount, mounts.splitlines()) if path.is_relative_to(mount.point)]
    # Of those at the same point the last one was mounted over the others.
    return max(reversed(found), key=lambda mount: len(mount.point.parts), default=None)


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
    return Mount(Path(point), after.split()[0])
