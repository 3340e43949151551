"""A PostgreSQL of one's own, in a temporary folder and on a free port, to be stopped in any way."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        with (folder / "postgresql.conf").open("a") as settings:
            settings.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")

    def control(self, *action: str) -> None:
        """Start, stop or restart it, with the words of pg_ctl; returns when that is done."""
        self._run("pg_ctl", "-w", "-t", "60", "-l", str(self.folder / "log"), *action)

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root; Debian has a user for it.
        user = "postgres" if getpass.getuser() == "root" else None
        command = [found(program), "-D", str(self.folder), *arguments]
        subprocess.run(command, user=user, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120)


def found(program: str) -> str:
    """Return where a program of the newest PostgreSQL is: Debian keeps those of the server out of the path."""
    versions = sorted(DEBIAN.glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    return str(versions[-1]) if versions else shutil.which(program) or program


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Give one that runs; it and its data are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="homelab-postgresql-"))
    try:
        if getpass.getuser() == "root":
            shutil.chown(folder, "postgres", "postgres")
        os.chmod(folder, 0o700)
        own = Cluster(folder)
        own.control("start")
        try:
            yield own
        finally:
            own.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)
