import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.template.loader import render_to_string
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from metrics import figures, memory, pages, seal, steady
from metrics.increases import increases
from metrics.ingest import Report, ingest_batch
from metrics.models import Event, Heartbeat, Interface, to_ms
from metrics.passed import passed
from metrics.rows import server_row
from metrics.templatetags.traffic import moment
from metrics.tests.test_admin import SCRIPT, reading, report
from metrics.windows import PERIODS
from servers.models import ApiKey, KeyKind, Server, Snapshot

pytestmark = pytest.mark.django_db

OVERVIEW, TOP, STORAGE, ADD = (reverse(f"admin:{name}") for name in ("index", "top", "storage", "add_machine"))


@pytest.fixture(autouse=True)
def nothing_kept():
    figures.forget()


def test_a_tile_tells_the_state_the_rates_and_the_month(admin_client, noon):
    report()
    (tile,) = admin_client.get(OVERVIEW).context["tiles"]
    assert (tile.row.state, tile.row.rx_rate, tile.row.figure.rx_month) == ("online", 1000.0, 240_000)


def test_a_tile_of_a_server_whose_interfaces_all_ride_on_others_tells_of_all(admin_client, noon):
    report()
    Interface.objects.update(kind="wireguard")
    (tile,) = admin_client.get(OVERVIEW).context["tiles"]
    assert (tile.row.rx_rate, tile.row.figure.rx_month) == (1000.0, 240_000)
    assert admin_client.get(f"{TOP}?period=1h").context["lines"][0].rx_bytes > 0


def test_tiles_are_sorted_by_trouble_then_by_name(admin_client):
    for server_id, ago in (("b", 0), ("a", 0), ("z", 3600), ("y", 0), ("x", 0), ("w", 0), ("v", 0)):
        report(server_id, ago=ago, minutes=2)
    Server.objects.create(id="n", hostname="n")
    happened("v", 1, "eth0", "reset")
    Snapshot.objects.filter(server="w").update(clock_skew_seconds=41)
    Interface.objects.filter(server="x").update(speed_mbps=100, best_speed_mbps=1000)
    down = {"name": "eth0", "is_up": False, "rx_bytes": 1, "tx_bytes": 0}
    Snapshot.objects.filter(server="y").update(network_interfaces=[down])
    answer = admin_client.get(OVERVIEW)
    tiles = {tile.row.server.pk: tile for tile in answer.context["tiles"]}
    assert list(tiles) == ["z", "y", "v", "w", "x", "n", "a", "b"]
    assert (tiles["y"].row.lost, tiles["x"].row.slow) == (["eth0"], ["eth0"])
    for text in ("eth0 down", "eth0 below best speed", "clock 41 s behind"):
        assert text in answer.text


def test_what_nobody_reports_is_not_told_as_nothing(admin_client):
    report(ago=3600)
    context = admin_client.get(OVERVIEW).context
    assert (context["rx_rate"], context["tx_rate"]) == (None, None)


def happened(server_id, hours_ago, interface, kind):
    at = timezone.now() - timedelta(hours=hours_ago)
    number = Event.first_number(at)
    return Event.objects.create(server_id=server_id, number=number, at=at, interface=interface, kind=kind)


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([(1, "eth0", "link_down")], 1),
        ([(30, "eth0", "link_down")], 0),
        ([(3, "eth0", "link_down"), (2, "eth0", "link_up")], 0),
        ([(3, "eth0", "link_down"), (2, "eth1", "link_up")], 1),
        ([(3, "eth0", "link_down"), (2, "eth0", "link_up"), (1, "eth0", "link_down")], 1),
        ([(3, "eth0", "speed_below_best"), (2, "eth0", "speed_changed")], 0),
        ([(3, "wg0", "vanished"), (2, "wg0", "appeared")], 0),
        ([(3, "eth0", "flapped"), (2, "eth0", "flapped"), (1, "", "reboot")], 2),
    ],
)
def test_a_tile_counts_what_nothing_has_undone_of_the_events_of_a_day(admin_client, events, count):
    server = report()
    for event in events:
        happened(server.pk, *event)
    answer = admin_client.get(OVERVIEW)
    (tile,) = answer.context["tiles"]
    assert len(tile.open_events) == count
    assert (f"{count} open event" in answer.text) == (count > 0)


