"""Faults injected into real runs of the agent's file: kills, full disks, dead links, bad certificates.

The oracle: what was in the spool or acknowledged when the fault struck is stored once in the end.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import homelab_agent
from agent.tests.hub import KEY, Handler, HonestHub

AGENT = homelab_agent.__file__
AWAY = "http://127.0.0.1:9"
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="namespaces and mounts need Linux and root"
)


class Runner:
    """Runs the agent's file as cron would; `prefix` is the command it runs under."""

    def __init__(self, state: Path, url: str) -> None:
        self.state = state
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOMELAB_URL": url,
            "HOMELAB_KEY": KEY,
            "HOMELAB_STATE_DIR": str(state),
            "HOMELAB_SERVER_ID": "faulty",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *flags: str, prefix: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, sys.executable, AGENT, *flags],
            env={**self.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str, prefix: tuple[str, ...] = (), **environ: str) -> tuple[int, str]:
        process = self.start(*flags, prefix=prefix, **environ)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr

    def kept(self) -> set[float]:
        """The uptimes of the heartbeats in the spool."""
        return {json.loads(file.read_bytes().split(b" ", 1)[1])["uptime"] for file in (self.state / "spool").glob("0*")}


@pytest.fixture
def runner(tmp_path: Path, hub: HonestHub) -> Runner:
    return Runner(tmp_path / "state", hub.url)


def stored(hub: HonestHub) -> set[float]:
    return {heartbeat["uptime"] for heartbeat in hub.stored.values()}


def wait_for(what: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.01)


# F4: killed at every system call

