"""The agent's faults against the real hub: what was attempted, acknowledged and stored, and every total to the byte.

The machine's counters and clock are a test's; the agent, the way to the hub and the hub are real. F4 is in `faults/`.
What the agent does about each fault by itself is in agent/tests/.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent import homelab_agent
from agent.tests.proxy import Proxy
from homelab.tests.faults.audit import Auditor
from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, new_hub
from homelab.tests.hub import wait_for
from homelab.tests.monitored import Monitored, number_in

pytestmark = pytest.mark.skipif(ON_POSTGRESQL, reason="which database it is, the agent cannot see")

MAKE_KEYS = """
from servers.models import ApiKey
print(*(ApiKey.objects.make(kind)[1] for kind in ("read", "enrolment")))
"""
AWAY = ("--url", "http://127.0.0.1:9")  # nobody listens on the discard port
DAY = 86_400.0
JANUARY_1970 = 20 * DAY

_numbers = count(1)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BreakableHub]:
    with new_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.read, hub.enrolment = hub.run("shell", "-v0", "-c", MAKE_KEYS).split()
        yield hub


@pytest.fixture
def auditor(hub: BreakableHub) -> Auditor:
    return hub.auditor()


@pytest.fixture
def proxy(hub: BreakableHub) -> Iterator[Proxy]:
    with Proxy(f"http://{hub.address}") as proxy:
        yield proxy


@pytest.fixture
def machine(hub: BreakableHub, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitored:
    """A machine that has enrolled, and reports through the proxy."""
    # Runs of the agent set these: they are put back in the end.
    monkeypatch.setattr(psutil, "PROCFS_PATH", psutil.PROCFS_PATH)
    monkeypatch.setattr(homelab_agent, "SYSFS_PATH", homelab_agent.SYSFS_PATH)
    for name in [name for name in os.environ if name.startswith("HOMELAB_")]:
        monkeypatch.delenv(name)
    machine = Monitored(f"machine-{next(_numbers)}", tmp_path / "machine", proxy.url)
    assert machine.enrol(hub.enrolment) == 0
    proxy.requests.clear()
    proxy.answers.clear()
    return machine


@pytest.fixture
def shown(hub: BreakableHub) -> Callable[[Monitored], dict[str, Any]]:
    """The server as a reader sees it."""

    def ask(machine: Monitored) -> dict[str, Any]:
        return hub.get(f"/api/v1/servers/{machine.server_id}", Authorization=f"Bearer {hub.read}").json()

    return ask


def sent(proxy: Proxy) -> list[list[int]]:
    """The numbers of the beats in each request, in order."""
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in proxy.requests]
    return [[beat["network_interfaces"][0]["rx_packets"] for beat in body.get("heartbeats", [body])] for body in bodies]


def outcomes(proxy: Proxy) -> list[str]:
    """What the hub said of each beat, in order, whether the agent heard it or not."""
    bodies = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in proxy.answers]
    return [item["outcome"] for body in bodies for item in body.get("results", [body])]


def corrupt(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


# F1


@pytest.mark.parametrize(("away", "runs"), [(60.0, 1), (30 * DAY, 90)])
def test_a_hub_that_was_away_shows_the_newest_at_once_and_gets_all_the_rest_oldest_first(
    machine: Monitored, auditor: Auditor, proxy: Proxy, shown, away: float, runs: int
):
    for number in range(runs):
        assert machine.run(*AWAY, behind=away * (1 - number / runs)) == 75
    assert machine.kept() == set(machine.attempted) == set(range(1, runs + 1))
    proxy.requests.clear()
    assert machine.run() == 0
    newest, *backlog = sent(proxy)
    assert (newest, list(chain(*backlog))) == ([runs + 1], list(range(1, runs + 1)))
    assert shown(machine)["network_interfaces"][0]["rx_packets"] == runs + 1
    machine.drain()
    auditor.check(machine, ["1h", "1d"])


def test_a_spool_that_is_full_drops_the_oldest_and_says_how_many(machine: Monitored, auditor: Auditor, shown):
    for _ in range(8):
        assert machine.run(*AWAY, "--spool-days", str(5 * 60 / DAY)) == 75
    assert machine.kept() == {4, 5, 6, 7, 8}
    machine.drain()
    assert machine.run() == 0
    assert shown(machine)["network_interfaces"][0]["rx_packets"] == max(machine.attempted)
    for dropped in (1, 2, 3):
        del machine.attempted[dropped]
    machine.drain()
    auditor.check(machine)


def test_a_resident_agent_reports_at_its_interval_over_one_connection(machine: Monitored, proxy: Proxy, shown):
    agent = machine.start("--loop", "1")
    try:
        assert wait_for(lambda: len(proxy.answers) >= 4, seconds=30)
    finally:
        agent.terminate()
    assert agent.communicate()[1] == ""
    assert set(outcomes(proxy)) == {"accepted"}
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in proxy.requests]
    apart = [after["uptime"] - before["uptime"] for before, after in pairwise(bodies[1:])]
    assert 0.5 < min(apart) < 1.5, apart
    assert (shown(machine)["interval"], proxy.connections) == (1, 2)  # the first was to enrol


# F6, F10: answers that are lost, cut, or not the hub's


def test_an_ack_that_is_lost_after_the_commit_is_a_duplicate_in_the_next_run(machine, hub, auditor, proxy: Proxy):
    proxy.faults.append("lose_ack")
    assert machine.run() == 75
    assert (proxy.fired, machine.kept(), outcomes(proxy)) == (["lose_ack"], {1}, ["accepted"])
    assert hub.stored()[machine.server_id] == 1
    assert machine.run() == 0
    assert (sent(proxy), outcomes(proxy)[1:]) == ([[1], [2], [1]], ["accepted", "duplicate"])
    assert hub.stored()[machine.server_id] == 2
    machine.drain()
    auditor.check(machine)


def test_an_ack_of_a_batch_that_is_lost_after_the_commit_is_asked_for_again(machine, hub, auditor, proxy: Proxy):
    assert [machine.run(*AWAY), machine.run(*AWAY)] == [75, 75]
    proxy.faults.extend(["", "lose_ack"])
    assert machine.run() == 0
    assert (proxy.fired, sent(proxy)) == (["lose_ack"], [[3], [1, 2], [1, 2]])
    assert outcomes(proxy) == ["accepted"] * 3 + ["duplicate"] * 2
    assert hub.stored()[machine.server_id] == 3
    machine.drain()
    auditor.check(machine)


@pytest.mark.parametrize("fault", ["lose_ack", "cut_ack"])
def test_acks_that_are_lost_again_and_again_store_nothing_twice(machine: Monitored, auditor, proxy: Proxy, fault: str):
    for _ in range(4):
        proxy.faults.append(fault)
        assert machine.run() == 75
        assert len(machine.kept()) == len(machine.attempted)
    assert proxy.fired == [fault] * 4
    machine.drain()
    auditor.check(machine)


@pytest.mark.parametrize("fault", ["portal", "empty", "reset"])
def test_what_is_no_ack_costs_no_heartbeat(machine: Monitored, auditor: Auditor, proxy: Proxy, fault: str):
    proxy.faults.extend([fault, fault, "", fault])
    assert [machine.run(), machine.run()] == [75, 75]
    assert machine.kept() == {1, 2}
    machine.run()
    assert proxy.fired == [fault] * 3
    assert machine.kept() == (set() if fault == "reset" else {1, 2})  # a connection that breaks in use is made anew
    machine.drain()
    auditor.check(machine)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_no_ack_and_the_key_does_not_follow_it(machine, hub, auditor, proxy: Proxy, status: int):
    with Proxy(f"http://{hub.address}") as elsewhere:
        proxy.redirects, proxy.elsewhere = status, f"{elsewhere.url}/api/v1/agents/heartbeat"
        proxy.faults.append("redirect")
        assert machine.run() == 75
        assert (proxy.fired, machine.kept(), elsewhere.requests) == (["redirect"], {1}, [])
    machine.drain()
    auditor.check(machine)


# F12


def test_a_revoked_key_is_tried_slowly_until_there_is_another(machine: Monitored, hub, auditor, proxy):
    assert machine.run() == 0
    hub.run("revokekey", machine.key[:11])
    assert [machine.run(), machine.run(), machine.run()] == [77, 77, 77]
    assert len(proxy.requests) == 2, "the hub was asked again within ten minutes"
    assert machine.kept() == {2, 3, 4}
    assert machine.enrol(hub.enrolment) == 0
    machine.drain()
    auditor.check(machine)


def test_a_key_is_changed_without_a_gap(machine: Monitored, hub: BreakableHub, auditor: Auditor):
    assert machine.run() == 0
    old = machine.key
    assert machine.enrol(hub.enrolment) == 0
    assert machine.run() == 0
    hub.run("revokekey", old[:11])
    assert machine.run() == 0
    assert machine.key != old
    machine.drain()
    auditor.check(machine)


def test_whoever_reports_too_often_is_told_to_wait_and_waits(machine: Monitored, auditor: Auditor, proxy: Proxy):
    codes = [machine.run() for _ in range(60)]
    asked = len(proxy.requests)
    assert set(codes) == {0, 75}
    assert 30 <= asked < 60, "it was not refused, or asked on"
    assert len(machine.kept()) == codes.count(75)
    wait_for(lambda: machine.run() == 0, seconds=10)
    machine.drain()
    auditor.check(machine)


def test_a_hub_that_is_busy_is_left_alone_for_as_long_as_it_says(machine: Monitored, auditor: Auditor, proxy: Proxy):
    proxy.faults.append("busy")
    began = time.monotonic()
    assert machine.run() == 75
    assert [machine.run() for _ in range(5)] == [75] * 5
    assert (proxy.fired, len(proxy.requests), len(machine.kept())) == (["busy"], 1, 6)
    wait_for(lambda: machine.run() == 0, seconds=10)
    assert time.monotonic() - began > 2
    machine.drain()
    auditor.check(machine)


# F13, F17: poison and corruption in the spool


def test_one_poison_item_of_60_is_set_aside_and_59_are_stored(machine: Monitored, auditor: Auditor, shown):
    for _ in range(60):
        machine.run(*AWAY)
    poisoned = sorted(machine.spool.iterdir())[30]
    heartbeat = json.loads(poisoned.read_bytes().partition(b" ")[2])
    heartbeat["network_interfaces"][1]["rx_bytes"] = -1
    text = homelab_agent.as_json(heartbeat)
    poisoned.write_bytes(b"%08x %s\n" % (homelab_agent.zlib.crc32(text), text))
    assert machine.run() == 69
    assert [number_in(file) for file in machine.rejected.iterdir()] == [31]
    assert machine.kept() == set()
    del machine.attempted[31]
    machine.drain()
    auditor.check(machine)


def test_corrupt_files_are_set_aside_and_the_rest_flows(machine: Monitored, auditor: Auditor, tmp_path: Path):
    for _ in range(9):
        machine.run(*AWAY)
    files = sorted(machine.spool.iterdir())
    corrupt(files[1], lambda data: data[:100])
    corrupt(files[3], lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:])
    corrupt(files[5], lambda data: b"")
    corrupt(files[7], lambda data: b"0" * (3 << 20))
    name = "000000000000-{}.json".format
    (machine.spool / name("link")).symlink_to(files[0])
    os.mkfifo(machine.spool / name("fifo"))
    (machine.spool / name("directory")).mkdir()
    assert machine.run() == 0
    assert len(list(machine.rejected.iterdir())) == 7
    assert list(machine.spool.iterdir()) == []
    for lost in (2, 4, 6, 8):
        del machine.attempted[lost]
    machine.drain()
    auditor.check(machine)


# F20


def test_runs_beside_one_that_stands_still_keep_what_they_read_and_double_nothing(machine, auditor, proxy: Proxy):
    proxy.faults.append("hold")
    first = machine.start()
    assert wait_for(lambda: proxy.fired, seconds=20) == ["hold"]
    first.send_signal(signal.SIGSTOP)
    assert [machine.run(), machine.run()] == [0, 0]
    assert machine.kept() == {1, 2, 3}
    assert len(proxy.requests) == 1
    proxy.go_on.set()
    first.send_signal(signal.SIGCONT)
    assert first.wait(20) == 0, first.communicate()
    first.communicate()
    machine.drain()
    auditor.check(machine)


# F21


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda run: 10 * 365 * DAY, id="ten years ahead"),
        pytest.param(lambda run: -10 * 365 * DAY, id="ten years behind"),
        pytest.param(lambda run: JANUARY_1970 - time.time() if run < 4 else 0.0, id="1970 until NTP"),
        pytest.param(lambda run: 3600.0 if run < 4 else -3600.0, id="stepped back"),
        pytest.param(lambda run: 1_700_000_000 - time.time(), id="frozen"),
    ],
)
def test_readings_are_right_to_two_seconds_whatever_the_wall_clock_says(machine, auditor: Auditor, shown, wrong):
    for run in range(4):
        assert machine.run(*AWAY, behind=60.0 * (4 - run), wrong=wrong(run)) == 75
    for run in range(4, 7):
        assert machine.run(wrong=wrong(run)) == 0
    skew = shown(machine)["clock_skew_seconds"]
    assert abs(skew + wrong(6)) < 2
    machine.drain()
    auditor.check(machine)
    for number, (at,) in auditor.stored(machine).at.items():
        assert abs(at / 1000 - machine.started - machine.attempted[number].uptime) < 2


def test_what_was_read_before_a_reboot_is_stored_in_its_place(machine: Monitored, auditor: Auditor):
    for minutes in (9, 8, 7):
        assert machine.run(*AWAY, behind=60.0 * minutes) == 75
    machine.reboot(started=time.time() - 390)
    for minutes in (6, 5):
        assert machine.run(*AWAY, behind=60.0 * minutes) == 75
    machine.drain()
    auditor.check(machine)


# F24


def test_a_state_directory_that_is_deleted_costs_what_was_in_it_and_doubles_nothing(machine, auditor: Auditor):
    assert machine.run() == 0
    assert [machine.run(*AWAY), machine.run(*AWAY)] == [75, 75]
    shutil.rmtree(machine.folder / "state")
    assert [machine.run(), machine.run()] == [0, 0]
    for deleted in (2, 3):
        del machine.attempted[deleted]
    machine.drain()
    auditor.check(machine)


def test_a_state_directory_of_yesterday_sends_all_again_and_doubles_nothing(machine, auditor, proxy, tmp_path: Path):
    assert [machine.run(*AWAY), machine.run(*AWAY)] == [75, 75]
    shutil.copytree(machine.folder / "state", tmp_path / "yesterday")
    assert machine.run() == 0
    shutil.rmtree(machine.folder / "state")
    shutil.copytree(tmp_path / "yesterday", machine.folder / "state")
    proxy.requests.clear()
    machine.drain()
    assert sent(proxy)[1] == [1, 2]
    auditor.check(machine)


def test_a_clone_is_told_and_nothing_is_counted_twice(machine: Monitored, hub, auditor: Auditor, tmp_path: Path):
    assert machine.run() == 0
    assert [machine.run(*AWAY), machine.run(*AWAY)] == [75, 75]
    clone = machine.clone(tmp_path / "clone")
    for _ in range(3):
        assert [clone.run(), machine.run()] == [0, 0]
    machine.starts = clone.starts
    machine.acknowledged = set(machine.attempted)
    auditor.check(machine)
    events = json.loads(auditor.get("/api/v1/events", server=machine.server_id, kind="clone"))["results"]
    assert [(event["before"], event["after"]) for event in events] == [("b007-1", "b007-2")]
