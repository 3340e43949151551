"""100 heartbeats a second of 8 interfaces each, while the hub seals, prunes, is backed up and browsed.

`python -m homelab.tests.load`, for LOAD_SECONDS (600), on SQLite, or on the PostgreSQL of DATABASE_URL. Says how long
answers took, of a hub that is idle before and after, and of one under load, and how much memory it has. Fails when an
answer is no 2xx, or too slow.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path

import psutil

from homelab.tests.faults.hubs import ON_POSTGRESQL, BreakableHub, Origin, drop
from homelab.tests.faults.machines import Machine
from homelab.tests.herd import Agent, post

SECONDS = float(os.environ.get("LOAD_SECONDS", "600"))
HEARTBEATS_PER_SECOND = 100
INTERFACES = [f"eth{number}" for number in range(8)]
IDLE_SECONDS = max(5.0, SECONDS / 20)
IDLE_PER_SECOND = 5
LATE_BATCH = 60  # heartbeats of a completed hour: the tick has them to seal
LATE_EVERY = 5.0  # seconds, so that each minute twelve hours of a server are due; more would be more than 100 a second
PAGE_EVERY = 3.0  # seconds between two pages of a person, or two calls of a reader
DAY = 86_400
MOST = {"p95": 0.2, "p99": 0.5}
MOST_GROWTH = 1.2  # of the memory, from the middle to the end


class Answers:
    """How long answers took, in seconds, and with which status."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.slowest: dict[str, float] = {}

    def note(self, status: int, seconds: float, what: str = "") -> None:
        self.statuses[status] += 1
        self.seconds.append(seconds)
        self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]

    def failed(self) -> int:
        return sum(times for status, times in self.statuses.items() if not 200 <= status < 300)

    def line(self, what: str, idle: "Answers | None" = None) -> str:
        figures = [self.percentile(percent) for percent in (50, 95, 99)]
        milliseconds = " ".join(f"{1000 * figure:8.1f}" for figure in figures)
        ratio = f"{figures[0] / idle.percentile(50):6.2f}" if idle else "      "
        return f"{what:<28} {len(self.seconds):>7,} {self.failed():>7} {milliseconds} {ratio}"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="homelab-load-") as folder:
        (Path(folder) / "origin").mkdir()
        origin = Origin(Path(folder) / "origin")
        try:
            with origin.copy(Path(folder) / "hub", HOMELAB_THROTTLE="on") as hub:
                return measure(hub)
        finally:
            if origin.database:
                drop(origin.database)


def measure(hub: BreakableHub) -> int:
    now = time.time()
    machines = [Machine(f"machine-{number:03}", started=now - DAY, interfaces=INTERFACES) for number in range(100)]
    keys = hub.make_agent_keys([machine.server_id for machine in machines])
    agents = [agent(machine, key) for machine, key in zip(machines, keys, strict=True)]
    give_it_a_past(hub, now)
    before = asyncio.run(send(hub, agents, IDLE_PER_SECOND, IDLE_SECONDS))
    memory = [resident(hub)]
    with beside(hub) as (pages, late, jobs):
        under = asyncio.run(send(hub, agents, HEARTBEATS_PER_SECOND, SECONDS / 2))
        memory.append(resident(hub))
        second = asyncio.run(send(hub, agents, HEARTBEATS_PER_SECOND, SECONDS / 2))
        memory.append(resident(hub))
    under.seconds += second.seconds
    under.statuses += second.statuses
    after = asyncio.run(send(hub, agents, IDLE_PER_SECOND, IDLE_SECONDS))
    report(before, under, after, pages, late, jobs, memory)
    failed = sum(answers.failed() for answers in (before, under, after, pages, late))
    slow = [name for name, most in MOST.items() if under.percentile(float(name[1:])) > most]
    grown = memory[2] / memory[1]
    is_good = not failed and not slow and grown < MOST_GROWTH and all(jobs.values())
    print(f"{'holds' if is_good else 'FAILS'}: {failed} not 2xx; too slow: {' '.join(slow) or 'none'}")
    return 0 if is_good else 1


def report(
    before: Answers,
    under: Answers,
    after: Answers,
    pages: Answers,
    late: Answers,
    jobs: Counter[str],
    memory: list[int],
) -> None:
    print(f"Load on {'PostgreSQL' if ON_POSTGRESQL else 'SQLite'}, for {SECONDS:.0f} s; milliseconds")
    print(f"{'':<28} {'answers':>7} {'not 2xx':>7} {'p50':>8} {'p95':>8} {'p99':>8} p50/idle")
    print(before.line("heartbeats, idle before"))
    print(under.line("heartbeats, under load", before))
    print(after.line("heartbeats, idle after", before))
    print(pages.line("pages and readers, under load"))
    print(late.line(f"batches of {LATE_BATCH}, under load"))
    for path, seconds in sorted(pages.slowest.items(), key=lambda each: -each[1]):
        print(f"  slowest of {path}: {1000 * seconds:.0f} ms")
    print("beside it: " + ", ".join(f"{times:,} {what}" for what, times in jobs.items()))
    start, middle, end = (f"{each / 2**20:.0f}" for each in memory)
    print(
        f"memory: {start} MiB at the start, {middle} in the middle, {end} at the end, {memory[2] / memory[1]:.2f} times"
    )


