"""Every figure that the documentation claims, measured beside its baseline in the same run.

A query is asked again and again, as a page on a screen does: the figure is the median, and the first time is told too.

Absolute times say more about the machine than about the code; the ratios are what counts.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from itertools import islice
from typing import TextIO
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from tqdm import tqdm

from homelab import demo
from metrics import seal
from metrics.counters import COUNTERS
from metrics.models import Chunk, Heartbeat, Interface, from_ms
from servers.models import ApiKey, KeyKind, Server

YEAR_SERVER = "year"
ROUNDS = 5
HEARTBEATS = 200  # a round
BATCH = 60
QUERIES = 60
CLIENTS = 2
HUB = """
import sys, django
from django.conf import settings
settings.ROOT_URLCONF = "homelab.benchmark_hub"
django.setup()
from homelab import serve
serve.run(sys.argv[1], with_agent=False, with_tick=False, out=sys.stderr)
"""


@dataclass(frozen=True)
class Figure:
    """One line of the table. `ratio` is figure / baseline; `goal` says what it should be."""

    what: str
    figure: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: str = ""


def run(*, servers: int, interfaces: int, days: int, out: TextIO) -> list[Figure]:
    """Measure on the database of the settings, which must be empty. Progress goes to `out`."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    call_command("migrate", verbosity=0)
    with tqdm(total=6, desc="Benchmark", file=out) as progress:

        def step(name: str) -> None:
            progress.set_postfix_str(name)
            progress.update()

        empty = _database_bytes()
        step("history of the fleet")
        demo.build(servers=servers, interfaces=interfaces, days=days, now=now, out=out)
        seal.merge(now=now + timedelta(days=14))
        step("size")
        figures = [_size(empty)]
        step("a year of one interface, and a day to seal")
        demo.build_server(YEAR_SERVER, interfaces=1, days=365, now=now)
        seal.merge(now=now)
        figures.append(_seal_cost(now))
        with _hub() as port:
            step("heartbeats")
            figures += _heartbeats(port, interfaces, now)
            step("queries")
            figures += _queries(port, now)
        step("done")
    return figures


def table(figures: list[Figure]) -> str:
    """Return the figures as lines of text."""
    lines = [f"{'what':<52} {'figure':>12} {'baseline':>12} {'ratio':>8}  goal"]
    for figure in figures:
        baseline = f"{figure.baseline:,.2f}" if figure.baseline is not None else ""
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        what = f"{figure.what} ({figure.unit})"
        lines.append(f"{what:<52} {figure.figure:>12,.2f} {baseline:>12} {ratio:>8}  {figure.goal}")
    return "\n".join(lines)


def as_json(figures: list[Figure]) -> str:
    return json.dumps([asdict(figure) for figure in figures], indent=2)


