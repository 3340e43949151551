"""F18: a chunk, a heartbeat of the log or a page of the database is corrupt."""

import re
import sqlite3
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
import requests

from homelab.tests.faults.audit import HOUR_MS, instant_of, text_of
from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.hub import wait_for

DAY = 86_400
PAGE = 4096
CHUNKS = """
SELECT chunk.{column}, chunk.interface_id, chunk.start FROM metrics_chunk chunk
JOIN metrics_interface interface ON interface.id = chunk.interface_id
WHERE interface.server_id = 'nas' AND interface.name = 'eth0' AND length(chunk.{column}) > 0
"""
INTERFACE = "SELECT id FROM metrics_interface WHERE server_id = 'nas' AND name = 'eth0'"
ROOT_PAGE = "SELECT rootpage FROM sqlite_master WHERE name = 'metrics_chunk'"
WAITING = "SELECT server_id, count(*) FROM metrics_heartbeat GROUP BY 1 ORDER BY 1"
BEATS = "SELECT readings, uptime_ms FROM metrics_heartbeat WHERE server_id = 'nas' ORDER BY uptime_ms"


@pytest.fixture
def machines(hub: BreakableHub) -> list[Machine]:
    """Two servers with a day and a half of heartbeats, all of it sealed but the current hour, and a few held back."""
    now = time.time()
    machines = [Machine(name, started=now - 30 * DAY) for name in ("nas", "pi")]
    for machine in machines:
        for ago in range(36 * 60, -1, -10):
            machine.collect(now - 60 * ago)
        for beat in machine.waiting()[5::50]:
            machine.acknowledged.add(beat.number)  # held back
        held_back = set(machine.acknowledged)
        hub.drain([machine])
        machine.acknowledged -= held_back
    hub.run("tick")
    return machines


@pytest.mark.parametrize("column", ["readings", "hours"])
def test_a_flipped_byte_in_a_chunk_is_an_error_that_names_it(hub: BreakableHub, machines, tally, column: str):
    nas = machines[0]
    before = answers(hub, nas)
    hub.kill()
    chunks = hub.rows(CHUNKS.format(column=column))
    for data, interface, start in chunks:
        flipped = bytearray(data)
        flipped[len(flipped) // 2] ^= 1
        write(
            hub,
            f"UPDATE metrics_chunk SET {column} = %s WHERE interface_id = %s AND start = %s",
            flipped,
            interface,
            start,
        )
    hub.start()
    tally.note(flipped_bytes=len(chunks))
    named = re.compile(rf"The chunk of nas eth0 from ({'|'.join(str(start) for *_, start in chunks)})")
    assert_named(hub, nas, before, named)
    assert_the_others_go_on(hub, machines)


def test_a_flipped_digit_in_the_log_is_an_error_that_names_the_heartbeat(hub: BreakableHub, machines, tally):
    nas, pi = machines
    for machine in machines:
        for second in range(1, 10):
            machine.collect(time.time() - 10 + second)
    hub.drain(machines)
    before = answers(hub, nas)
    hub.kill()
    beats = hub.rows(BEATS)
    for text, uptime in beats:
        place = [match.start() for match in re.finditer(r"\d", text[:-8])][-1]
        changed = f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}"
        write(
            hub,
            "UPDATE metrics_heartbeat SET readings = %s WHERE server_id = 'nas' AND uptime_ms = %s",
            changed,
            uptime,
        )
    hub.start()
    tally.note(flipped_digits=len(beats))
    named = re.compile(r"The heartbeat of nas at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d is damaged")
    assert_named(hub, nas, before, named)
    assert hub.auditor().compare([pi]) == (0, 0)


@sqlite_only
def test_a_corrupt_page_is_an_error_and_the_hub_says_that_it_is_not_well(hub: BreakableHub, machines, tally):
    nas, _ = machines
    before = answers(hub, nas)
    assert hub.stop()[0] == 0
    ((page,),) = hub.rows(ROOT_PAGE)
    with (hub.data / "homelab.sqlite3").open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * 100)
    hub.start()
    tally.note(corrupt_pages=1)
    assert_named(hub, nas, before, re.compile("malformed|is damaged"))
    assert wait_for(lambda: hub.get("/api/v1/system/health").json() == {"status": "damaged"}, seconds=10)
    assert hub.get("/api/v1/system/health").status_code == 503
    assert "The database is damaged: database disk image is malformed" in hub.said()


def get(hub: BreakableHub, path: str, **query: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {hub.read}"}
    return requests.get(f"http://{hub.address}{path}", query, headers=headers, timeout=30)


def answers(hub: BreakableHub, machine: Machine) -> dict[str, requests.Response]:
    """Ask for the whole time of a machine in all ways, so that all of its chunks are read."""
    beats = list(machine.attempted.values())
    start, end = instant_of(machine, beats[0]) // HOUR_MS * HOUR_MS, instant_of(machine, beats[-1]) // HOUR_MS * HOUR_MS
    window = {"start": text_of(start), "end": text_of(end + HOUR_MS)}
    series = f"/api/v1/metrics/history/{machine.server_id}/network"
    return {
        **{step: get(hub, series, interface="eth0", step=step, **window) for step in ("10m", "1h", "1d")},
        "export": get(hub, "/api/v1/metrics/export", server=machine.server_id, format="ndjson", **window),
        "usage": get(hub, "/api/v1/metrics/usage", by="interface", server=machine.server_id, period="day", **window),
    }


def assert_named(
    hub: BreakableHub, machine: Machine, before: dict[str, requests.Response], named: re.Pattern[str]
) -> None:
    """Each answer is right, or an error that names what is damaged; most need it."""
    after = answers(hub, machine)
    errors = {what: answer for what, answer in after.items() if answer.status_code != 200}
    assert "export" in errors or "1h" in errors
    assert len(errors) >= 2
    for what, answer in errors.items():
        assert answer.status_code == 500, (what, answer.text)
        (error,) = answer.json()["errors"]
        assert (error["code"], bool(named.search(error["detail"]))) == ("damaged", True), (what, answer.text)
    for what in after.keys() - errors.keys():
        assert after[what].text == before[what].text, what
    period = "" if "10m" in errors else "?period=30d"  # of readings, or of hours
    ((interface,),) = hub.rows(INTERFACE)
    page = hub.sign_in().get(f"http://{hub.address}/admin/metrics/interface/{interface}/change/{period}", timeout=30)
    assert page.status_code == 500
    assert named.search(page.text), page.text
    assert named.search(hub.said())


def assert_the_others_go_on(hub: BreakableHub, machines: list[Machine]) -> None:
    """What comes late is sealed for the one server; the log keeps it for the other, whose chunks are damaged."""
    _, pi = machines
    late = {machine.server_id: len(machine.waiting()) for machine in machines}
    assert all(late.values())
    before = dict(hub.rows(WAITING))
    hub.drain(machines)
    hub.run("tick")
    assert hub.rows(WAITING) == [("nas", before["nas"] + late["nas"]), ("pi", before["pi"])]
    hub.auditor().check(pi)


def write(hub: BreakableHub, query: str, *values: Any) -> None:
    """Change a database whose hub does not run."""
    if ON_POSTGRESQL:
        with psycopg.connect(hub.environment["DATABASE_URL"]) as database:
            database.execute(query, values)
    else:
        with closing(sqlite3.connect(hub.data / "homelab.sqlite3")) as database, database:
            database.execute(query.replace("%s", "?"), values)