@pytest.mark.parametrize(("bytes_passed", "lost"), [(0, []), (1, ["eth0"])])
def test_a_link_is_lost_when_it_is_down_and_has_carried_something(bytes_passed, lost):
    server = report()
    interface = {"name": "eth0", "is_up": False, "rx_bytes": bytes_passed, "tx_bytes": 0}
    server.snapshot.network_interfaces = [interface]
    assert server_row(server, [], timezone.now()).lost == lost


def test_the_overview_of_nothing_says_how_to_begin(admin_client):
    assert "No server yet" in admin_client.get(OVERVIEW).text


def test_the_overview_takes_five_queries_when_its_figures_are_known(admin_client, django_assert_max_num_queries):
    for number in range(4):
        report(f"server-{number}", minutes=2)
    admin_client.get(OVERVIEW)
    with django_assert_max_num_queries(5):
        admin_client.get(OVERVIEW)


def test_figures_are_kept_for_a_minute():
    server = report()
    interfaces = {server.pk: list(Interface.objects.all())}
    now = timezone.now()
    before = figures.figures(interfaces, now=now)
    Heartbeat.objects.all().delete()
    assert figures.figures(interfaces, now=now + timedelta(seconds=59)) == before
    assert figures.figures(interfaces, now=now + timedelta(seconds=61)) != before


def test_figures_are_not_of_before_the_newest_heartbeat_where_that_is_given():
    server = report()
    interfaces = {server.pk: list(Interface.objects.all())}
    now = timezone.now()
    before = figures.figures(interfaces, now=now)
    Heartbeat.objects.all().delete()
    assert figures.figures(interfaces, now=now, heard_at=now - timedelta(seconds=1)) == before
    assert figures.figures(interfaces, now=now, heard_at=now) != before


def test_figures_of_one_more_interface_are_read_at_once():
    server = report(interfaces=("eth0", "eth1"))
    first, second = Interface.objects.all()
    now = timezone.now()
    figures.figures({server.pk: [first]}, now=now)
    assert set(figures.figures({server.pk: [first, second]}, now=now)) == {first.pk, second.pk}


def test_a_total_adds_what_is_known():
    known = figures.Figure((1.0, None), (None, None), 1, None, 1, None)
    other = figures.Figure((2.0, 3.0), (None, 4.0), 2, None, 2, 5)
    assert figures.total((known, other)) == figures.Figure((3.0, 3.0), (None, 4.0), 3, None, 3, 5)


def test_the_ranking_is_of_the_window(admin_client):
    report("much", interfaces=("eth0",), minutes=5)
    report("little", interfaces=("eth0",), minutes=3)
    context = admin_client.get(TOP, {"period": "1h"}).context
    assert [(line.server.pk, line.total) for line in context["lines"]] == [("much", 360_000), ("little", 180_000)]
    assert [line.server.pk for line in context["per_server"]] == ["much", "little"]


def test_each_server_of_the_ranking_leads_to_its_page(admin_client):
    report("much", interfaces=("eth0",), minutes=5)
    page = admin_client.get(TOP, {"period": "1h"}).text
    assert f'<a href="{reverse("admin:servers_server_change", args=["much"])}">' in page


def test_a_window_without_readings_ranks_nobody(admin_client):
    report()
    response = admin_client.get(TOP, {"start": "now-3h", "end": "now-2h"})
    assert "Nobody passed anything" in response.text


def test_a_window_may_be_given_in_local_time(admin_client):
    report()
    seen = admin_client.get(TOP, {"from": "2026-01-01T10:00", "to": "2026-01-01T11:00"}).context["window"]
    assert (seen.end - seen.start, seen.start.hour) == (timedelta(hours=1), 10)


