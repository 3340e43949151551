"""What waits on disk, what leaves it and when. The oracle: every heartbeat attempted is stored once, none besides."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent import homelab_agent
from agent.homelab_agent import Spool
from agent.tests.conftest import Agent, FakeMachine
from agent.tests.hub import HonestHub, answer
from agent.tests.proxy import Proxy

VALIDATION_ERROR = {"type": "validation_error", "errors": [{"code": "x", "detail": "is bad", "attr": "rx_bytes"}]}


def stored(hub: HonestHub) -> list[float]:
    return [heartbeat["uptime"] for heartbeat in hub.stored.values()]


def batches(hub: HonestHub) -> list[list[float]]:
    return [[h["uptime"] for h in body["heartbeats"]] for path, body in hub.received if path.endswith("heartbeats")]


def fill(agent: Agent, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    agent.away(monkeypatch)
    assert [agent.run() for _ in range(number)] == [75] * number


# F1: the hub is away


def test_after_an_outage_the_newest_is_stored_first_and_the_rest_oldest_first(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 120)
    assert len(agent.waiting()) == 120
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert stored(hub) == [agent.attempted[-1], *agent.attempted[:-1]]
    assert agent.waiting() == []


def test_the_spool_is_bounded_and_what_it_drops_is_counted_and_reported(agent: Agent, hub, monkeypatch):
    agent.away(monkeypatch)
    ten_minutes = str(10 / 24 / 60)
    for _ in range(13):
        agent.run("--spool-days", ten_minutes)
    assert len(agent.waiting()) == 10
    agent.back(hub, monkeypatch)
    agent.run("--spool-days", ten_minutes)
    assert stored(hub) == [agent.attempted[-1], *agent.attempted[4:-1]]
    agent.run()
    assert hub.received[-1][1]["agent_stats"] == {"spooled": 0, "sent": 10, "rejected": 0, "dropped": 4}


def test_a_backlog_goes_in_batches_of_at_most_500(agent: Agent, hub, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 2,200 of them would take longer than all other tests
    spool = Spool(str(agent.state), 10_000)
    spool.prepare()
    for number in range(1100):
        assert spool.add({"server_id": "vm", "boot_id": "b", "uptime": float(number)}, spool.waiting()[-1:])
    assert agent.run() == 0
    assert max(len(batch) for batch in batches(hub)) == 500
    assert [uptime for batch in batches(hub) for uptime in batch] == [float(n) for n in range(1100)]


def test_a_backlog_too_long_for_one_run_is_no_failure(agent: Agent, hub, monkeypatch, capsys):
    fill(agent, monkeypatch, 40)
    agent.back(hub, monkeypatch)
    capsys.readouterr()
    monkeypatch.setattr(homelab_agent, "BATCH_PAUSE_SECONDS", 3)
    assert agent.run("--deadline", "3") == 0
    assert capsys.readouterr().err == ""
    assert len(batches(hub)) == 1
    assert 0 < len(agent.waiting()) < 40


def test_a_batch_stays_below_a_mebibyte(agent: Agent, hub, monkeypatch):
    spool = Spool(str(agent.state), 10_000)
    spool.prepare()
    for number in range(8):
        large = {"server_id": "vm", "boot_id": "b", "uptime": float(number), "os_info": "x" * 300_000}
        assert spool.add(large, spool.waiting())
    assert agent.run() == 0
    assert [uptime for batch in batches(hub) for uptime in batch] == [float(n) for n in range(8)]
    assert max(len(batch) for batch in batches(hub)) == 3


def test_files_are_private_and_whole(agent: Agent, monkeypatch):
    fill(agent, monkeypatch, 1)
    (file,) = agent.waiting()
    assert file.stat().st_mode & 0o777 == 0o600
    _, text = file.read_bytes().split(b" ", 1)
    assert json.loads(text)["uptime"] == agent.attempted[0]
    assert "sent_uptime" not in json.loads(text)


def test_the_state_keeps_its_length_so_that_it_can_be_written_on_a_full_disk(agent: Agent, hub):
    hub.script.append(answer(503, b"", {"Retry-After": "3000"}))
    for _ in range(3):
        agent.run()
        assert (agent.state / "state").stat().st_size == 512


def test_a_run_that_finds_nothing_waiting_starts_to_count_again(agent: Agent, hub, monkeypatch):
    for _ in range(3):
        assert agent.run() == 0
    fill(agent, monkeypatch, 2)
    assert [file.name[:12] for file in agent.waiting()] == ["000000000001", "000000000002"]


def test_a_torn_file_is_ignored_and_removed_when_it_is_old(agent: Agent, hub):
    agent.run()
    torn = agent.state / "spool" / ".000000000007-0badcafe.json"
    torn.write_text('{"server')
    agent.run()
    assert torn.exists()
    for written in (0, 2**32):  # the clock may have been wrong either way
        torn.write_text('{"server')
        os.utime(torn, (written, written))
        agent.run()
        assert not torn.exists()
    assert stored(hub) == agent.attempted


# F6, F9, F10: answers that are none


@pytest.mark.parametrize("fault", ["lose_ack", "cut_ack"])
def test_an_ack_lost_after_the_commit_is_a_duplicate_on_retry(agent: Agent, hub, monkeypatch, fault: str):
    with Proxy(hub.url) as proxy:
        agent.back(proxy, monkeypatch)
        proxy.faults.append(fault)
        assert agent.run() == 75
        assert proxy.fired == [fault]
        assert len(agent.waiting()) == 1
        assert agent.run() == 0
    assert hub.outcomes == ["accepted", "accepted", "duplicate"]
    assert sorted(stored(hub)) == agent.attempted
    assert agent.waiting() == []


def test_an_ack_lost_for_a_whole_batch_is_all_duplicates_on_retry(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 40)
    with Proxy(hub.url) as proxy:
        agent.back(proxy, monkeypatch)
        proxy.faults += ["", "lose_ack", "lose_ack"]
        assert agent.run() == 0
        assert proxy.fired == ["lose_ack", "lose_ack"]
    assert hub.outcomes.count("accepted") == 41
    assert sorted(stored(hub)) == agent.attempted
    assert agent.waiting() == []


@pytest.mark.parametrize("fault", ["portal", "empty", "cut_ack", "reset"])
def test_nothing_is_deleted_without_an_ack(agent: Agent, hub, monkeypatch, fault: str):
    fill(agent, monkeypatch, 3)
    with Proxy(hub.url) as proxy:
        agent.back(proxy, monkeypatch)
        proxy.faults += [fault]
        assert agent.run() == 75
        proxy.faults += ["", fault, fault, fault, fault, fault]
        assert agent.run() == 75
        assert fault in proxy.fired
        assert len(agent.waiting()) == 4
        proxy.faults.clear()
        assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted
    assert agent.waiting() == []


@pytest.mark.parametrize(
    "results",
    [[], [{"outcome": "accepted"}] * 4, [{"outcome": "maybe"}] * 3, [None] * 3, ["accepted"] * 3, [{}] * 3, {}],
)
def test_a_batch_answer_that_names_no_outcome_deletes_nothing(agent: Agent, hub, monkeypatch, results: object):
    fill(agent, monkeypatch, 3)
    agent.back(hub, monkeypatch)
    hub.script += [lambda handler: handler.answer_honestly(), answer(200, {"status": "ok", "results": results})]
    assert agent.run() == 75
    assert len(agent.waiting()) == 3
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted


def test_a_batch_that_is_too_large_on_the_way_is_halved_until_it_passes(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 64)
    size = len(agent.waiting()[0].read_bytes())
    with Proxy(hub.url) as proxy:
        agent.back(proxy, monkeypatch)
        proxy.largest_body = 12 * size
        assert agent.run() == 0
        assert "reset" in proxy.fired
    assert sorted(stored(hub)) == agent.attempted
    assert max(map(len, batches(hub))) < 12


def test_a_batch_the_hub_calls_too_large_is_halved_and_the_smaller_size_is_remembered(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 32)
    agent.back(hub, monkeypatch)
    hub.script += [lambda handler: handler.answer_honestly(), answer(413, b""), answer(413, b""), answer(500, b"")]
    assert agent.run() == 75
    assert hub.fired[1:] == ["answer_413", "answer_413", "answer_500"]
    agent.run()
    assert 2 <= len(batches(hub)[0]) <= 4  # an eighth of the 32
    assert sorted(stored(hub)) == agent.attempted


def test_one_heartbeat_alone_too_large_for_the_hub_is_set_aside(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 1)
    agent.back(hub, monkeypatch)
    hub.script += [lambda handler: handler.answer_honestly(), answer(413, b"")]
    assert agent.run() == 69
    assert (len(agent.waiting()), len(agent.rejected())) == (0, 1)


# F12: the hub wants to be left alone


def test_a_refused_key_is_tried_again_slowly_and_nothing_is_lost(agent: Agent, hub, monkeypatch):
    hub.key = "hl_another"
    codes = [agent.run() for _ in range(21)]
    assert codes == [77] * 21
    assert 2 <= len(hub.keys) <= 3
    hub.key = homelab_agent.os.environ["HOMELAB_KEY"]
    agent.clock.pass_time(660)
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted


def test_another_key_ends_the_pause_at_once(agent: Agent, hub, monkeypatch):
    hub.key = "hl_rotated"
    assert agent.run() == 77
    monkeypatch.setenv("HOMELAB_KEY", "hl_rotated")
    assert agent.run() == 0


@pytest.mark.parametrize("status", [429, 503, 507])
@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "150"},
        {"Retry-After": "Sun, 01 Mar 2020 06:32:30 GMT", "Date": "Sun, 01 Mar 2020 06:30:00 GMT"},
    ],
)
def test_retry_after_is_honoured_by_the_runs_to_come(agent: Agent, hub, capsys, status: int, headers: dict):
    def busy(handler) -> None:
        handler.send_response_only(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()

    hub.script.append(busy)
    assert [agent.run(), agent.run(), agent.run()] == [75, 75, 75]
    assert len(hub.keys) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [agent.run(), agent.run()][-1] == 0
    assert sorted(stored(hub)) == agent.attempted


def test_a_reboot_ends_a_pause(agent: Agent, hub):
    hub.script.append(answer(503, b"", {"Retry-After": "3000"}))
    assert agent.run() == 75
    agent.clock.boot = "1d0cd8d2-5b3c-4a53-93e5-3f1f3f2f8e11"
    assert agent.run() == 0


@pytest.mark.parametrize("value", ["99999999999", "-5", "soon", "", "1e9", "²", "Sun, 01 Mar 2999 06:32:30 GMT"])
def test_a_retry_after_that_makes_no_sense_stops_nothing_for_long(agent: Agent, hub, value: str):
    hub.script.append(answer(503, b"", {"Retry-After": value.encode().decode("latin-1")}))
    assert agent.run() == 75
    agent.clock.pass_time(4000)
    assert agent.run() == 0


# F13: poison


def test_one_poison_item_in_a_batch_of_60_is_set_aside_and_59_are_accepted(agent: Agent, hub, monkeypatch, capsys):
    fill(agent, monkeypatch, 60)
    capsys.readouterr()
    bad = agent.attempted[31]
    hub.poison = lambda heartbeat: heartbeat["uptime"] == bad
    agent.back(hub, monkeypatch)
    assert agent.run() == 69
    assert hub.outcomes.count("rejected") == 1
    assert sorted(stored(hub)) == [uptime for uptime in agent.attempted if uptime != bad]
    (file,) = agent.rejected()
    assert json.loads(file.read_bytes().split(b" ", 1)[1])["uptime"] == bad
    assert "the hub rejected 1" in capsys.readouterr().err
    assert agent.run() == 0
    assert hub.received[-1][1]["agent_stats"]["rejected"] == 1


def test_the_newest_may_be_poison_too(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 2)
    agent.back(hub, monkeypatch)
    hub.poison = lambda heartbeat: heartbeat["uptime"] == agent.attempted[-1]
    assert agent.run() == 69
    assert (stored(hub), len(agent.rejected())) == (agent.attempted[:2], 1)


def test_a_batch_refused_as_a_whole_for_one_item_is_taken_apart(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 8)
    agent.back(hub, monkeypatch)
    bad = agent.attempted[5]

    def strict(handler) -> None:
        bodies = json.loads(handler.data).get("heartbeats", [])
        if any(heartbeat["uptime"] == bad for heartbeat in bodies):
            handler.say(400, VALIDATION_ERROR)
        else:
            handler.answer_honestly()

    hub.script += [strict] * 20
    assert agent.run() == 69
    assert sorted(stored(hub)) == [uptime for uptime in agent.attempted if uptime != bad]
    assert (len(agent.waiting()), len(agent.rejected())) == (0, 1)


@pytest.mark.parametrize("status", [400, 404, 405, 415])
def test_a_hub_that_refuses_everything_costs_no_heartbeat(agent: Agent, hub, status: int):
    hub.script += [answer(status, {"type": "client_error", "errors": []})] * 3
    assert [agent.run() for _ in range(3)] == [69] * 3
    assert len(agent.waiting()) == 3
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted


def test_only_the_last_hundred_rejected_are_kept(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 120)
    agent.back(hub, monkeypatch)
    hub.poison = lambda heartbeat: True
    assert agent.run() == 69
    assert (len(agent.waiting()), len(agent.rejected())) == (0, homelab_agent.MAX_REJECTED)


# F17: corrupt files


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(b"rx_bytes") + 11] ^= 1
    file.write_bytes(data)


def replace_by(make) -> object:
    def corrupt(file: Path) -> None:
        file.unlink()
        make(file)

    return corrupt


CORRUPTIONS = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 40),
    "flipped byte": flip_a_byte,
    "zero length": lambda file: os.truncate(file, 0),
    "huge": lambda file: os.truncate(file, 2**31),
    "symbolic link": replace_by(lambda file: file.symlink_to("/etc/passwd")),
    "dangling link": replace_by(lambda file: file.symlink_to("nowhere")),
    "FIFO": replace_by(os.mkfifo),
    "directory": replace_by(lambda file: (file / "below").mkdir(parents=True)),
    "whole JSON of something else": lambda file: file.write_bytes(b"%08x [1]\n" % homelab_agent.zlib.crc32(b"[1]")),
    "deep nesting": lambda file: file.write_bytes(
        b"%08x %s\n" % (homelab_agent.zlib.crc32(b"[" * 100_000), b"[" * 100_000)
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_file_is_set_aside_and_the_rest_flows(agent: Agent, hub, monkeypatch, corruption: str):
    fill(agent, monkeypatch, 5)
    victim = agent.waiting()[2]
    CORRUPTIONS[corruption](victim)
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted[:2] + agent.attempted[3:]
    assert agent.waiting() == []
    assert [file.name for file in agent.rejected()] == [victim.name]


def test_a_foreign_file_in_the_spool_is_set_aside(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 2)
    (agent.state / "spool" / "zzz notes.txt").write_text("hello")
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted
    assert [file.name for file in agent.rejected()] == ["zzz notes.txt"]


def test_a_directory_among_the_rejected_is_removed_in_its_turn(agent: Agent, monkeypatch):
    monkeypatch.setattr(homelab_agent, "MAX_REJECTED", 1)
    spool = Spool(str(agent.state), 10)
    spool.prepare()
    for name in ("1", "2"):
        (agent.state / "spool" / name / "below").mkdir(parents=True)
        spool.set_aside(name)
    assert [file.name for file in agent.rejected()] == ["2"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"sent": "many", "pause": {}}', '{"pause": [1]}', "\0" * 512, '{"batch_bytes": -5}'],
)
def test_a_corrupt_state_counts_as_none(agent: Agent, hub, monkeypatch, text: str):
    fill(agent, monkeypatch, 3)
    (agent.state / "state").write_text(text)
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted


# F21: clocks


@pytest.mark.parametrize("wall", [datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(2016, 3, 1, tzinfo=timezone.utc)])
def test_a_wall_clock_years_off_changes_neither_order_nor_age(agent: Agent, hub, monkeypatch, wall: datetime):
    right = agent.clock.wall
    agent.clock.wall = wall
    fill(agent, monkeypatch, 3)
    agent.clock.wall = right
    fill(agent, monkeypatch, 3)
    agent.clock.wall = wall + timedelta(days=9000)
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert stored(hub) == [agent.attempted[-1], *agent.attempted[:-1]]
    for heartbeat in hub.stored.values():
        age = heartbeat["sent_uptime"] - heartbeat["uptime"]
        assert age == pytest.approx(agent.clock.up - heartbeat["uptime"], abs=0.001)


def test_a_step_back_between_collecting_and_sending_does_not_show_in_the_age(agent: Agent, hub):
    up = iter([500.0, 502.0])
    agent.clock.uptime = lambda: next(up, 502.0)  # type: ignore[method-assign]
    walls = iter([datetime(2026, 3, 1, tzinfo=timezone.utc)])
    agent.clock.now = lambda: next(walls, datetime(2016, 3, 1, tzinfo=timezone.utc))  # type: ignore[method-assign]
    assert agent.run() == 0
    (heartbeat,) = hub.stored.values()
    assert heartbeat["timestamp"].startswith("2026-03-01T00:00:00")
    assert heartbeat["sent_uptime"] - heartbeat["uptime"] == 2.0


def test_a_frozen_wall_clock_loses_nothing(agent: Agent, hub, monkeypatch):
    frozen = agent.clock.wall
    agent.clock.now = lambda: frozen  # type: ignore[method-assign]
    fill(agent, monkeypatch, 4)
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert sorted(stored(hub)) == agent.attempted


def test_what_was_kept_through_a_reboot_is_sent_without_an_age(agent: Agent, hub, monkeypatch):
    fill(agent, monkeypatch, 2)
    agent.clock.boot, agent.clock.up = "1d0cd8d2-5b3c-4a53-93e5-3f1f3f2f8e11", 10.0
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    assert [("sent_uptime" in h, h["uptime"]) for h in hub.stored.values()] == [
        (True, 70.0),
        (False, agent.attempted[0]),
        (False, agent.attempted[1]),
    ]


# F22: counters that go back


def rx(hub: HonestHub) -> list[tuple[str, int, int | None]]:
    return [(i["name"], i["rx_bytes"], i.get("ifindex")) for h in hub.stored.values() for i in h["network_interfaces"]]


def test_counters_go_out_as_they_are_after_reset_wrap_recreation_and_rename(agent: Agent, machine: FakeMachine, hub):
    header = machine.net_dev.read_text().split("eth0")[0].rstrip(" ")
    for name, bytes_, ifindex in (
        ("eth0", 4_294_967_290, 2),
        ("eth0", 10, 2),  # a 32-bit counter wrapped, or a driver was reset: the hub can tell, the agent must not try
        ("eth0", 5, 7),  # made again under its name
        ("lan0", 6, 7),  # renamed
    ):
        machine.net_dev.write_text(header)
        machine.interface(name, rx=(bytes_, 1, 0, 0), operstate="up", ifindex=ifindex)
        assert agent.run() == 0
    assert rx(hub) == [("eth0", 4_294_967_290, 2), ("eth0", 10, 2), ("eth0", 5, 7), ("lan0", 6, 7)]


# F24: the state directory is deleted, or copied


def test_without_its_state_directory_the_agent_starts_afresh(agent: Agent, hub):
    assert agent.run() == 0
    shutil.rmtree(agent.state)
    assert agent.run() == 0
    assert stored(hub) == agent.attempted


def test_the_state_directory_may_vanish_during_a_run(agent: Agent, hub, monkeypatch):
    add = Spool.add

    def add_then_vanish(self, heartbeat, waiting=()):
        name = add(self, heartbeat, waiting)
        shutil.rmtree(agent.state)
        return name

    monkeypatch.setattr(Spool, "add", add_then_vanish)
    assert agent.run() == 0
    assert stored(hub) == agent.attempted


def test_a_clone_that_sends_the_same_spool_again_doubles_nothing(agent: Agent, hub, monkeypatch, tmp_path):
    fill(agent, monkeypatch, 5)
    shutil.copytree(agent.state, tmp_path / "clone")
    agent.back(hub, monkeypatch)
    assert agent.run() == 0
    monkeypatch.setenv("HOMELAB_STATE_DIR", str(tmp_path / "clone"))
    assert agent.run() == 0
    assert hub.outcomes.count("duplicate") == 5
    assert sorted(stored(hub)) == agent.attempted


# whose spool it is


def test_a_state_directory_of_another_user_is_78(agent: Agent, hub):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    agent.run()
    os.chown(agent.state / "spool", 12345, 12345)
    assert agent.run() == 78


def test_a_state_directory_that_is_a_file_is_78(agent: Agent):
    agent.state.write_text("")
    assert agent.run() == 78


def test_a_loop_keeps_one_connection_and_beats_at_its_interval(agent: Agent, hub, monkeypatch):
    beats = iter(range(4))

    def sleep(seconds: float) -> None:
        if seconds > 0.5 and next(beats, None) is None:
            raise KeyboardInterrupt
        agent.clock.pass_time(10)

    connections = []
    setup = hub.server.RequestHandlerClass.setup
    monkeypatch.setattr(hub.server.RequestHandlerClass, "setup", lambda self: (connections.append(1), setup(self))[1])
    monkeypatch.setattr(homelab_agent.time, "sleep", sleep)
    assert homelab_agent.main(["--loop", "10"], clock=agent.clock) == 0
    assert (len(connections), len(hub.stored)) == (1, 5)
    assert {heartbeat["interval"] for heartbeat in hub.stored.values()} == {10}


def test_a_loop_takes_up_a_new_key_from_the_env_file(agent: Agent, hub, monkeypatch, tmp_path):
    env_file = tmp_path / "agent.env"
    env_file.write_text("HOMELAB_KEY=hl_old\n")
    env_file.chmod(0o600)
    monkeypatch.delenv("HOMELAB_KEY")
    beats = iter(range(2))

    def sleep(seconds: float) -> None:
        if seconds > 0.5:
            if next(beats, None) is None:
                raise KeyboardInterrupt
            agent.clock.pass_time(10)
            env_file.write_text(f"HOMELAB_KEY={hub.key}\n")

    monkeypatch.setattr(homelab_agent.time, "sleep", sleep)
    assert homelab_agent.main(["--loop", "10"], clock=agent.clock) == 0
    assert len(hub.stored) == 3
