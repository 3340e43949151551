"""F28: seal, prune, backup and migrate under load, each killed anywhere."""

import sqlite3
import threading
import time
from contextlib import closing
from itertools import count, cycle, islice
from pathlib import Path
from random import Random

import pytest

from homelab.postgresql.dump import migrations
from homelab.tests.faults.conftest import ALL_ROUNDS, ROUNDS
from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, sqlite_only
from homelab.tests.faults.machines import Machine
from homelab.tests.hub import environment

DAY = 86_400
SENDERS = 2
PAUSE = 0.02
RETENTION_DAYS = 20
MIGRATED = "SELECT count(*) FROM django_migrations WHERE app IN ('servers', 'metrics', 'homelab')"
MIGRATE = ("migrate", "-v0")
SEALED_LONG_AGO = "SELECT count(*) FROM metrics_chunk WHERE days = 7 AND readings IS NOT NULL"


def test_jobs_that_are_killed_finish_when_they_run_again(hub: BreakableHub, rounds, patience, tally):
    chance = Random(28)
    now = time.time()
    past, late = (Machine(name, started=now - 90 * DAY) for name in ("past", "late"))
    for hour in range(24 * 60, 24 * 40, -1):
        past.collect(now - hour * 3600)
    hub.drain([past])
    hub.run("tick")
    backup = hub.data / "backup"
    jobs = [("tick",), ("backup", str(backup), "--overwrite")]
    lengths = {job: time_of(hub, job) for job in jobs}
    minutes = iter(range(19 * 24 * 60, 0, -1))
    hub.environment["HOMELAB_RETENTION_READINGS_DAYS"] = str(RETENTION_DAYS)  # of the jobs: they prune, too
    kills = 0
    with Load(hub) as load:
        for job in islice(cycle(jobs), len(jobs) * rounds(100)):
            killed, length = False, lengths[job]
            while not killed:
                for minute in islice(minutes, 60):
                    late.collect(now - minute * 60)
                hub.drain([late])
                process = hub.begin(*job)
                time.sleep(chance.uniform(0.3, 1.1) * length)
                process.kill()
                killed = process.wait() < 0
                process.stdout.close()
                assert not backup.exists() or is_whole(backup)
                load.check()
                length *= 0.9  # where it ended before the kill
            kills += killed
        for job in jobs:
            hub.run(*job)
    lost, twice = hub.auditor().compare([late, *load.machines])
    tally.note(job_kills=kills, heartbeats=len(load.seconds), lost=lost, twice=twice)
    load.seconds.sort()
    assert load.seconds[int(0.99 * len(load.seconds))] < patience
    assert hub.rows(SEALED_LONG_AGO) != [(0,)]  # of `late`; those of `past` are past their retention
    hub.auditor().check(late, steps=["1h"])
    for machine in load.machines:
        hub.auditor().check(machine, steps=["1h"])
    assert is_whole(backup)
    assert not list(hub.data.glob("*.part*"))
    hub.assert_intact()


@sqlite_only
@pytest.mark.skipif(ROUNDS < ALL_ROUNDS, reason="one kill tells little: the whole run does it")
def test_a_migration_that_is_killed_is_finished_by_the_next(hub: BreakableHub, rounds, tally, tmp_path: Path):
    chance = Random(29)
    migrated = hub.rows(MIGRATED)
    length, kills, attempts = 0.0, 0, count()
    while kills < rounds(100):
        hub.data = tmp_path / f"empty-{next(attempts)}"
        hub.environment = environment(hub.data)
        if not length:
            length = time_of(hub, MIGRATE)
            (hub.data / "homelab.sqlite3").unlink()
        process = hub.begin(*MIGRATE)
        time.sleep(length * chance.uniform(0.3, 0.9))
        process.kill()
        kills += process.wait() < 0
        process.stdout.close()
        hub.run(*MIGRATE)
        assert hub.rows(MIGRATED) == migrated
        hub.assert_intact()
    tally.note(job_kills=kills)


class Load:
    """Threads that send each a heartbeat, again and again, and note how long each took."""

    def __init__(self, hub: BreakableHub) -> None:
        self.machines = [Machine(f"load-{number}", started=time.time() - DAY) for number in range(SENDERS)]
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.send, args=(hub, machine)) for machine in self.machines]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def check(self) -> None:
        assert self.statuses <= {200}

    def send(self, hub: BreakableHub, machine: Machine) -> None:
        sender = hub.sender()
        while not self.over.wait(PAUSE):
            beat = machine.collect(time.time())
            began = time.monotonic()
            self.statuses.add(sender.send(machine, [beat]))
            self.seconds.append(time.monotonic() - began)


def time_of(hub: BreakableHub, job: tuple[str, ...]) -> float:
    began = time.monotonic()
    hub.run(*job)
    return time.monotonic() - began


def is_whole(backup: Path) -> bool:
    if ON_POSTGRESQL:
        return bool(migrations(backup))  # to know these it reads all
    with closing(sqlite3.connect(f"file:{backup}?mode=ro", uri=True)) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