def test_a_long_period_ends_with_a_whole_hour(admin_client):
    report()
    seen = admin_client.get(TOP).context["window"]
    assert (seen.end.minute, seen.end.second, seen.end - seen.start) == (0, 0, timedelta(days=1))


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("05-01T05:17", "05-02T05:18", ("05-01T05:00", "05-02T06:00")),
        ("05-01T05:17", "05-02T05:17", ("05-01T05:17", "05-02T05:17")),
        ("05-01T05:00", "05-11T05:00", ("05-01T05:00", "05-11T05:00")),
        ("05-01T05:17", "06-01T11:59", ("05-01T05:00", "06-01T12:00")),
        ("05-01T05:17", "06-01T12:30", ("05-01T05:00", "06-01T12:30")),
    ],
)
def test_a_window_of_more_than_a_day_is_told_in_whole_hours_and_says_so(rf, start, end, told):
    start, end, *told = (datetime.fromisoformat(f"2026-{at}+00:00") for at in (start, end, *told))
    asked = rf.get("/", {"start": start.isoformat(), "end": end.isoformat()})
    context = pages.top(asked, datetime(2026, 6, 1, 12, 40, tzinfo=UTC))
    assert context["window"][1:] == tuple(told)
    assert context["is_rounded"] == ((start, end) != tuple(told))
    assert ("in whole hours" in render_to_string("metrics/top.html", context, asked)) == context["is_rounded"]


def test_storage_tells_bytes_and_retention(admin_client):
    report()
    response = admin_client.get(STORAGE)
    assert response.context["storage"].waiting_heartbeats == 5
    assert "HOMELAB_RETENTION_READINGS_DAYS" in response.text


def test_a_line_to_paste_comes_with_a_fresh_key_of_one_use(admin_client):
    answer = admin_client.post(ADD)
    key = ApiKey.objects.get()
    assert (key.kind, key.uses_left) == (KeyKind.ENROLMENT, 1)
    assert ApiKey.objects.verify(answer.context["secret"], now=timezone.now()) == key
    assert answer.text.count(answer.context["secret"]) == 2


def test_looking_at_the_page_makes_no_key(admin_client):
    admin_client.get(ADD)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("[::1]:8000", True),
        ("testserver", False),
        ("testserver:80", False),
    ],
)
def test_a_line_that_only_this_machine_could_follow_is_called_that(admin_client, host: str, is_loopback: bool):
    for answer in (admin_client.get(ADD, headers={"host": host}), admin_client.post(ADD, headers={"host": host})):
        assert ("the hub for this machine alone" in answer.text) is is_loopback


def test_the_agent_is_served_as_the_page_says_it_is(admin_client, client):
    sent = b"".join(client.get(reverse("agent-file")).streaming_content)
    assert hashlib.sha256(sent).hexdigest() == admin_client.get(ADD).context["sha256"]


def test_a_machine_has_arrived_once_it_reports(admin_client):
    address = reverse("admin:arrived", args=["0123456789"])
    assert admin_client.get(address).json() == {"server": None}
    server = Server.objects.create(id="nas-01", hostname="nas-01")
    key, _ = ApiKey.objects.make(KeyKind.AGENT, server=server, label="enrolled with 0123456789")
    assert admin_client.get(address).json()["server"]["state"] == "new"
    report()
    assert admin_client.get(address).json()["server"]["state"] == "new", "by another key"
    key.note_use(now=timezone.now())
    assert admin_client.get(address).json()["server"]["state"] == "online"


@pytest.mark.parametrize("address", [OVERVIEW, TOP, STORAGE])
def test_names_are_untrusted_on_every_page(admin_client, address):
    report(interfaces=(SCRIPT,))
    Server.objects.update(display_name=SCRIPT)
    assert SCRIPT not in admin_client.get(address).text


@pytest.mark.parametrize("address", [OVERVIEW, TOP, STORAGE, ADD])
def test_pages_are_for_staff_who_may_see_servers(client, django_user_model, address):
    client.force_login(django_user_model.objects.create_user("someone", is_staff=True))
    assert client.get(address).status_code == 403


def test_an_instant_of_another_year_says_which(monkeypatch):
    now = datetime(2026, 3, 2, 12, 4, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: now)
    assert [moment(now - timedelta(days=days)) for days in (0, 1, 365)] == [
        "2 Mar 12:04",
        "1 Mar 12:04",
        "2 Mar 2025 12:04",
    ]


# The budget of queries


@pytest.fixture(params=[4, 58])
def fleet(request, monkeypatch):
    """Eleven servers, more than the log is read of as a whole: six days, of which all but this hour is sealed.

    It is so many minutes past the hour.
    """
    now = timezone.now().replace(minute=request.param)
    monkeypatch.setattr(timezone, "now", lambda: now)
    for number in range(11):
        ingest_batch([aged(f"server-{number:02}", now, age) for age in AGES], may_register=True, now=now)
    seal.tick(now=now)


