"""F19: the database is held by a process that is stuck."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine, Sender
from homelab.tests.hub import ROOT, wait_for

TIMEOUT = 20.0  # of SQLite, in the settings
SLACK = 5.0  # on top, until it is answered
WRITERS = 8  # as many as the hub has threads
OURS = """
import time
from django.db import connection, transaction
with transaction.atomic():
    print("held", flush=True)
    time.sleep(600)
"""
ANOTHERS = """
import sqlite3, sys, time
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""
HOLD_SNAPSHOT = "SELECT * FROM servers_snapshot WHERE server_id = 'nas' FOR UPDATE"


@pytest.fixture
def nas(hub: BreakableHub) -> Machine:
    machine = Machine("nas", started=time.time() - 86_400)
    machine.collect(time.time())
    hub.drain([machine])
    return machine


@sqlite_only
def test_heartbeats_are_refused_while_a_stuck_process_holds_it_and_stored_once_it_dies(start_hub, patience, tally):
    """Of the one hub a thread waits for a program that takes no turn, of the other all threads for one of ours."""
    one, other = start_hub(), start_hub()
    nas, *machines = [Machine(f"machine-{number}", started=time.time() - 86_400) for number in range(1 + WRITERS)]
    foreign = [sys.executable, "-c", ANOTHERS, str(one.data / "homelab.sqlite3")]
    with stuck(one, foreign) as holder, stuck(other, other.manage("shell", "-v0", "-c", OURS)) as holder_of_other:
        attempts = [Attempt(one, nas), *(Attempt(other, machine) for machine in machines)]
        assert max(time_to_read(one) for _ in range(20)) < patience
        for attempt in attempts:
            attempt.join()
        assert {(attempt.status, attempt.retry_after) for attempt in attempts} == {(503, "5")}
        assert max(attempt.seconds for attempt in attempts) < TIMEOUT + SLACK * patience
        again = [Attempt(other, machine) for machine in machines]
        assert max(time_to_read(other) for _ in range(10)) < 2 * patience, "once it is known, nobody waits long"
        for attempt in again:
            attempt.join()
        assert {attempt.status for attempt in again} == {503}
        for hub, process in ((one, holder), (other, holder_of_other)):
            assert wait_for(lambda of=hub: of.get("/api/v1/system/health").json() == {"status": "busy"}, seconds=10)
            assert hub.get("/api/v1/system/health").status_code == 503
            process.kill()
            process.wait()
    tally.note(stuck_processes=2)
    for hub, of_hub in ((one, [nas]), (other, machines)):
        began = time.monotonic()
        assert hub.sender().send(of_hub[0], of_hub[0].waiting()) == 200
        assert time.monotonic() - began < 2 * patience, "back at once"
        hub.drain(of_hub)
        for machine in of_hub:
            hub.auditor().check(machine, steps=["1h"])


@pytest.mark.skipif(not ON_POSTGRESQL, reason="locks one row")
def test_a_stuck_transaction_holds_up_its_own_server_only(hub: BreakableHub, nas: Machine, patience, tally):
    pi = Machine("pi", started=time.time() - 86_400)
    with psycopg.connect(hub.environment["DATABASE_URL"]) as holder:
        holder.execute(HOLD_SNAPSHOT)
        slow = Attempt(hub, nas)
        for _ in range(20):
            pi.collect(time.time())
            began = time.monotonic()
            hub.drain([pi])
            assert time.monotonic() - began < patience
            assert time_to_read(hub) < patience
        slow.join()
        assert (slow.status, slow.retry_after) == (503, "5")
        assert slow.seconds < TIMEOUT + SLACK * patience
        holder.rollback()
        began = time.monotonic()
        assert hub.sender().send(nas, nas.waiting()) == 200
        assert time.monotonic() - began < 2 * patience, "back at once"
    tally.note(stuck_transactions=1, lost=hub.auditor().compare([nas, pi])[0])
    for machine in (nas, pi):
        hub.auditor().check(machine, steps=["1h"])


@contextmanager
def stuck(hub: BreakableHub, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command until it says that it holds the database, and stop it there; it is killed in the end."""
    with subprocess.Popen(command, cwd=ROOT, env=hub.environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            os.kill(holder.pid, signal.SIGSTOP)
            yield holder
        finally:
            holder.kill()


class Attempt(threading.Thread):
    """Sends a heartbeat, and notes what became of it."""

    def __init__(self, hub: BreakableHub, machine: Machine) -> None:
        super().__init__()
        self.sender = Sender(hub.address, hub.shared, patience=60)
        self.machine = machine
        self.beat = machine.collect(time.time())
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        http = self.sender.http
        http.request("POST", "/api/v1/agents/heartbeat", json.dumps(self.machine.body(self.beat)), self.sender.headers)
        answer = http.getresponse()
        answer.read()
        self.status, self.retry_after = answer.status, answer.headers["Retry-After"]
        self.seconds = time.monotonic() - began


def time_to_read(hub: BreakableHub) -> float:
    began = time.monotonic()
    hub.auditor().get("/api/v1/servers")
    return time.monotonic() - began
