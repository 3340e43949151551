"""The line for systemd, pasted on a machine that systemd has booted: its timer fires, its unit reads the key, delivers.

The machine is this one's file system, which it cannot change, with a systemd of its own as process 1. Its network is
this machine's, and nothing of what is installed here is started there.
"""

import html
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, new_hub
from homelab.tests.hub import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ON_POSTGRESQL, reason="the database has no part in it"),
]

INTERVAL = 2
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ALSO_STARTED = ("etc/systemd/system", "usr/local/lib/systemd/system")


class Booted:
    """A machine of its own, in `folder`. It can be switched off as by a power cut, and booted again."""

    def __init__(self, folder: Path) -> None:
        self.nspawn: subprocess.Popen[bytes] | None = None
        self.disk, self.root, self.console = folder / "disk", folder / "root", folder / "console"
        for path in (self.disk, self.root):
            path.mkdir()
        self._mount("tmpfs", "tmpfs", self.disk)
        for name in ("changes", "work"):
            (self.disk / name).mkdir()
        layers = f"lowerdir=/,upperdir={self.disk / 'changes'},workdir={self.disk / 'work'}"
        self._mount("overlay", "overlay", self.root, "-o", layers)
        (self.root / "etc" / "machine-id").write_text(f"{uuid4().hex}\n")  # without one, a first boot asks questions
        for directory in ALSO_STARTED:
            for wants in (self.root / directory).glob("*.wants"):
                shutil.rmtree(wants)

    def _mount(self, kind: str, what: str, where: Path, *options: str) -> None:
        done = subprocess.run(["mount", "-t", kind, what, where, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            self.remove()
            pytest.skip(f"no {kind} can be mounted here: {done.stderr.strip()}")

    def boot(self) -> None:
        with self.console.open("w") as console:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=homelab-{os.getpid()}",
                 f"--directory={self.root}", "--boot", "systemd.unit=basic.target", "systemd.show_status=true"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        assert wait_for(lambda: "basic.target" in self.console.read_text(), seconds=60), self.console.read_text()

    @property
    def init(self) -> int:
        """Its process 1, by the number that it has here. With it all its processes end, at once."""
        return int(Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text())

    def cut_power(self) -> None:
        os.kill(self.init, signal.SIGKILL)
        self.nspawn.wait()

    def run(self, line: str, **environment: str) -> str:
        """Have its root run a line, as pasted into a shell, and return what it printed."""
        variables = [f"{name}={value}" for name, value in {"PATH": PATH, "HOME": "/root", **environment}.items()]
        command = ["nsenter", f"--target={self.init}", "--all", "env", "-i", *variables, "sh", "-c", line]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def remove(self) -> None:
        if self.nspawn and self.nspawn.poll() is None:
            self.cut_power()
        for path in (self.root, self.disk):
            subprocess.run(["umount", "--quiet", "--lazy", path], check=False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[BreakableHub]:
    folder = tmp_path / "hub"
    folder.mkdir()
    with new_hub(folder) as hub:
        hub.read = hub.createkey("read")
        yield hub


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Booted]:
    if os.geteuid() != 0:
        pytest.skip("only root can boot a systemd")
    for command in ("systemd-nspawn", "nsenter", "curl"):
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")
    machine = Booted(tmp_path)
    try:
        yield machine
    finally:
        machine.remove()


def pasted_line(hub: BreakableHub, how: str) -> str:
    """Return the line of the page "Add a machine", asked for as a person does."""
    with requests.Session() as person:
        login, page = f"http://{hub.address}/admin/login/", f"http://{hub.address}/admin/add/"

        def post(address: str, **fields: str) -> str:
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', person.get(address, timeout=10).text)
            assert token, address
            answer = person.post(address, {"csrfmiddlewaretoken": token[1], **fields}, timeout=10)
            assert answer.status_code == 200
            return answer.text

        (password,) = re.findall(r"Sign in as admin with the password (\S+)", hub.said())
        post(login, username="admin", password=password, next="/admin/add/")
        (line,) = re.findall(rf'<code id="line-{how}">(.*?)</code>', post(page))
    return html.unescape(line)


def test_the_pasted_line_installs_a_timer_that_fires_also_after_a_power_cut(hub: BreakableHub, machine: Booted):
    machine.boot()
    printed = machine.run(pasted_line(hub, "systemd"), HOMELAB_INTERVAL=str(INTERVAL))
    assert printed.endswith("installed for systemd\n")
    (server,) = hub.stored()
    assert hub.stored()[server] >= 1, "the unit did not run, or could not read its key"

    def fired(times: int, *, seconds: float) -> bool:
        before = hub.stored()[server]
        return wait_for(lambda: hub.stored()[server] >= before + times, seconds=seconds)

    assert fired(3, seconds=30), journal(machine)
    assert machine.run("systemctl show -p Result,DynamicUser --value homelab-agent").split() == ["success", "yes"]
    assert machine.run("systemctl is-enabled homelab-agent.timer") == "enabled\n"
    assert machine.run("stat -c '%U %a' /etc/homelab-agent/agent.env") == "root 600\n"
    owner = int(machine.run("stat -Lc %u /var/lib/homelab-agent/spool"))
    assert 61_184 <= owner <= 65_519, "not a user that systemd made up"

    machine.cut_power()
    assert not fired(1, seconds=INTERVAL + 1)
    machine.boot()
    assert fired(2, seconds=60), journal(machine)


def journal(machine: Booted) -> str:
    return machine.run("systemctl list-timers --all; journalctl --no-pager -u 'homelab-agent*'")