AGES = sorted(
    [*(timedelta(hours=hours) for hours in range(6 * 24, 2, -2)), *(timedelta(minutes=5 * n) for n in range(37))]
)


def aged(server_id, now, age, names=("eth0", "eth1"), boot="one", up_for=timedelta(days=10)):
    interval = timedelta(hours=2) if age > timedelta(hours=3) else timedelta(minutes=5)
    uptime = up_for.total_seconds()
    return Report(
        server_id=server_id,
        hostname=server_id,
        timestamp=now - age,
        boot_id=boot,
        uptime=uptime - age.total_seconds(),
        sent_uptime=uptime,
        interval=interval.total_seconds(),
        network_interfaces=[reading(name, int(10**9 - age.total_seconds() * 10)) for name in names],
    )


PAST = [
    ("15m", "1s"), ("11m", "3m"), ("75m", "15m"), ("130m", "7m"), ("3h", "1h"), ("3h", "95m"), ("400m", "395m"),
    ("20h", "10m"), ("23h", "3h"), ("1500m", "60m"), ("1500m", "1490m"), ("26h", "1s"), ("50h", "1s"), ("70h", "10m"),
    ("5d", "61h"), ("5d", "71h"),
]  # fmt: skip


def addresses():
    server, eth0 = Server.objects.order_by("id")[0], Interface.objects.order_by("id")[0]
    periods = [f"?period={period}" for period in PERIODS]
    past = [f"?{urlencode({'start': f'now-{start}', 'end': f'now-{end}'})}" for start, end in PAST]
    of_server = reverse("admin:servers_server_change", args=[server.pk])
    of_interface = reverse("admin:metrics_interface_change", args=[eth0.pk])
    return [
        OVERVIEW,
        STORAGE,
        ADD,
        *(reverse(f"admin:{name}_changelist") for name in ("servers_server", "metrics_interface", "servers_apikey")),
        *(page + query for page in (of_server, of_interface) for query in (*periods, *past[-2:])),
        *(TOP + query for query in (*periods, *past)),
        f"{of_server}?period=12m&interface=eth1",
        *(f"{of_interface}?show={tab}" for tab in ("days", "months", "hours")),
    ]


@pytest.fixture(params=["superuser", "staff"])
def person(request, client, django_user_model):
    if request.param == "superuser":
        client.force_login(django_user_model.objects.create_superuser("ada"))
    else:
        ada = django_user_model.objects.create_user("ada", is_staff=True)
        ada.user_permissions.set(Permission.objects.filter(content_type__app_label__in=["servers", "metrics"]))
        client.force_login(ada)
    return client


def test_every_page_takes_at_most_ten_queries_when_nothing_is_remembered(person, fleet):
    person.get(reverse("admin:servers_apikey_add"))  # what is looked up once a process
    taken = {}
    for address in addresses():
        memory.forget()
        figures.forget()
        with CaptureQueriesContext(connection) as captured:
            assert person.get(address).status_code == 200
        taken[address] = len(captured)
    assert {address: count for address, count in taken.items() if count > 10} == {}


def gone(number, server_id, now):
    since = timedelta(days=1 + number % 5)
    return [aged(server_id, now, age, ("eth0", "eth1") if age > since else ("eth0",)) for age in AGES]


def new(number, server_id, now):
    since = timedelta(minutes=20)
    return [aged(server_id, now, age, ("eth0", "eth1") if age > since else ("eth0", "eth1", "eth2")) for age in AGES]


def rebooted(number, server_id, now):
    after = {"boot": "two", "up_for": timedelta(minutes=23)}
    return [aged(server_id, now, age, **(after if age <= timedelta(minutes=20) else {})) for age in AGES]


def silent(number, server_id, now):
    return [aged(server_id, now, age) for age in AGES if age > timedelta(hours=6 + number)]


def enrolled(number, server_id, now):
    return [aged(server_id, now, age) for age in AGES if age < timedelta(minutes=20)]


def with_gap(number, server_id, now):
    return [aged(server_id, now, age) for age in AGES if not timedelta(minutes=9) < age < timedelta(minutes=41)]


def late(number, server_id, now):
    """All but a day, which comes once the rest is sealed."""
    return [aged(server_id, now, age) for age in AGES if not is_of_the_day(number, age)]


def is_of_the_day(number, age):
    return timedelta(hours=20 + 4 * number) < age < timedelta(hours=40 + 4 * number)