SYSCALLS = {
    "write": "write",
    "fsync": "fsync",
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat",
    "connect": "connect",
    "sendto": "sendto",
    "recvfrom": "recvfrom",
    "pwrite64": "pwrite64",
}


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("syscall", SYSCALLS)
def test_killed_at_any_system_call_the_agent_loses_nothing_it_kept(runner: Runner, hub: HonestHub, syscall: str):
    for _ in range(3):
        assert runner.run(HOMELAB_URL=AWAY)[0] == 75
    kept, kills = runner.kept(), 0
    assert len(kept) == 3
    for number in range(1, 30):
        calls = SYSCALLS[syscall]
        inject = f"inject={calls}:signal=SIGKILL:when={number}"
        code, _ = runner.run(prefix=("strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject))
        kept |= runner.kept()
        if code == 0:
            break
        assert code in {-signal.SIGKILL, 128 + signal.SIGKILL}
        kills += 1
    assert kills > 0, "nothing was injected"
    assert runner.run()[0] == 0
    assert runner.kept() == set()
    assert kept - stored(hub) == set()
    for torn in (runner.state / "spool").iterdir():
        os.utime(torn, (0, 0))
    assert runner.run()[0] == 0
    assert list((runner.state / "spool").iterdir()) == []


# F9: dead links, slow links, no names


@pytest.fixture
def network() -> Iterator[tuple[str, HonestHub]]:
    """An agent's namespace linked by a veth pair to that of a hub at 10.98.0.1."""
    agent_side, hub_side = f"hl-a-{os.getpid()}", f"hl-h-{os.getpid()}"
    try:
        for words in (
            f"netns add {agent_side}",
            f"netns add {hub_side}",
            f"-n {agent_side} link add v0 type veth peer name v1 netns {hub_side}",
            f"-n {agent_side} addr add 10.98.0.2/24 dev v0",
            f"-n {hub_side} addr add 10.98.0.1/24 dev v1",
            f"-n {agent_side} link set v0 up",
            f"-n {hub_side} link set v1 up",
            # Packets to .9 go out to an address no one has: nothing answers, not even an error.
            f"-n {agent_side} neigh add 10.98.0.9 lladdr 02:00:00:00:00:09 dev v0 nud permanent",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        with hub_inside(hub_side) as hub:
            yield agent_side, hub
    finally:
        for name in (agent_side, hub_side):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def hub_inside(namespace: str) -> HonestHub:
    """A socket belongs to the namespace of the thread that made it, so the hub can be served from here."""
    made: list[HonestHub] = []

    def make() -> None:
        with open(f"/run/netns/{namespace}") as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0
        made.append(HonestHub("10.98.0.1"))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@needs_root
def test_a_blackhole_is_left_at_the_deadline_and_the_heartbeat_kept(runner: Runner, network):
    started = time.monotonic()
    code, stderr = runner.run(
        "--deadline", "1.5", prefix=("ip", "netns", "exec", network[0]), HOMELAB_URL="http://10.98.0.9:8000"
    )
    assert (code, len(runner.kept())) == (75, 1)
    assert 1.4 < time.monotonic() - started < 4
    assert stderr.count("\n") == 1


@needs_root
def test_a_link_that_goes_down_loses_nothing(runner: Runner, network):
    namespace, hub = network
    inside = ("ip", "netns", "exec", namespace)
    runner.environ["HOMELAB_URL"] = hub.url
    assert runner.run(prefix=inside)[0] == 0
    subprocess.run(["ip", "-n", namespace, "link", "set", "v0", "down"], check=True)
    assert runner.run("--deadline", "2", prefix=inside)[0] == 75
    kept = runner.kept()
    subprocess.run(["ip", "-n", namespace, "link", "set", "v0", "up"], check=True)
    assert runner.run(prefix=inside)[0] == 0
    assert kept
    assert kept <= stored(hub)
    assert len(hub.stored) == 3


@needs_root
def test_a_name_server_that_never_answers_does_not_hold_the_run(runner: Runner, network, tmp_path):
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 10.98.0.9\n")
    bind = f'mount --bind {resolv_conf} $(realpath /etc/resolv.conf) && exec "$@"'
    started = time.monotonic()
    code, stderr = runner.run(
        "--deadline", "1",
        prefix=("ip", "netns", "exec", network[0], "unshare", "-m", "sh", "-c", bind, "sh"),
        HOMELAB_URL="http://hub.example:8000",
    )  # fmt: skip
    assert (code, len(runner.kept())) == (75, 1)
    assert 0.9 < time.monotonic() - started < 5
    assert "gave up" in stderr


def test_a_name_that_does_not_resolve_is_temporary(runner: Runner):
    code, stderr = runner.run("--deadline", "5", HOMELAB_URL="http://no-such-hub.invalid:8000")
    assert (code, len(runner.kept())) == (75, 1)
    assert stderr.count("\n") == 1


@needs_root
def test_over_a_slow_link_every_run_makes_progress(runner: Runner, network):
    namespace, hub = network
    inside = ("ip", "netns", "exec", namespace)
    runner.environ["HOMELAB_URL"] = hub.url
    spool = homelab_agent.Spool(str(runner.state), 1000)
    spool.prepare()
    for number in range(40):
        spool.add({"server_id": "faulty", "boot_id": "b", "uptime": float(number), "padding": "x" * 2500})
    shape = "qdisc add dev v0 root tbf rate 256kbit burst 1600 latency 50ms"
    subprocess.run(["tc", "-n", namespace, *shape.split()], check=True)
    waiting = [40]
    while waiting[-1]:
        code, _ = runner.run("--deadline", "3", prefix=inside)
        waiting.append(len(runner.kept()))
        assert waiting[-1] < waiting[-2] or waiting[-1] == 0
        assert code in {0, 75}
    assert {float(number) for number in range(40)} <= stored(hub)
    assert 2 < len(waiting) < 12, "the link was not slow, or hardly anything got through"


# F11: certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A certificate authority, and certificates of it: good, expired, for another name."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca_only = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign")
    for name in ("ca", "unknown"):
        openssl(
            "req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", *ca_only
        )
    for name, address, days in (
        ("good", "127.0.0.1", "2"),
        ("expired", "127.0.0.1", "-1"),
        ("wrong", "127.0.0.2", "2"),
    ):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=hub")
        (directory / "san").write_text(f"subjectAltName=IP:{address}\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days, "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return directory


def tls_hub(certificates: Path, name: str) -> HonestHub:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return HonestHub(tls=context)


def test_a_good_certificate_is_accepted(runner: Runner, certificates: Path):
    with tls_hub(certificates, "good") as hub:
        assert runner.run("--ca-file", str(certificates / "ca.pem"), HOMELAB_URL=hub.url) == (0, "")
        assert hub.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(("name", "authority"), [("expired", "ca"), ("wrong", "ca"), ("good", "unknown"), ("good", "")])
def test_a_bad_certificate_is_refused_before_the_key_is_sent(runner: Runner, certificates: Path, name, authority):
    flags = ("--ca-file", str(certificates / f"{authority}.pem")) if authority else ()
    with tls_hub(certificates, name) as hub:
        code, stderr = runner.run(*flags, HOMELAB_URL=hub.url)
        assert (code, len(runner.kept())) == (75, 1)
        assert "certificate verify failed" in stderr
        assert hub.keys == []


def test_a_ca_file_that_is_none_is_78(runner: Runner):
    assert runner.run("--ca-file", "/nonexistent", HOMELAB_URL="https://127.0.0.1:9")[0] == 78


# F15: the agent's disk is full

FULL_DISK = """
set -u
mount -t tmpfs -o size=256k tmpfs "$HOMELAB_STATE_DIR"
"$@"; echo $?
head -c 1M /dev/zero > "$HOMELAB_STATE_DIR/ballast" 2> /dev/null
"$@"; echo $?
HOMELAB_URL={away} "$@"; echo $?
HOMELAB_URL={away} "$@"; echo $?
rm "$HOMELAB_STATE_DIR/ballast"
"$@"; echo $?
"""


@needs_root
def test_on_a_full_disk_the_heartbeat_still_goes_out_and_drops_are_reported(runner: Runner, hub: HonestHub):
    runner.state.mkdir()
    script = FULL_DISK.format(away=AWAY)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, AGENT],
        env=runner.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "0", "75", "75", "0"]
    assert done.stderr.count("in memory only") == 3
    assert len(hub.stored) == 3
    assert hub.received[-1][1]["agent_stats"] == {"spooled": 0, "sent": 2, "rejected": 0, "dropped": 2}


def test_below_a_limit_of_file_size_the_heartbeat_still_goes_out(runner: Runner, hub: HonestHub):
    code, stderr = runner.run(prefix=("sh", "-c", 'ulimit -f 1; exec "$@"', "sh"), HOMELAB_INCLUDE="*")
    if "in memory only" not in stderr:
        pytest.skip("this shell counts file sizes in larger blocks than this machine's heartbeat")
    assert (code, len(hub.stored)) == (0, 1)
    assert list((runner.state / "spool").iterdir()) == []


def test_a_state_directory_that_cannot_be_written_sends_from_memory(runner: Runner, hub: HonestHub):
    if not os.path.isdir("/proc/sys"):
        pytest.skip("needs a directory that refuses writers by another error than permission")
    code, stderr = runner.run(HOMELAB_STATE_DIR="/proc/1/homelab")
    assert (code, len(hub.stored)) == (0, 1)
    assert "warning" in stderr


# F20: runs that overlap


def test_a_second_run_beside_a_stopped_one_only_adds_to_the_spool(runner: Runner, hub: HonestHub):
    go_on = threading.Event()

    def slow(handler: Handler) -> None:
        go_on.wait(20)
        handler.answer_honestly()

    hub.script.append(slow)
    first = runner.start()
    wait_for(lambda: hub.fired)
    first.send_signal(signal.SIGSTOP)
    assert runner.run() == (0, "")
    assert runner.run() == (0, "")
    kept = runner.kept()
    assert (len(kept), len(hub.keys)) == (3, 1)
    go_on.set()
    first.send_signal(signal.SIGCONT)
    assert first.wait(20) == 0
    first.communicate()
    assert runner.run() == (0, "")
    assert kept <= stored(hub)
    assert hub.outcomes == ["accepted"] * 4
    assert runner.kept() == set()


def test_the_lock_dies_with_its_process(runner: Runner, hub: HonestHub):
    hang = threading.Event()
    hub.script.append(lambda handler: hang.wait(20))
    first = runner.start()
    wait_for(lambda: hub.fired)
    first.kill()
    first.communicate()
    assert runner.run() == (0, "")
    hang.set()
    assert (len(hub.stored), runner.kept()) == (2, set())


def test_ten_runs_at_once_lose_nothing(runner: Runner, hub: HonestHub):
    runs = [runner.start() for _ in range(10)]
    assert {(process.communicate()[1], process.returncode) for process in runs} == {("", 0)}
    assert runner.run() == (0, "")
    assert (len(hub.outcomes), runner.kept()) == (11, set())


# What a file must promise beside working


def test_the_file_is_python_3_9():
    import ast

    ast.parse(Path(AGENT).read_text(), feature_version=(3, 9))


def test_the_agent_works_without_psutil_and_on_a_bare_interpreter(runner: Runner, hub: HonestHub):
    process = subprocess.run(
        [sys.executable, "-I", "-S", AGENT], env=runner.environ, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")
    with_psutil = {i["name"] for i in homelab_agent.network_interfaces()}
    assert {i["name"] for h in hub.stored.values() for i in h["network_interfaces"]} == with_psutil


def test_a_run_over_plain_http_loads_no_tls(runner: Runner, hub: HonestHub):
    _, report = runner.run(PYTHONPROFILEIMPORTTIME="1")
    assert hub.stored
    imported = {line.split("|")[-1].strip() for line in report.split("\n")}
    assert "http.client" in imported
    assert imported & {"_ssl", "requests", "urllib3", "lzma"} == set()
