"""Random histories, told by the real path and by the oracle: every number is the same, whenever it was sealed.

`EXACTNESS_HISTORIES` says how many histories the file tries in all.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from metrics import memory
from metrics.counters import COUNTERS, Buckets
from metrics.history import Series, series, standings, top, totals, usage
from metrics.increases import bytes_between, increases
from metrics.ingest import Report, ingest
from metrics.models import Interface, from_ms, to_ms
from metrics.periods import parse_step
from metrics.seal import merge, seal, tick
from metrics.steady import MOST_LATE
from metrics.tests import oracle

pytestmark = pytest.mark.django_db

HISTORIES = int(os.environ.get("EXACTNESS_HISTORIES", "200"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
LATEST = to_ms(datetime(2027, 6, 1, tzinfo=UTC))

ZONES = ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin"]
STEPS = ["raw", "1m", "5m", "7m", "90m", "1h", "5h", "1d", "1month"]
DAYS = parse_step("1d")
BEGINNINGS = [
    datetime(2026, 1, 31, 22, 58, tzinfo=UTC),
    datetime(2026, 3, 8, 4, 50, tzinfo=UTC),  # a Sunday; summer time begins in St. John's
    datetime(2026, 3, 28, 23, 10, tzinfo=UTC),  # and in Berlin
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),  # it ends there
    datetime(2026, 12, 30, 23, 59, 59, 999_000, tzinfo=UTC),
]


# The oracle, by hand


def simple(seconds: int, rx_bytes: int, **changes: Any) -> oracle.Reading:
    return oracle.Reading(seconds * SECOND, (rx_bytes, 0, 0, 0, -1, -1, -1, -1), **{"boot": 1, **changes})


def in_buckets(readings: list[oracle.Reading], *edges: int) -> list[int | None]:
    steps = oracle.steps_of(readings)
    known = [oracle.bucket(steps, since * SECOND, until * SECOND) for since, until in pairwise(edges)]
    return [bucket and bucket.increases[0] for bucket in known]


def test_by_hand_bytes_pass_in_proportion_to_time_and_nothing_is_known_outside():
    assert in_buckets([simple(60, 100), simple(0, 0)], -20, 0, 20, 40, 60, 80) == [None, 33, 33, 34, None]


@pytest.mark.parametrize(
    ("a", "b", "increase", "marks"),
    [
        (simple(0, 1000), simple(60, 1500), 500, set()),
        (simple(0, 1000), simple(60, 40), 40, {"reset"}),
        (simple(0, 1000), simple(60, 9000, boot=2), 9000, {"reset"}),
        (simple(0, 1000), simple(60, 9000, boot=0), 8000, set()),
        (simple(0, 1000, ifindex=2), simple(60, 9000, ifindex=7), 9000, {"reset"}),
        (simple(0, 1000, uptime=90_000), simple(60, 40, uptime=70_000), 0, {"reset"}),
        (simple(0, 2**32 - 100, speed=1000), simple(60, 50, speed=1000), 150, {"wrap"}),
        (simple(0, 2**32 - 100), simple(60, 50), 50, {"reset"}),
        (simple(0, 2**32 - 100, speed=1000), simple(601, 50, speed=1000), 50, {"reset", "gap"}),
        (simple(0, 0, speed=1), simple(60, 8_250_001, speed=1), 8_250_001, {"suspect"}),
        (simple(0, 0), simple(151, 1), 1, {"gap"}),
    ],
)
def test_by_hand_of_one_step(a: oracle.Reading, b: oracle.Reading, increase: int, marks: set[str]):
    (step,) = oracle.steps_of([a, b])
    assert (step.increases[0], step.marks) == (increase, marks)


def test_by_hand_two_boots_at_once_are_added():
    readings = [simple(0, 100), simple(60, 10, boot=2), simple(120, 300), simple(180, 25, boot=2)]
    assert in_buckets(readings, 0, 180) == [200 + 10 + 15]


def test_by_hand_a_reset_counts_where_it_ends_and_marks_what_it_spans():
    steps = oracle.steps_of([simple(0, 100), simple(60, 40, link=0), simple(120, 100)])
    before, across, after = (
        oracle.bucket(steps, *(edge * SECOND for edge in of)) for of in [(0, 30), (30, 90), (90, 120)]
    )
    assert (before.increases[0], before.resets, before.marks, before.covered) == (20, 0, {"reset"}, 0)
    assert (across.increases[0], across.resets, across.marks, across.covered) == (20 + 30, 1, {"reset"}, 30_000)
    assert (after.increases[0], after.resets, after.marks, after.up) == (30, 0, set(), 0)
    assert (across.rates[0], across.peaks[0]) == (1.0, 1)


def test_by_hand_days_and_months_of_a_zone():
    berlin = oracle.days("Europe/Berlin", *(to_ms(datetime(2026, 3, day, tzinfo=UTC)) for day in (28, 31)))
    assert [from_ms(at).isoformat()[5:16] for at in berlin] == ["03-28T23:00", "03-29T22:00", "03-30T22:00"]
    months = oracle.months("UTC", to_ms(datetime(2026, 1, 1, tzinfo=UTC)), to_ms(datetime(2026, 5, 1, tzinfo=UTC)), 31)
    assert [from_ms(at).isoformat()[5:10] for at in months] == ["01-31", "02-28", "03-31", "04-30"]


# What agents send


@dataclass(frozen=True)
class Beat:
    """One heartbeat, as what changed since the one before it."""

    after: int  # ms
    event: str = ""
    passed: int = 0  # bytes of eth0
    late: int = 0  # ms until it arrives
    again: int = 0  # ms until it arrives a second time; 0: never
    leaves_out: str = ""
    clone: bool = False  # sent by a second machine that runs at the same time under the same name
    then: str = ""  # what the hub does when it has arrived


@dataclass(frozen=True)
class History:
    begins: datetime
    interval: int
    speed: int
    is_32_bit: bool
    names_boots: bool
    beats: list[Beat]


@dataclass
class Machine:
    number: int
    started: int
    boot: str = ""
    boots: int = 0
    rollbacks: int = 0
    ifindex: int = 2
    link: int = 1
    speed: int = -1
    counters: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    arrives: int
    report: Report
    readings: dict[str, oracle.Reading]
    then: str


EVENTS = ["reboot", "hidden reboot", "driver reset", "bytes reset", "re-created", "link", "speed", "rolled back"]
THEN = ["seal", "seal ahead", "merge", "merge ahead", "tick", "compare"]


def rarely(values: list[Any], usual: Any, share: int) -> st.SearchStrategy[Any]:
    """`usual`, and once in `share` one of the values."""
    return st.integers(0, share - 1).flatmap(lambda roll: st.sampled_from(values) if roll == 1 else st.just(usual))


@st.composite
def elapses(draw: st.DrawFn, interval: int) -> int:
    kind = draw(st.integers(0, 15))
    if kind < 9:
        return interval
    if kind == 9:
        return draw(st.sampled_from([interval * 5 // 2, interval * 5 // 2 + 1, 10 * MINUTE, 10 * MINUTE + 1]))
    if kind == 10:
        return draw(st.integers(1, 3 * interval))
    longest = {11: 15 * MINUTE, 12: 3 * HOUR, 13: 30 * HOUR, 14: 5 * DAY, 15: 25 * DAY}[kind]
    return draw(st.integers(1, longest))


@st.composite
def histories(draw: st.DrawFn, *, has_clone: bool = False) -> History:
    """`has_clone`: a second machine under the same name; both speak every few minutes."""
    interval = draw(st.sampled_from([10 * SECOND, MINUTE] if has_clone else [10 * SECOND, MINUTE, 20 * MINUTE, HOUR]))
    in_order = draw(st.booleans())
    beat = st.builds(
        Beat,
        after=st.integers(1, 2 * interval) if has_clone else elapses(interval),
        event=rarely(EVENTS if in_order else EVENTS[:-1], "", 5),
        passed=st.one_of(st.integers(0, 10**6), st.sampled_from([0, 1, 2**28, 2**31, 2**33, 2**45])),
        late=st.just(0) if in_order else rarely([MINUTE, HOUR, 30 * HOUR, 9 * DAY, 20 * DAY], 0, 4),
        again=st.just(0) if in_order else rarely([1, HOUR, 10 * DAY], 0, 6),
        leaves_out=rarely(["errors", "drops", "optional", "ifindex", "eth0", "eth1", "all", "boot"], "", 6),
        clone=st.booleans() if has_clone else st.just(False),
        then=rarely(THEN, "", 5),
    )
    return History(
        begins=draw(st.sampled_from(BEGINNINGS)),
        interval=interval,
        speed=draw(st.sampled_from([-1, 1, 100, 1000])),
        is_32_bit=draw(st.booleans()),
        names_boots=draw(st.integers(0, 5)) != 1,
        beats=draw(st.lists(beat, min_size=2, max_size=25)),
    )


def deliveries(history: History) -> list[Delivery]:
    """What the agents of the history send, in the order in which it arrives."""
    at = to_ms(history.begins)
    machines = [_machine(history, number, at) for number in (0, 1)]
    sent = []
    for beat in history.beats:
        if at + beat.after > LATEST:
            break
        at += beat.after
        delivery = _delivery(history, machines[beat.clone], beat, at)
        sent.append(delivery)
        if beat.again:
            sent.append(_again(delivery, beat.again))
    return sorted(sent, key=lambda delivery: delivery.arrives)


def _again(delivery: Delivery, later: int) -> Delivery:
    report = replace(delivery.report, sent_uptime=delivery.report.sent_uptime + later / 1000)
    return replace(delivery, arrives=delivery.arrives + later, report=report, then="")


def _machine(history: History, number: int, at: int) -> Machine:
    first = 2**32 - 10**7 if history.is_32_bit else 2**40
    counters = {
        name: [first, 5000, 2**32 - 10**4 if history.is_32_bit else 7, 7, 1, 2, 3, 4] for name in ("eth0", "eth1")
    }
    return Machine(number, at - 100 * SECOND, f"boot-{number}", speed=history.speed, counters=counters)


def _delivery(history: History, machine: Machine, beat: Beat, at: int) -> Delivery:
    _happens(machine, beat, at)
    _passes(history, machine, beat)
    boot = machine.boot if history.names_boots and beat.leaves_out != "boot" else ""
    readings = {name: _reading(history, machine, beat, at, boot, name) for name in ("eth0", "eth1")}
    if beat.leaves_out in ("eth0", "eth1", "all"):
        readings = {name: reading for name, reading in readings.items() if name != beat.leaves_out != "all"}
    arrives = at + beat.late
    report = Report(
        server_id="nas",
        hostname="nas.home.arpa",
        timestamp=from_ms(at),
        boot_id=boot,
        uptime=(at - machine.started) / 1000,
        sent_uptime=(arrives - machine.started) / 1000,
        interval=history.interval / 1000,
        network_interfaces=[_on_the_wire(name, reading) for name, reading in readings.items()],
    )
    return Delivery(arrives, report, readings, beat.then)


def _happens(machine: Machine, beat: Beat, at: int) -> None:
    if beat.event in ("reboot", "hidden reboot"):
        machine.boots += 1
        machine.boot = f"boot-{machine.number}-{machine.boots}"
        machine.started = at - beat.after // 2
    if beat.event == "re-created":
        machine.ifindex += 5
    if beat.event in ("reboot", "driver reset", "re-created"):
        machine.counters = {name: [10, 20, 1, 2, 0, 0, 0, 0] for name in machine.counters}
    if beat.event == "bytes reset":
        machine.counters["eth0"][:2] = [100, 200]
    if beat.event == "link":
        machine.link = 1 - machine.link
    if beat.event == "speed":
        machine.speed = 10 if machine.speed != 10 else -1
    up = at - machine.started
    if beat.event == "rolled back" and up > 2 * MINUTE:  # less than 30 s back is a clock that is off, to the hub
        machine.rollbacks += 1  # milliseconds that keep it from an uptime it has had before: that is a duplicate
        machine.started += min(40 * MINUTE, up // 2) // (10 * SECOND) * 10 * SECOND - machine.rollbacks
        machine.counters = {name: [max(value - 10**6, 0) for value in of] for name, of in machine.counters.items()}


def _passes(history: History, machine: Machine, beat: Beat) -> None:
    for share, counters in enumerate(machine.counters.values(), 1):
        packets = beat.passed // 1000
        passed = [beat.passed, 3, packets, 1, packets // 7, 0, beat.passed % 3, 1]
        for index, more in enumerate(passed):
            counters[index] += more // share
            if history.is_32_bit:
                counters[index] %= 2**32


def _reading(history: History, machine: Machine, beat: Beat, at: int, boot: str, name: str) -> oracle.Reading:
    counters = list(machine.counters[name])
    if beat.leaves_out in ("errors", "optional"):
        counters[4:6] = [-1, -1]
    if beat.leaves_out in ("drops", "optional"):
        counters[6:8] = [-1, -1]
    return oracle.Reading(
        at,
        tuple(counters),
        boot=1 + machine.number + 2 * machine.boots if boot else 0,
        uptime=at - machine.started,
        interval=history.interval,
        link=machine.link,
        ifindex=-1 if beat.leaves_out == "ifindex" else machine.ifindex,
        speed=machine.speed,
    )


def _on_the_wire(name: str, reading: oracle.Reading) -> dict[str, Any]:
    fields = dict(zip(COUNTERS, reading.counters, strict=True))
    fields |= {"ifindex": reading.ifindex, "speed_mbps": reading.speed}
    return {"name": name, "is_up": reading.link == 1} | {key: value for key, value in fields.items() if value != -1}


# What the hub answers


@dataclass
class Hub:
    """The hub, and beside it every reading that it was told, for the oracle."""

    now: int = 0
    told: dict[str, list[oracle.Reading]] = field(default_factory=lambda: {"eth0": [], "eth1": []})

    def receive(self, delivery: Delivery) -> None:
        self.now = delivery.arrives
        ingest(delivery.report, may_register=True, now=from_ms(self.now))
        for name, reading in delivery.readings.items():
            self.told[name].append(reading)

    def do(self, what: str) -> None:
        now, ahead = from_ms(self.now), from_ms(self.now + 16 * DAY)
        if what.startswith("seal"):
            seal("nas", now=ahead if "ahead" in what else now)
        elif what.startswith("merge"):
            merge(now=ahead if "ahead" in what else now)
        elif what == "tick":
            tick(now=now)

    def interfaces(self, *, remembered: bool = False) -> list[Interface]:
        found = Interface.objects.order_by("name")
        return list(found.with_revision() if remembered else found)

    def steps(self, name: str) -> list[oracle.Step]:
        return oracle.steps_of(self.told[name])


@dataclass(frozen=True)
class Question:
    """A window around one of the readings."""

    of: int
    before: int
    length: int
    step: str
    zone: str
    aligned_to: int

    def window(self, instants: list[int]) -> tuple[int, int]:
        at = instants[self.of % len(instants)]
        start = (at - self.before) // self.aligned_to * self.aligned_to
        return start, -(-(start + self.length) // self.aligned_to) * self.aligned_to


@st.composite
def questions(draw: st.DrawFn) -> Question:
    step = draw(st.sampled_from(STEPS))
    length = min((parse_step(step).seconds or (2 * 3600 if step == "raw" else 2_592_000)) * SECOND * 12, 400 * DAY)
    return Question(
        of=draw(st.integers(0, 30)),
        before=draw(st.integers(0, length)),
        length=draw(st.integers(1, length)),
        step=step,
        zone=draw(st.sampled_from(ZONES)),
        aligned_to=draw(st.sampled_from([1, MINUTE, HOUR, DAY])),
    )


def told(answer: Series, index: int) -> dict[str, Any]:
    columns = [*COUNTERS, "rx_rate", "tx_rate", "rx_peak", "tx_peak", "rx_low", "tx_low"]
    columns += ["covered_seconds", "up_seconds", "resets"]
    return {name: getattr(answer, name)[index] for name in columns} | {"marks": set(answer.marks[index])}


def expected(known: oracle.Bucket | None) -> dict[str, Any]:
    if known is None:
        return expected(oracle.Bucket((None,) * 8, (None,) * 2, (None,) * 2, (None,) * 2, 0, 0, 0, frozenset()))
    return dict(zip(COUNTERS, known.increases, strict=True)) | {
        "rx_rate": known.rates[0],
        "tx_rate": known.rates[1],
        "rx_peak": known.peaks[0],
        "tx_peak": known.peaks[1],
        "rx_low": known.lows[0],
        "tx_low": known.lows[1],
        "covered_seconds": known.covered / 1000,
        "up_seconds": known.up / 1000,
        "resets": known.resets,
        "marks": set(known.marks),
    }


def instants_of(answer: Series) -> list[int]:
    return [*map(to_ms, answer.start), to_ms(answer.end)]


def compare(hub: Hub, asked: list[Question], *, remembered: bool) -> None:
    """`remembered`: what an earlier question read serves again where nothing came since."""
    for interface in hub.interfaces(remembered=remembered):
        for question in asked:
            compare_one(hub, interface, question)


def compare_one(hub: Hub, interface: Interface, question: Question) -> None:
    steps = hub.steps(interface.name)
    known_at = sorted({reading.at for reading in hub.told[interface.name]})
    start, end = question.window(known_at)
    answer = series(
        [interface], from_ms(start), from_ms(end), parse_step(question.step), ZoneInfo(question.zone), counters=COUNTERS
    )
    instants = instants_of(answer)
    assert (instants[0], instants[-1]) == (start, end)
    for index, (since, until) in enumerate(pairwise(instants)):
        assert told(answer, index) == expected(oracle.bucket(steps, since, until)), (from_ms(since), from_ms(until))
    if question.step == "raw":
        assert instants == sorted({start, end, *(at for at in known_at if start <= at <= end)})
    whole = expected(oracle.bucket(steps, start, end))
    assert {name: answer.total(name) for name in COUNTERS} == {name: whole[name] for name in COUNTERS}


every = settings(
    derandomize=True,
    phases=PHASES,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@contextmanager
def in_one_of_all_ways(number: int) -> Iterator[None]:
    """Of few servers the log is read as a whole, of many what a sum needs, of a long one what is around the window."""
    few, long = number % 2 == 0, number % 3 == 0
    with (
        patch("metrics.readings.FEW_SERVERS", 10 if few else 0),
        patch("metrics.increases.ALONE", 1 if few else 0),
        patch("metrics.steady.MOST_LATE", 0 if long else MOST_LATE),
    ):
        yield


def compare_at_all_stages(history: History, asked: list[Question]) -> None:
    memory.forget()  # the transactions of all histories have the same keys
    with transaction.atomic(), in_one_of_all_ways(len(history.beats)):
        hub = Hub()
        for delivery in deliveries(history):
            hub.receive(delivery)
            hub.do(delivery.then)
            if delivery.then == "compare":
                compare(hub, asked[:2], remembered=True)
        for last in ("compare", "seal ahead", "merge ahead"):
            hub.do(last)
            compare(hub, asked, remembered=last != "seal ahead")
        transaction.set_rollback(True)


@settings(every, max_examples=HISTORIES * 5 // 8)
@given(histories(), st.lists(questions(), min_size=4, max_size=4))
def test_every_number_is_the_oracles_whenever_it_was_sealed(history: History, asked: list[Question]):
    compare_at_all_stages(history, asked)


CLONE_ROLLED_BACK = History(
    BEGINNINGS[0], 10 * SECOND, -1, is_32_bit=False, names_boots=True,
    beats=[
        Beat(1), Beat(1), Beat(1), Beat(1, clone=True), Beat(19_995), Beat(1, then="seal ahead"),
        Beat(1, "rolled back", clone=True),
    ],
)  # fmt: skip


@settings(every, max_examples=HISTORIES // 8)
@given(histories(has_clone=True), st.lists(questions(), min_size=4, max_size=4))
@example(CLONE_ROLLED_BACK, [Question(of=0, before=0, length=1, step="raw", zone="UTC", aligned_to=1)])
def test_every_number_of_two_machines_under_one_name_is_the_oracles(history: History, asked: list[Question]):
    compare_at_all_stages(history, asked)


def compare_together(hub: Hub, question: Question, cuts: list[int], *, remembered: bool) -> None:
    """Compare what is said of both interfaces at once, and of instants that follow no calendar."""
    start, end = question.window([reading.at for readings in hub.told.values() for reading in readings])
    interfaces = hub.interfaces(remembered=remembered)
    steps = {interface: hub.steps(interface.name) for interface in interfaces}
    compare_increases(steps, sorted({start, end, *(start + cut % (end - start) for cut in cuts)}))
    compare_sum(steps, start, end, question)
    compare_top(steps, start, end)
    for cut in cuts[:3]:
        since = start + cut % (end - start)
        compare_top(steps, since, since + 1 + cut % (30 * HOUR), ahead=cut % 3 == 0)
    for by_server in (False, True):
        compare_usage(steps, start, end, question.zone, by_server=by_server)
    compare_totals(steps, question.zone, end)


def compare_increases(steps: dict[Interface, list[oracle.Step]], instants: list[int]) -> None:
    for interface, measured in increases(list(steps), instants).items():
        (of_interface,) = (of for one, of in steps.items() if one.pk == interface)
        for index, (since, until) in enumerate(pairwise(instants)):
            known = oracle.bucket(of_interface, since, until)
            assert measured.is_known(index) == (known is not None)
            if known is not None:
                told = [measured.sums[name][index] for name in COUNTERS]
                assert told == [-1 if value is None else value for value in known.increases]
    compare_bytes(steps, bytes_between(list(steps), instants), instants)
    as_of = standings(list(steps), from_ms(instants[0]), from_ms(instants[-1]), list(map(from_ms, instants)))
    compare_bytes(steps, bytes_between(list(steps), instants, as_of), instants)


def compare_bytes(steps: dict[Interface, list[oracle.Step]], found: dict[int, Buckets], instants: list[int]) -> None:
    for interface, measured in found.items():
        (of_interface,) = (of for one, of in steps.items() if one.pk == interface)
        for index, (since, until) in enumerate(pairwise(instants)):
            known = oracle.bucket(of_interface, since, until)
            assert measured.is_known(index) == (known is not None)
            if known is not None:
                told = [
                    measured.sums[name][index] for name in ("rx_bytes", "tx_bytes", "covered_ms", "up_ms", "resets")
                ]
                assert told == [*known.increases[:2], known.covered, known.up, known.resets]


def compare_sum(steps: dict[Interface, list[oracle.Step]], start: int, end: int, question: Question) -> None:
    answer = series(list(steps), from_ms(start), from_ms(end), parse_step(question.step), ZoneInfo(question.zone))
    for index, (since, until) in enumerate(pairwise(instants_of(answer))):
        known = [bucket for of in steps.values() if (bucket := oracle.bucket(of, since, until))]
        assert answer.rx_bytes[index] == (sum(bucket.increases[0] for bucket in known) if known else None)
        assert answer.tx_packets[index] == (sum(bucket.increases[3] for bucket in known) if known else None)
        assert answer.resets[index] == sum(bucket.resets for bucket in known)
        assert set(answer.marks[index]) == set().union(*(bucket.marks for bucket in known))


def compare_top(steps: dict[Interface, list[oracle.Step]], start: int, end: int, *, ahead: bool = False) -> None:
    known = [(bucket, one.name) for one, of in steps.items() if (bucket := oracle.bucket(of, start, end))]
    passed = [(-sum(bucket.increases[:2]), name, *bucket.increases[:2]) for bucket, name in known]
    rows = [(rank, "nas", name, rx, tx) for rank, (_, name, rx, tx) in enumerate(sorted(passed), 1)]
    assert top(list(steps), from_ms(start), from_ms(end), ahead=ahead) == rows
    assert top(list(steps), from_ms(start), from_ms(end), limit=1) == rows[:1]


def compare_usage(
    steps: dict[Interface, list[oracle.Step]], start: int, end: int, zone: str, *, by_server: bool
) -> None:
    groups = [(None, list(steps.values()))] if by_server else [(one.name, [of]) for one, of in steps.items()]
    instants = [start, *(at for at in oracle.days(zone, start, end) if at > start), end]
    rows = iter(usage(list(steps), from_ms(start), from_ms(end), DAYS, ZoneInfo(zone), by_server=by_server))
    for name, group in groups:
        for since, until in pairwise(instants):
            row = next(rows)
            known = [bucket for of in group if (bucket := oracle.bucket(of, since, until))]
            assert row[:4] == ("nas", name, from_ms(since), from_ms(until))
            assert row.rx_bytes == (sum(bucket.increases[0] for bucket in known) if known else None)
            assert row.resets == sum(bucket.resets for bucket in known)
            assert row.rx_p95 == pytest.approx(oracle.percentile_95(group, 0, since, until))
            assert row.tx_p95 == pytest.approx(oracle.percentile_95(group, 1, since, until))
    assert next(rows, None) is None


def compare_totals(steps: dict[Interface, list[oracle.Step]], zone: str, now: int) -> None:
    today, this_month = oracle.days(zone, now - 3 * DAY, now)[-1], oracle.months(zone, now - 63 * DAY, now)[-1]
    told = totals(list(steps), ZoneInfo(zone), now=from_ms(now))
    for interface, of in steps.items():
        for name, since in (("day", today), ("month", this_month), ("all", 0)):
            known = oracle.bucket(of, since, now)
            assert told[interface.pk][name] == (known.increases[:2] if known else (None, None))


@settings(every, max_examples=HISTORIES // 4)
@given(histories(), questions(), st.lists(st.integers(0, 2**35), max_size=8))
def test_sums_rankings_usage_and_totals_are_the_oracles(history: History, question: Question, cuts: list[int]):
    memory.forget()  # the transactions of all histories have the same keys
    with transaction.atomic(), in_one_of_all_ways(len(history.beats)):
        hub = Hub()
        question = replace(question, length=min(question.length, 4 * DAY))
        for delivery in deliveries(history):
            hub.receive(delivery)
            hub.do(delivery.then)
        for last in ("compare", "seal ahead", "merge ahead"):
            hub.do(last)
            if any(hub.told.values()):
                compare_together(hub, question, cuts, remembered=last != "seal ahead")
        transaction.set_rollback(True)
