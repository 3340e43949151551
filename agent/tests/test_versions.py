"""F30, the agent's share: a hub that is older or newer than the agent costs no heartbeat.

The hub's share, older agents, is in homelab/tests/test_versions.py.
"""

from __future__ import annotations

import json

import pytest

from agent.tests.conftest import Agent
from agent.tests.hub import SERVER_TIME, Handler, HonestHub, answer

NO_SUCH_CALL = {"type": "client_error", "errors": [{"code": "not_found", "detail": "Not found.", "attr": None}]}


@pytest.fixture
def backlog(agent: Agent, hub: HonestHub, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent with five heartbeats waiting, and the hub back."""
    agent.away(monkeypatch)
    assert [agent.run() for _ in range(5)] == [75] * 5
    agent.back(hub, monkeypatch)
    return agent


def stored(hub: HonestHub) -> list[float]:
    return [heartbeat["uptime"] for heartbeat in hub.stored.values()]


def calls(hub: HonestHub) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in hub.received]


def before_batches(handler: Handler) -> None:
    """The first hub of this project: one heartbeat a call."""
    if handler.path.endswith("/heartbeats"):
        handler.say(404, NO_SUCH_CALL)
    else:
        handler.answer_honestly()


def before_outcomes(handler: Handler) -> None:
    """The hub of HomelabCmd, which this project took the wire from."""
    if handler.path.endswith("/heartbeats"):
        handler.say(404, {"detail": "Not Found"})
    else:
        handler.say(200, {"status": "ok", "server_registered": False, "pending_commands": []})


def of_the_future(handler: Handler) -> None:
    """A later hub: fields that this agent does not know, wherever there is room for one."""
    body = json.loads(handler.data)
    more = {"protocol": 2, "advice": {"interval": 10}, "server_time": SERVER_TIME}
    if handler.path.endswith("/heartbeats"):
        results = [{**handler.hub.ingest(heartbeat), "stored_as": [1]} for heartbeat in body["heartbeats"]]
        handler.say(200, {"status": "ok", "results": results, **more})
    else:
        handler.say(200, {"status": "ok", **handler.hub.ingest(body), **more}, {"X-Protocol": "2"})


def test_a_hub_without_the_batch_call_gets_the_backlog_one_by_one_oldest_first(backlog: Agent, hub, capsys):
    capsys.readouterr()
    hub.script += [before_batches] * 7
    assert backlog.run() == 0
    assert calls(hub) == ["heartbeat"] * 6
    assert stored(hub) == [backlog.attempted[-1], *backlog.attempted[:-1]]
    assert (backlog.waiting(), capsys.readouterr().err) == ([], "")


def test_what_such_a_hub_rejects_is_set_aside_and_the_rest_flows(backlog: Agent, hub):
    bad = backlog.attempted[2]
    hub.poison = lambda heartbeat: heartbeat["uptime"] == bad
    hub.script += [before_batches] * 7
    assert backlog.run() == 69
    assert sorted(stored(hub)) == [uptime for uptime in backlog.attempted if uptime != bad]
    assert (len(backlog.waiting()), len(backlog.rejected())) == (0, 1)


@pytest.mark.parametrize("trouble", [answer(503, b""), answer(404, NO_SUCH_CALL), answer(200, b"<html>")])
def test_one_by_one_too_nothing_is_deleted_without_an_outcome(backlog: Agent, hub, trouble):
    hub.script += [before_batches, before_batches, before_batches, trouble]
    assert backlog.run() in {69, 75}
    assert len(backlog.waiting()) == 4
    assert backlog.run() == 0
    assert sorted(stored(hub)) == backlog.attempted


def test_a_hub_that_learns_batches_gets_them_again(backlog: Agent, hub):
    hub.script += [before_batches] * 3
    hub.script.append(answer(503, b""))
    assert backlog.run() == 75
    hub.received.clear()
    assert backlog.run() == 0
    assert "heartbeats" in calls(hub)
    assert sorted(stored(hub)) == backlog.attempted


def test_an_ack_that_names_no_outcome_is_none_and_all_is_kept_for_the_hub_to_come(backlog: Agent, hub, capsys):
    hub.script += [before_outcomes] * 3
    capsys.readouterr()
    assert [backlog.run() for _ in range(3)] == [75] * 3
    assert len(hub.keys) == 3, "each heartbeat was sent once, and the backlog left alone"
    assert len(backlog.waiting()) == 8
    assert capsys.readouterr().err.count("the hub may be older than this agent") == 3
    assert backlog.run() == 0
    assert sorted(stored(hub)) == backlog.attempted
    assert backlog.waiting() == []


def test_fields_that_a_newer_hub_adds_to_its_answers_are_ignored(backlog: Agent, hub, capsys):
    capsys.readouterr()
    hub.script += [of_the_future] * 2
    assert backlog.run() == 0
    assert len(hub.keys) == 2
    assert stored(hub) == [backlog.attempted[-1], *backlog.attempted[:-1]]
    assert (backlog.waiting(), capsys.readouterr().err) == ([], "")


def test_an_outcome_that_a_newer_hub_invents_is_none(backlog: Agent, hub):
    invented = {"status": "ok", "outcome": "deferred"}
    hub.script += [answer(200, invented)]
    assert backlog.run() == 75
    results = [invented] * 3 + [{"outcome": "accepted"}] * 3
    hub.script += [Handler.answer_honestly, answer(200, {"status": "ok", "results": results})]
    assert backlog.run() == 75
    assert len(backlog.waiting()) == 3