def agent(machine: Machine, key: str) -> Agent:
    return Agent(key, lambda: machine.body(machine.collect(time.time())))


def give_it_a_past(hub: BreakableHub, now: float) -> None:
    """Have it seal readings of 40 days ago, and start again with a retention that they are past."""
    past = Machine("past", started=now - 60 * DAY, interfaces=INTERFACES)
    for minute in range(2000):
        past.collect(now - 40 * DAY + 60 * minute)
    hub.drain([past])
    hub.run("tick")
    hub.stop()
    hub.environment["HOMELAB_RETENTION_READINGS_DAYS"] = "30"
    hub.start()


async def send(hub: BreakableHub, agents: list[Agent], per_second: float, seconds: float) -> Answers:
    """Send so many heartbeats a second, each when it is due however slow the others are. Time runs from then."""
    answers, began = Answers(), time.monotonic()

    async def one(agent: Agent, due: float) -> None:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        try:
            status, *_ = await post(hub.address, agent)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            status = 0
        answers.note(status, time.monotonic() - due)

    async with asyncio.TaskGroup() as tasks:
        for number, of in zip(range(int(per_second * seconds)), cycle(agents), strict=False):
            due = began + number / per_second
            await asyncio.sleep(max(due - time.monotonic(), 0))
            tasks.create_task(one(of, due))
    return answers


@contextmanager
def beside(hub: BreakableHub) -> Iterator[tuple[Answers, Answers, Counter[str]]]:
    """Browse, deliver what came late, and back up, over and over, until the block is over."""
    pages, late, over = Answers(), Answers(), threading.Event()
    jobs = Counter({"backups": 0, "heartbeats sealed": 0})
    works = [browsing(hub, pages), delivering(hub, late), backing_up(hub, jobs)]

    def loop(work: Callable[[], None], pause: float) -> None:
        while not over.wait(pause):
            work()

    with ThreadPoolExecutor(len(works)) as threads:
        loops = [threads.submit(loop, *work) for work in works]
        try:
            yield pages, late, jobs
        finally:
            over.set()
        for each in loops:
            each.result()
    hub.run("tick")
    jobs["heartbeats sealed"] = late.statuses[200] * LATE_BATCH - late_in_log(hub)


def browsing(hub: BreakableHub, answers: Answers) -> tuple[Callable[[], None], float]:
    session = hub.sign_in()
    reader = {"Authorization": f"Bearer {hub.read}"}
    ((interface,),) = hub.rows("SELECT min(id) FROM metrics_interface WHERE server_id = 'machine-001'")
    paths = cycle([
        "/admin/", "/admin/servers/server/", "/admin/servers/server/machine-001/change/",
        f"/admin/metrics/interface/{interface}/change/", "/api/v1/servers", "/metrics",
        "/api/v1/metrics/sparkline/machine-002/network?period=1h&interface=eth0",
        "/api/v1/metrics/top?window=24h&limit=10",
    ])  # fmt: skip

    def browse() -> None:
        path = next(paths)
        began = time.monotonic()
        answer = session.get(f"http://{hub.address}{path}", headers={} if "admin" in path else reader, timeout=30)
        answers.note(answer.status_code, time.monotonic() - began, path)

    return browse, PAGE_EVERY


def delivering(hub: BreakableHub, answers: Answers) -> tuple[Callable[[], None], float]:
    machine = Machine("late", started=time.time() - 25 * DAY, interfaces=INTERFACES)
    minutes, sender = count(), hub.sender()

    def deliver() -> None:
        beats = [machine.collect(machine.started + DAY + 60 * next(minutes)) for _ in range(LATE_BATCH)]
        began = time.monotonic()
        answers.note(sender.send(machine, beats), time.monotonic() - began)

    return deliver, LATE_EVERY


def late_in_log(hub: BreakableHub) -> int:
    return hub.rows("SELECT count(*) FROM metrics_heartbeat WHERE server_id = 'late'")[0][0]


def backing_up(hub: BreakableHub, jobs: Counter[str]) -> tuple[Callable[[], None], float]:
    command = hub.manage("backup", str(hub.data / "backup"), "--overwrite")

    def back_up() -> None:
        subprocess.run(command, env=hub.environment, check=True, capture_output=True)
        jobs["backups"] += 1

    return back_up, min(SECONDS / 5, 60.0)


def resident(hub: BreakableHub) -> int:
    return psutil.Process(hub.process.pid).memory_info().rss


if __name__ == "__main__":
    sys.exit(main())
