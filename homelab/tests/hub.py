"""`manage.py serve` as a person runs it: a process of its own, on a free port, with its own data folder.

It can be killed and started again on the same port, and under a command such as strace.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

ROOT = Path(__file__).parents[2]

# For tests whose hub is a `Hub` without DATABASE_URL: on PostgreSQL they would be the same once more.
hub_on_sqlite = pytest.mark.skipif(
    os.environ.get("DATABASE_URL", "").startswith("postgres"), reason="its hub is on SQLite either way"
)


class Hub:
    """`variables` are its environment's; without DATABASE_URL among them it is on SQLite, in its data folder.

    `inside` is a command under which all of its commands run, such as nsenter.
    `collected` are the static files: the first hub of a process collects and compresses them, the others find them.
    """

    inside: Sequence[str] = ()
    collected: ClassVar[Path | None] = None

    def __init__(self, data: Path, *arguments: str, **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.data = data
        self.arguments = arguments
        self.environment = {**environment(data), **variables}
        static = data / "static"
        if Hub.collected and not static.exists():
            static.symlink_to(Hub.collected)
        self.start()
        if not Hub.collected and (static / ".sources").exists():
            Hub.collected = static

    def start(self, *under: str, wait: bool = True) -> float:
        """Start it, under another command where one is given. Return after how many seconds it served."""
        began = time.monotonic()
        self.output = self.data / f"output-{time.monotonic_ns()}"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*under, *self.manage("serve", "--bind", self.address, *self.arguments)],
                cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        if wait:
            wait_for(lambda: "Homelab is at" in self.said() or self.process.poll() is not None, seconds=30)
        return time.monotonic() - began

    def manage(self, *arguments: str) -> list[str]:
        return [*self.inside, sys.executable, "manage.py", *arguments]

    def said(self) -> str:
        return self.output.read_text()

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"http://{self.address}{path}", headers=headers, timeout=5)

    def run(self, *arguments: str) -> str:
        """Run a command of manage.py beside it, and return what it printed."""
        return subprocess.check_output(self.manage(*arguments), cwd=ROOT, env=self.environment, text=True).strip()

    def createkey(self, kind: str, *options: str) -> str:
        return self.run("createkey", "--kind", kind, *options)

    def kill(self) -> bool:
        """Kill it and all that it started, at once. Tell whether it was killed, and had not ended before."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(timeout=20) == -signal.SIGKILL

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Return the exit code and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=20), time.monotonic() - began


def environment(data: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "DJANGO_"))}
    return {**ours, "HOMELAB_DATA_DIR": str(data), "DATABASE_URL": f"sqlite:///{data / 'homelab.sqlite3'}"}


def wait_for(condition: Callable[[], Any], *, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