@contextmanager
def temporary_environment() -> Iterator[dict[str, str]]:
    """Give an environment whose hub has an empty database of the engine in use, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-") as folder:
        environment = {**os.environ, "HOMELAB_DATA_DIR": folder, "HOMELAB_THROTTLE": "off"}
        if connection.vendor == "sqlite":
            environment["DATABASE_URL"] = f"sqlite:///{folder}/benchmark.sqlite3"
            yield environment
            return
        name = f"homelab_benchmark_{os.getpid()}"
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        try:
            environment["DATABASE_URL"] = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
            yield environment
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _size(empty: int) -> Figure:
    """Compare all bytes of the database with those of a row per reading, for the same readings."""
    readings = sum(Chunk.objects.values_list("count", flat=True))
    per_reading = (_database_bytes() - empty) / readings
    return _figure(
        "bytes a reading, all in, sealed and merged", per_reading, "B", _baseline_size(), goal="<= 6.0, <= 0.05 x"
    )


def _baseline_size() -> float:
    from homelab.benchmark_hub import BaselineReading

    with connection.schema_editor() as editor:
        editor.create_model(BaselineReading)
    before = _database_bytes()
    total = 0
    for chunk in Chunk.objects.filter(count__gt=0).select_related("interface")[:40]:
        columns = chunk.get_readings()
        BaselineReading.objects.bulk_create(
            (
                BaselineReading(
                    server_id=chunk.interface.server_id,
                    interface=chunk.interface.name,
                    at=from_ms(at),
                    is_up=bool(columns["link"][row]),
                    **{name: columns[name][row] for name in COUNTERS},
                )
                for row, at in enumerate(columns["at"])
            ),
            batch_size=500,
        )
        total += chunk.count
    return (_database_bytes() - before) / total


def _database_bytes() -> int:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute(
                "SELECT (page_count - freelist_count) * page_size"
                " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
            )
        else:
            connection.ensure_connection()
            cursor.execute("VACUUM FULL")
            cursor.execute("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind IN ('r', 'm')")
        return int(cursor.fetchone()[0])


def _seal_cost(now: datetime) -> Figure:
    """Time sealing and merging of one day of ten interfaces, hour by hour as the tick does it."""
    demo.build_server("sealing", interfaces=10, days=1, now=now, in_log=True)
    day = now.replace(hour=0)
    started = time.perf_counter()
    for hour in range(26):
        seal.seal("sealing", now=day + timedelta(hours=hour) - timedelta(days=1))
    seal.seal("sealing", now=now + timedelta(hours=2))
    seal.merge(now=now + timedelta(days=14))
    spent = (time.perf_counter() - started) * 1000
    assert not Heartbeat.objects.filter(server="sealing").exists()  # noqa: S101 - nothing measured otherwise
    return _figure("sealing hour by hour and merging, an interface-day", spent / 10, "ms")


def _heartbeats(port: int, interfaces: int, now: datetime) -> list[Figure]:
    """Count durable heartbeats a second over HTTP, ours and the baseline's in turn."""
    key = ApiKey.objects.make(KeyKind.SHARED, label="benchmark")[1]
    bodies, usual_bodies = _bodies("load", 20, interfaces, now), _bodies("load-usual", 20, interfaces, now)
    backlog = _bodies("load-backlog", 1, interfaces, now)
    ours, baseline, batched = [], [], []
    _post(port, key, "/api/v1/agents/heartbeat", list(islice(bodies, HEARTBEATS)))  # every server becomes known
    for _ in range(ROUNDS):
        _settle()
        ours.append(_post(port, key, "/api/v1/agents/heartbeat", list(islice(bodies, HEARTBEATS))))
        _settle()
        baseline.append(_post(port, key, "/baseline/heartbeat", list(islice(usual_bodies, HEARTBEATS))))
        _settle()
        batches = [
            b'{"heartbeats":[' + b",".join(islice(backlog, BATCH)) + b"]}" for _ in range(HEARTBEATS // BATCH * 3)
        ]
        batched.append(BATCH * _post(port, key, "/api/v1/agents/heartbeats", batches))
    usual = statistics.median(baseline)
    return [
        _figure(
            f"heartbeats of {interfaces} interfaces, one a request", statistics.median(ours), "/s", usual, ">= 2 x"
        ),
        _figure(f"heartbeats in batches of {BATCH}", statistics.median(batched), "/s", usual, ">= 3,000/s"),
    ]


def _settle() -> None:
    """Let nobody pay for what another has left in SQLite's log."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _bodies(name: str, servers: int, interfaces: int, now: datetime) -> Iterator[bytes]:
    """Yield heartbeats of some servers in turn, a minute apart."""
    for number in range(10**9):
        minute, server = divmod(number, servers)
        uptime = 1000.0 + 60 * minute  # a backlog of the boot that still runs
        report = {
            "server_id": f"{name}-{server}",
            "hostname": f"{name}-{server}",
            "timestamp": now.isoformat(),
            "boot_id": "b0",
            "uptime": uptime,
            "sent_uptime": 10_000_000,
            "network_interfaces": [
                {"name": demo.role(index).name, "is_up": True, "ifindex": index + 1}
                | dict.fromkeys(COUNTERS, (10000 + index) * (number + 1))
                for index in range(interfaces)
            ],
        }
        yield json.dumps(report).encode()


def _post(port: int, key: str, path: str, bodies: list[bytes]) -> float:
    """Post the bodies over a few connections. Return how many a second."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    failures: list[str] = []

    def client(share: list[bytes]) -> None:
        http = HTTPConnection("127.0.0.1", port, timeout=60)
        for body in share:
            http.request("POST", path, body, headers)
            answer = http.getresponse()
            text = answer.read()
            if answer.status != 200:
                failures.append(f"{path}: {answer.status} {text[:200]!r}")

    threads = [threading.Thread(target=client, args=(bodies[index::CLIENTS],)) for index in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    return len(bodies) / (time.perf_counter() - started)


def _queries(port: int, now: datetime) -> list[Figure]:
    """Time what the pages ask, each in turn with a call that answers nothing."""
    key = ApiKey.objects.make(KeyKind.READ, label="benchmark")[1]
    server = Server.objects.exclude(id__startswith="load-").exclude(id__in=(YEAR_SERVER, "sealing")).first()
    assert server is not None  # noqa: S101 - the fleet was just written

    def history(of: str, step: str, days: float) -> str:
        start = now - timedelta(days=days)
        query = {"interface": "eth0", "start": start.isoformat(), "end": now.isoformat(), "step": step}
        return f"/api/v1/metrics/history/{of}/network?{urlencode(query)}"

    ranking = {"window": "24h", "limit": 10}
    paths = {
        "sparkline 1 h": (f"/api/v1/metrics/sparkline/{server.id}/network?period=1h&interface=eth0", 3),
        "history 24 h by 5 m": (history(server.id, "5m", 1), 3),
        "history 7 d by 1 h": (history(server.id, "1h", 7), 3),
        "history 30 d by 1 h": (history(server.id, "1h", 30), 3),
        "history 12 months by 1 d": (history(YEAR_SERVER, "1d", 365), 10),
        f"top 10 of {Interface.objects.count()} interfaces, 24 h": (f"/api/v1/metrics/top?{urlencode(ranking)}", 3),
    }
    http = HTTPConnection("127.0.0.1", port, timeout=60)
    figures = []
    for what, (path, goal) in paths.items():
        first = _get(http, key, path)
        ours, bare = [], []
        for _ in range(QUERIES):
            bare.append(_get(http, key, "/baseline/bare"))
            ours.append(_get(http, key, path))
        usual = statistics.median(bare)
        figures.append(_figure(what, statistics.median(ours), "ms", usual, f"<= {goal} x"))
        figures.append(_figure("  asked for the first time", first, "ms", usual))
    return figures


def _get(http: HTTPConnection, key: str, path: str) -> float:
    started = time.perf_counter()
    http.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = http.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {text[:200]!r}")
    return (time.perf_counter() - started) * 1000


def _figure(what: str, figure: float, unit: str, baseline: float | None = None, goal: str = "") -> Figure:
    ratio = figure / baseline if baseline else None
    return Figure(what, figure, unit, baseline, ratio, goal)


@contextmanager
def _hub() -> Iterator[int]:
    """Run the hub on one core; the clients keep to the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    command = [sys.executable, "-c", HUB, f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, cwd=settings.BASE_DIR, stderr=subprocess.DEVNULL)
    try:
        if len(cores) > 1:
            os.sched_setaffinity(process.pid, {cores[0]})
            os.sched_setaffinity(0, set(cores[1:]))
        _wait_for(port)
        yield port
    finally:
        if len(cores) > 1:
            os.sched_setaffinity(0, set(cores))
        process.terminate()
        process.wait(timeout=20)


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("The benchmark's hub did not start.")