@pytest.mark.parametrize(
    ("troubles", "most_late"),
    [
        ((gone, new, rebooted), steady.MOST_LATE),
        ((silent, enrolled, with_gap), steady.MOST_LATE),
        ((late,), steady.MOST_LATE),
        ((late,), 0),
        ((late, gone), steady.MOST_LATE),
        ((late, rebooted, with_gap), steady.MOST_LATE),
    ],
)
def test_a_fleet_in_trouble_takes_ten_queries_a_page_and_is_told_as_each_interface_alone(
    admin_client, monkeypatch, troubles, most_late
):
    monkeypatch.setattr(steady, "MOST_LATE", most_late)
    now = datetime(2026, 3, 2, 14, 58, tzinfo=UTC)  # what comes late begins on other days than what it follows
    monkeypatch.setattr(timezone, "now", lambda: now)
    fleet = {number: troubles[number // 2 % len(troubles)] for number in range(0, 14, 2)}
    for number in range(14):
        server_id = f"server-{number:02}"
        plain = [aged(server_id, now, age) for age in AGES]
        reports = fleet[number](number, server_id, now) if number in fleet else plain
        ingest_batch(reports, may_register=True, now=now)
    seal.tick(now=now)
    for number in (number for number, trouble in fleet.items() if trouble is late):
        reports = [aged(f"server-{number:02}", now, age) for age in AGES if is_of_the_day(number, age)]
        ingest_batch(reports, may_register=True, now=now)
    admin_client.get(OVERVIEW)
    for address in [OVERVIEW, *addresses()]:
        memory.forget()
        figures.forget()
        taken = []
        for _ in range(2):
            with CaptureQueriesContext(connection) as captured:
                assert admin_client.get(address).status_code == 200
            taken.append(len(captured))
        assert max(taken) <= 10, (address, taken)
    interfaces = list(Interface.objects.with_revision())
    for since, until in [(1, 0), (64, 0), (70, 40), (400, 0), (1500, 30), (1500, 1485), (9000, 3660), (9000, 0)]:
        window = [to_ms(now - timedelta(minutes=minutes)) for minutes in (since, until)]
        told = passed(interfaces, *window)
        for interface in interfaces:
            (alone,) = increases([interface], window).values()
            both = tuple(alone.sums[name][0] for name in ("rx_bytes", "tx_bytes"))
            assert told[interface.pk] == (both if alone.is_known(0) else None), (interface, since, until)


def test_new_machines_that_report_less_often_than_they_say_take_ten_queries(admin_client, monkeypatch):
    """Each of their steps is a gap, and none of their interfaces has anything before it."""
    now = datetime(2026, 3, 2, 14, 58, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: now)
    ingest_batch([aged("old", now, age) for age in AGES], may_register=True, now=now)
    names = [f"eth{number}" for number in range(60)]
    for server_id in ("new-1", "new-2"):
        reports = [aged(server_id, now, timedelta(minutes=age), names) for age in range(80, -1, -5)]
        ingest_batch([replace(report, interval=15) for report in reports], may_register=True, now=now)
    seal.tick(now=now)
    for address in addresses():
        memory.forget()
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(address).status_code == 200
        assert len(captured) <= 10, address


def test_a_fleet_that_is_silent_takes_no_query_for_each_server(admin_client, fleet, monkeypatch):
    """The network is down for hours: what waits in the log is older than the window of the page."""
    later = timezone.now() + timedelta(hours=3)
    monkeypatch.setattr(timezone, "now", lambda: later)
    memory.forget()
    with CaptureQueriesContext(connection) as captured:
        assert admin_client.get(f"{TOP}?period=1h").status_code == 200
    assert len(captured) <= 10


def test_what_was_read_ahead_of_a_period_is_read_again_of_those_that_are_drawn_at_most(admin_client, fleet):
    memory.forget()
    for period in PERIODS:
        pages.read_ahead(period, timezone.now())
    for period in PERIODS:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(f"{TOP}?period={period}").context["lines"]
        asked = [query["sql"] for query in captured.captured_queries if 'FROM "metrics_chunk"' in query["sql"]]
        of_each = [len(of.split(",")) for sql in asked for of in re.findall(r'"interface_id" IN \(([\d, ]+)\)', sql)]
        assert len(of_each) >= len(asked)
        assert max(of_each, default=0) <= pages.STACKED, period
