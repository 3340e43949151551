"""The documentation is true: links lead somewhere, lists are complete, the worked example is what the code says."""

import argparse
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import BaseCommand, load_command_class
from django.urls import Resolver404, resolve

from agent import homelab_agent
from metrics.counters import MARKS, Reading, measure, step, unroll
from metrics.history import Series, interfaces_of, series, usage
from metrics.ingest import ingest
from metrics.models import Interface, to_ms
from metrics.periods import parse_step
from metrics.readings import readings
from metrics.seal import tick
from metrics.serializers import parse_heartbeat
from servers.models import KeyKind

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXT = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}


def tables(page: str) -> list[list[dict[str, str]]]:
    """Return the tables of a page, each as rows by the names of its columns."""
    found = re.findall(r"(?:^\|.*\n)+", TEXT[page], re.MULTILINE)
    return [list(_rows([_cells(line) for line in table.splitlines()])) for table in found]


def table(page: str, *columns: str) -> list[dict[str, str]]:
    return next(rows for rows in tables(page) if set(columns) <= set(rows[0]))


def _rows(lines: list[list[str]]) -> Iterator[dict[str, str]]:
    for cells in lines[2:]:
        yield dict(zip(lines[0], cells, strict=True))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


# Links, files, addresses


@pytest.mark.parametrize("page", TEXT)
def test_every_link_leads_to_a_file(page: str):
    links = re.findall(r"\]\(([^)#]+)|(?:src|srcset)=\"([^\"]+)\"", TEXT[page])
    local = [link or source for link, source in links if not (link or source).startswith("http")]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_every_file_that_is_named_exists(page: str):
    named = re.findall(r"`((?:agent|docs|homelab|metrics|servers|static|templates|\.ci)/[\w./]*)`", TEXT[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_rooms_of_the_architecture_have_their_modules():
    modules = [
        name for row in table("docs/architecture.md", "module") for name in re.findall(r"`(\w+)`", row["module"])
    ]
    assert modules
    assert [name for name in modules if not (ROOT / "metrics" / f"{name}.py").exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_every_path_of_the_api_is_one(page: str):
    text = re.sub(r"\{(\w+)\}", r"\1", TEXT[page])  # the name of a parameter will do for its value
    paths = set(re.findall(r"(?<![\w/.])(/api/(?:v1/[\w/-]+|schema|docs)|/metrics)(?=[\s`?'\"])", text))
    assert [path for path in paths if not is_route(path)] == []


def is_route(path: str) -> bool:
    try:
        return resolve(path).url_name is not None
    except Resolver404:
        return False


# Settings and commands


def test_every_setting_of_the_hub_is_listed_with_its_default():
    source = (ROOT / "homelab" / "settings.py").read_text()
    defaults = dict(re.findall(r"env(?:\.\w+)?\(\"(\w+)\", default=([^\s)]+|\[.*?\])\)", source))
    listed = {row["variable"].strip("`"): row["default"].strip("`") for row in table("docs/settings.md", "default")}
    assert set(listed) == set(re.findall(r"env(?:\.\w+)?\(\"(\w+)\"", source))
    numbers = {name: value for name, value in defaults.items() if value.isdigit()}
    assert {name: listed[name] for name in numbers} == numbers


def test_every_setting_of_the_agent_is_listed_with_its_flag():
    source = inspect.getsource(homelab_agent.Settings)
    names = {name.upper() for name in re.findall(r"\b(?:setting|number)\(\"(\w+)\"", source)}
    listed = {row["variable"].strip("`"): row["flag"].strip("`") for row in table("docs/settings.md", "flag")}
    assert set(listed) == {f"HOMELAB_{name}" for name in names} | {"HOMELAB_ENROL_KEY"}
    flags = set(homelab_agent.arguments()._option_string_actions)
    expected = {name: f"--{name.removeprefix('HOMELAB_').lower().replace('_', '-')}" for name in listed}
    assert listed == {name: flag if flag in flags else "" for name, flag in expected.items()}


def our_commands() -> dict[str, argparse.ArgumentParser]:
    paths = ROOT.glob("*/management/commands/[a-z]*.py")
    return {path.stem: load_command_class(path.parts[-4], path.stem).create_parser("", path.stem) for path in paths}


def test_every_command_is_described():
    headings = re.findall(r"^## (\w+)$", TEXT["docs/commands.md"], re.MULTILINE)
    assert sorted(headings) == sorted(our_commands())


@pytest.mark.parametrize("name", our_commands())
def test_every_option_of_a_command_is_listed_with_its_default(name: str):
    section = re.split(r"^## ", TEXT["docs/commands.md"].split(f"## {name}\n")[1], flags=re.MULTILINE)[0]
    listed = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*?) \|", section, re.MULTILINE))
    actions = our_commands()[name]._option_string_actions
    of_django = BaseCommand().create_parser("", name)._option_string_actions
    ours = {flag: action for flag, action in actions.items() if flag not in of_django}
    assert set(listed) == set(ours)
    numbers = {flag: f"`{action.default}`" for flag, action in ours.items() if type(action.default) is int}
    assert {flag: listed[flag] for flag in numbers} == numbers


def test_every_kind_of_key_is_explained():
    assert {row["kind"].strip("`") for row in table("docs/heartbeat.md", "kind", "may")} == set(KeyKind.values)


def test_the_fields_of_the_heartbeat_are_those_that_the_hub_knows(golden: dict[str, Any]):
    fields = set(re.findall(r"`(\w+)`", TEXT["docs/heartbeat.md"]))
    assert set(golden) | {name for interface in golden["network_interfaces"] for name in interface} <= fields


# The worked example

DAY = datetime(2026, 3, 1, tzinfo=UTC)
READINGS = table("docs/history.md", "counter", "C")


def at(time: str) -> datetime:
    hours, minutes = map(int, time.split(":"))
    return DAY + timedelta(hours=hours, minutes=minutes)


def number(text: str) -> float | None:
    return None if text == "null" else float(text.replace(",", ""))


@pytest.fixture(params=["waiting in the log", "sealed"])
def eth0(request: pytest.FixtureRequest, db: None, heartbeat) -> Interface:
    """The interface of the example, whose heartbeats wait in the log, or are sealed."""
    started = {"a": at("10:00"), "b": at("18:20")}
    for row in READINGS:
        instant = at(row["time"])
        uptime = (instant - started[row["boot"]]).total_seconds()
        counters = {"rx_bytes": int(number(row["counter"])), "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0}
        body = heartbeat(
            boot_id=row["boot"], uptime=uptime, sent_uptime=uptime, interval=600, timestamp=instant.isoformat(),
            network_interfaces=[{"name": "eth0", "is_up": True, **counters}],
        )  # fmt: skip
        ingest(parse_heartbeat(body), may_register=True, now=instant)
    if request.param == "sealed":
        assert tick(now=at("23:00"))["sealed"] == len(READINGS)
    return interfaces_of("nas", "eth0")[0]


def asked(eth0: Interface, start: str, end: str, text: str, zone: str = "UTC") -> Series:
    return series([eth0], at(start), at(end), parse_step(text), ZoneInfo(zone))


def test_the_increases_of_the_example_add_up(eth0: Interface):
    (line,) = unroll(readings([eth0], to_ms(at("17:00")), to_ms(at("20:00")))[eth0.pk])
    unrolled = [int(number(row["C"])) for row in READINGS]
    assert list(line.total["rx_bytes"]) == unrolled
    assert [after - before for before, after in zip([0, *unrolled], unrolled, strict=False)] == [
        int(number(row["increase"])) for row in READINGS
    ]
    marks = {index: row["mark"] for index, row in enumerate(READINGS) if row["mark"]}
    assert {index: MARKS[mark] for index, mark in line.marks.items()} == marks


def test_what_passed_between_any_instants_of_the_example(eth0: Interface):
    rows = table("docs/history.md", "from", "to", "passed")
    edges = [to_ms(at(rows[0]["from"])), *[to_ms(at(row["to"])) for row in rows]]
    lines = unroll(readings([eth0], edges[0], edges[-1])[eth0.pk])
    assert measure(lines, edges).sums["rx_bytes"] == [number(row["passed"]) for row in rows]
    assert sum(number(row["passed"]) for row in rows) == 5_640_000


def test_the_hours_of_the_example(eth0: Interface):
    rows = table("docs/history.md", "hour")
    found = asked(eth0, rows[0]["hour"], "21:00", "1h")
    for name in ("rx_bytes", "covered_seconds", "rx_rate", "rx_peak"):
        assert getattr(found, name) == [number(row[name]) for row in rows], name
    assert [" ".join(marks) for marks in found.marks] == [row["marks"] for row in rows]
    assert found.resets == [0, 0, 1, 0, 0]


def test_the_days_of_the_example(eth0: Interface):
    rows = table("docs/history.md", "day in Asia/Kolkata")
    found = asked(eth0, "17:00", "21:00", "1d", "Asia/Kolkata")
    assert [f"{start.astimezone(ZoneInfo('Asia/Kolkata')):%Y-%m-%d}" for start in found.start] == [
        row["day in Asia/Kolkata"] for row in rows
    ]
    for name in ("rx_bytes", "covered_seconds", "rx_rate"):
        assert getattr(found, name) == [number(row[name]) for row in rows], name
    assert [" ".join(marks) for marks in found.marks] == [row["marks"] for row in rows]
    used = usage([eth0], at("17:00"), at("21:00"), parse_step("1d"), ZoneInfo("Asia/Kolkata"), by_server=False)
    assert [row.rx_p95 for row in used] == [number(row["rx_p95"]) for row in rows]
    assert asked(eth0, "0:00", "23:00", "1d").rx_bytes == [5_640_000]


def test_the_wrap_of_the_page():
    a = Reading(0, 1, 0, 60_000, 1, 2, 1000, 4_294_967_000, 0, 10, 0)
    b = a._replace(at=60_000, rx_bytes=704, rx_packets=11)
    passed = step(a, b)
    assert (passed.increases[0], MARKS[passed.marks]) == (1000, "wrap")
