from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from metrics import figures
from metrics.ingest import Report, ingest
from metrics.models import Event, Heartbeat, Interface
from metrics.windows import window
from servers.models import Server

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_kept():
    figures.forget()


SERVERS = reverse("admin:servers_server_changelist")
INTERFACES = reverse("admin:metrics_interface_changelist")
SCRIPT = "<script>alert(1)</script>"


def reading(name, count, **facts):
    counters = {"rx_bytes": count, "tx_bytes": count // 2, "rx_packets": count // 1000, "tx_packets": count // 2000}
    return {"name": name, "is_up": True, **counters, **facts}


def report(server_id="nas-01", interfaces=("eth0",), *, ago=0.0, minutes=5, skew=0.0, os_info=None, **facts):
    """Let a server report each minute; every interface receives 60 kB a minute. Ends `ago` seconds ago."""
    end = timezone.now() - timedelta(seconds=ago)
    for minute in range(minutes):
        now = end - timedelta(minutes=minutes - 1 - minute)
        uptime = 1000.0 + 60 * minute
        ingest(
            Report(
                server_id=server_id,
                hostname=server_id,
                timestamp=now - timedelta(seconds=skew),
                boot_id="one",
                uptime=uptime,
                sent_uptime=uptime,
                os_info=os_info,
                network_interfaces=[reading(name, 60_000 * minute, **facts) for name in interfaces],
            ),
            may_register=True,
            now=now,
        )
    return Server.objects.get(id=server_id)


def page(server, **query):
    return reverse("admin:servers_server_change", args=[server.pk], query=query)


def interface_page(name="eth0"):
    return reverse("admin:metrics_interface_change", args=[Interface.objects.get(name=name).pk])


def test_a_server_is_listed_with_its_state_its_rates_and_its_links(admin_client):
    report()
    (row,) = admin_client.get(SERVERS).context["rows"]
    assert (row.state, row.rx_rate, row.tx_rate, row.links) == ("online", 1000.0, 500.0, {"up": 1})


def test_a_total_leaves_out_what_rides_on_another_interface(admin_client):
    report(interfaces=("eth0", "wg0"))
    Interface.objects.filter(name="wg0").update(kind="wireguard")
    (row,) = admin_client.get(SERVERS).context["rows"]
    assert row.rx_rate == 1000.0


def test_what_a_silent_server_passes_now_is_unknown(admin_client):
    report(ago=3600)
    (row,) = admin_client.get(SERVERS).context["rows"]
    assert (row.state, row.rx_rate, row.links) == ("offline", None, {"unknown": 1})


def test_trouble_is_listed_first(admin_client):
    report("a-fine")
    report("b-silent", ago=3600)
    report("c-late", ago=200)
    assert [row.server.id for row in admin_client.get(SERVERS).context["rows"]] == ["b-silent", "c-late", "a-fine"]


@pytest.mark.parametrize(("query", "found"), [({"state": "offline"}, "silent"), ({"system": "Debian"}, "fine")])
def test_servers_are_found_by_state_and_system(admin_client, query, found):
    report("fine", os_info={"distribution": "Debian"})
    report("silent", ago=3600)
    assert [row.server.id for row in admin_client.get(SERVERS, query).context["rows"]] == [found]


def test_servers_are_searched_by_hostname(admin_client):
    report("nas-01")
    report("router")
    assert [row.server.id for row in admin_client.get(SERVERS, {"q": "rout"}).context["rows"]] == ["router"]


def test_without_a_server_the_list_says_how_to_add_one(admin_client):
    assert "Add a machine" in admin_client.get(SERVERS).text


def test_a_search_that_finds_nothing_says_so(admin_client):
    report()
    assert "No server matches" in admin_client.get(SERVERS, {"q": "nothing"}).text


def test_the_exact_instant_stands_behind_how_long_ago(admin_client):
    server = report(ago=12)
    text = admin_client.get(SERVERS).text
    assert "12 s ago" in text or "13 s ago" in text
    assert f'title="{server.last_seen_at:%Y-%m-%d %H:%M:%S} UTC"' in text


def test_what_is_still_to_come_is_seen_just_now(admin_client):
    report(ago=-30)  # the hub's clock has been set back
    assert "0 s ago" in admin_client.get(SERVERS).text


def test_a_server_page_has_each_interface_and_its_day(admin_client):
    server = report(interfaces=("eth0", "eth1"))
    rows = admin_client.get(page(server)).context["groups"]["Other"]
    assert [row.interface.name for row in rows] == ["eth0", "eth1"]
    assert [rate for rate in rows[0].figure.rx_day if rate is not None][-1] == 1000.0


def test_interfaces_are_grouped_by_their_sort(admin_client):
    server = report(interfaces=("eth0", "br0", "wg0", "veth1", "odd"))
    for name, kind in (("eth0", "physical"), ("br0", "bridge"), ("wg0", "wireguard"), ("veth1", "veth")):
        Interface.objects.filter(name=name).update(kind=kind)
    groups = admin_client.get(page(server)).context["groups"]
    assert list(groups) == ["Physical", "Bridge and bond", "VPN", "Container", "Other"]


def test_the_total_of_the_window_is_exact(admin_client):
    context = admin_client.get(page(report(), period="1h")).context
    assert (context["total"].rx_bytes, context["total"].tx_bytes) == (240_000, 120_000)


def test_today_and_this_month_are_told_of_each_interface(admin_client, noon):
    (row,) = admin_client.get(page(report())).context["groups"]["Other"]
    assert (row.figure.rx_today, row.figure.tx_month) == (240_000, 120_000)


def test_a_speed_below_its_best_is_told(admin_client):
    server = report(speed_mbps=1000)
    Interface.objects.update(best_speed_mbps=10_000)
    assert "below its best, 10 Gbit/s" in admin_client.get(page(server)).text


def test_an_interface_that_is_not_reported_any_more_is_marked(admin_client):
    server = report()
    server.snapshot.network_interfaces = []
    server.snapshot.save()
    assert "gone" in admin_client.get(page(server)).text


def test_a_server_silent_for_a_month_leads_to_its_last_day(admin_client):
    server = report(ago=30 * 86_400)
    start, end = admin_client.get(page(server)).context["last_day"]
    context = admin_client.get(page(server, start=start, end=end)).context
    assert not context["series"].is_empty


def happen(server, kind, interface="", *, ago):
    at = timezone.now() - timedelta(minutes=ago)
    Event.objects.create(
        server=server, number=Event.first_number(at) + Event.objects.count(), at=at, interface=interface, kind=kind
    )


def drawn(answer):
    return [event.text for event in answer.context["series"].events]


@pytest.mark.parametrize("read", [500, 40])  # as many as are of another interface alone
def test_a_chart_marks_what_happened_to_what_it_shows(admin_client, monkeypatch, read):
    server = report(interfaces=("eth0", "veth1"), kind="physical")
    Interface.objects.filter(name="veth1").update(kind="veth")
    happen(server, "link_down", "eth0", ago=3)
    happen(server, "vanished", "veth1", ago=2)
    happen(server, "reboot", ago=90)
    monkeypatch.setattr("metrics.admin.EVENTS_READ", read)
    for _ in range(40):  # more than are listed
        happen(server, "flapped", "veth1", ago=1)
    hour = admin_client.get(page(server, period="1h"))
    assert drawn(hour) == ["eth0 link down"]
    assert b"<title>eth0 link down</title>" in hour.content
    assert len(hour.context["events"]) == 30
    assert drawn(admin_client.get(page(server, period="6h"))) == ["eth0 link down", "reboot"]
    assert drawn(admin_client.get(page(server, start="now-2h", end="now-1h"))) == ["reboot"]
    assert drawn(admin_client.get(f"{interface_page('veth1')}?start=now-3m&end=now-90s")) == ["veth1 vanished"]
    assert drawn(admin_client.get(f"{interface_page()}?period=1h")) == ["eth0 link down"]


def test_events_are_told_with_their_interface(admin_client):
    server = report()
    Event.objects.create(server=server, number=1, at=timezone.now(), interface="eth0", kind="link_down")
    assert "link down" in admin_client.get(page(server)).text


@pytest.mark.parametrize("show", ["days", "months"])
def test_an_interface_page_has_its_days_and_months(admin_client, noon, show):
    report()
    (row,) = admin_client.get(interface_page(), {"show": show}).context["usage"]
    assert (row.rx_bytes, row.tx_bytes, row.total, row.resets) == (240_000, 120_000, 360_000, 0)


def test_an_interface_page_has_its_hours_of_the_week(admin_client):
    report()
    heat = admin_client.get(interface_page(), {"show": "hours"}).context["heat"]
    assert {cell.level for cells in heat.values() for cell in cells} <= {0, 6}
    highest = max(cell.rate or 0 for cells in heat.values() for cell in cells)
    assert highest == pytest.approx(1500, rel=1e-3)  # just after the full hour a cell has seconds, cut in whole bytes


def test_a_chart_is_of_the_chosen_interface_and_period(admin_client):
    server = report(interfaces=("eth0", "eth1"))
    context = admin_client.get(page(server, interface="eth1", period="1h")).context
    assert context["chosen"] == "eth1"
    assert {rate for rate in context["series"].rx if rate is not None} == {1000.0}


def test_a_chart_without_an_interface_is_of_the_total(admin_client):
    server = report(interfaces=("eth0", "eth1"))
    context = admin_client.get(page(server, period="1h")).context
    assert {rate for rate in context["series"].rx if rate is not None} == {2000.0}


@pytest.mark.parametrize("query", [{"period": "9y"}, {"interface": "none"}, {"start": "x", "end": "y"}])
def test_an_address_that_cannot_be_shows_the_usual_chart(admin_client, query):
    response = admin_client.get(page(report(), **query))
    assert (response.status_code, response.context["window"].period) == (200, "24h")


@pytest.mark.parametrize(("query", "is_told"), [("start=now-1h&end=now-2h", True), ("from=x&to=y", True), ("", False)])
def test_a_window_that_cannot_be_is_not_passed_over_in_silence(admin_client, query, is_told):
    report()
    for address in (page(Server.objects.get()), interface_page(), reverse("admin:top")):
        assert ("That window cannot be shown" in admin_client.get(f"{address}?{query}").text) == is_told


def test_what_passed_without_a_rate_is_told(admin_client):
    """Its agent reports less often than it says: every step is a gap."""
    now = timezone.now()
    for minute in range(5):
        at = now - timedelta(minutes=5 - minute)
        uptime = 1000.0 + 60 * minute
        interfaces = [reading("eth0", 60_000 * minute)]
        sent = {"boot_id": "one", "uptime": uptime, "sent_uptime": uptime, "interval": 15}
        ingest(Report("nas-01", "nas-01", at, network_interfaces=interfaces, **sent), may_register=True, now=at)
    server = Server.objects.get()
    answer = admin_client.get(page(server, period="1h"))
    assert answer.context["total"].rx_bytes > 0
    assert "What passed is known, but not how fast (gap)." in " ".join(answer.text.split())
    assert "Show the last day it was heard" not in answer.text


@pytest.mark.parametrize(("period", "has_ranges"), [("1h", False), ("24h", True)])
def test_a_range_is_drawn_of_steps_of_more_than_a_few_readings(admin_client, period, has_ranges):
    report()
    series = admin_client.get(f"{interface_page()}?period={period}").context["series"]
    assert any(peak is not None for peak in series.rx_peak) == has_ranges


def test_saving_stays_on_the_page(admin_client):
    report()
    asked = f"{interface_page()}?show=days"
    answer = admin_client.post(asked, {"label": "uplink", "chosen_kind": "", "counts_in_total": "unknown"})
    assert (answer.status_code, answer["Location"]) == (302, asked)
    assert Interface.objects.get().label == "uplink"


def test_any_window_can_be_asked_for(rf):
    now = timezone.now()
    start, end = now - timedelta(hours=3), now - timedelta(hours=2)
    seen = window(rf.get("/", {"start": start.isoformat(), "end": end.isoformat()}), now)
    assert seen == ("", start, end)


@pytest.mark.parametrize("start", ["0001-01-01T00:00", "1969-12-31T00:00", "9999-12-31T23:59", "noon"])
@pytest.mark.parametrize("names", [("from", "to"), ("start", "end")])
def test_a_window_of_no_time_that_can_be_is_the_usual_one(admin_client, names, start):
    report()
    answer = admin_client.get(reverse("admin:top"), dict(zip(names, (start, "2026-03-03T00:00"), strict=True)))
    assert (answer.status_code, answer.context["window"].period) == (200, "24h")


def test_a_window_does_not_reach_past_now(rf):
    now = timezone.now()
    later = now + timedelta(days=1)
    assert window(rf.get("/", {"start": "now-1h", "end": later.isoformat()}), now).end == now


@pytest.mark.parametrize(("skew", "shown"), [(4.0, False), (41.0, True), (-41.0, True)])
def test_a_clock_is_mentioned_when_it_is_off(admin_client, skew, shown):
    server = report(skew=skew)
    assert ("Its clock" in admin_client.get(page(server)).text) == shown


def test_a_server_page_lists_the_boots(admin_client):
    server = report()
    assert [boot.boot_id for boot in admin_client.get(page(server)).context["boots"]] == ["one"]


def test_a_server_that_never_reported_says_what_to_do(admin_client):
    server = Server.objects.create(id="new", hostname="new")
    assert "Not heard from yet" in admin_client.get(page(server)).text


def test_names_are_untrusted_everywhere(admin_client):
    server = report(interfaces=(SCRIPT, '"onx=1'), master=SCRIPT)
    Interface.objects.update(label=SCRIPT)
    Server.objects.update(display_name=SCRIPT, os_distribution=SCRIPT)
    for address in (SERVERS, INTERFACES, page(server), page(server, interface=SCRIPT), interface_page(SCRIPT)):
        text = admin_client.get(address).text
        assert SCRIPT not in text
        assert '""onx' not in text


def test_what_is_measured_of_a_server_cannot_be_changed(admin_client):
    server = report()
    admin_client.post(page(server), {"display_name": "Storage", "notes": "", "hostname": "x", "interval": "1"})
    server.refresh_from_db()
    assert (server.display_name, server.hostname, server.interval) == ("Storage", "nas-01", 60)


def test_what_is_measured_of_an_interface_cannot_be_changed(admin_client):
    report()
    settings = {"label": "uplink", "chosen_kind": "physical", "counts_in_total": "false", "hidden": "on"}
    measured = {"name": "x", "mac": "y", "speed_mbps": "1", "kind": "bond"}
    admin_client.post(interface_page(), {**settings, **measured})
    eth0 = Interface.objects.get()
    assert (eth0.label, eth0.chosen_kind, eth0.counts_in_total, eth0.hidden) == ("uplink", "physical", False, True)
    assert (eth0.name, eth0.mac, eth0.speed_mbps, eth0.kind) == ("eth0", "", None, "")


def test_a_kind_that_a_person_has_set_outlives_what_the_agent_reports(admin_client):
    server = report(kind="physical", speed_mbps=100)
    admin_client.post(interface_page(), {"label": "", "chosen_kind": "wireguard", "counts_in_total": "unknown"})
    report(kind="bridge", speed_mbps=1000, minutes=7)
    eth0 = Interface.objects.get()
    assert (eth0.kind, eth0.speed_mbps, eth0.effective_kind) == ("bridge", 1000, "wireguard")
    assert list(admin_client.get(page(server)).context["groups"]) == ["VPN"]
    admin_client.post(interface_page(), {"label": "", "chosen_kind": "", "counts_in_total": "unknown"})
    assert list(admin_client.get(page(server)).context["groups"]) == ["Bridge and bond"]


@pytest.mark.parametrize(("kind", "found"), [("physical", ["eth0"]), ("tun", ["eth1"]), ("veth", [])])
def test_interfaces_are_filtered_by_their_kind(admin_client, kind, found):
    report(interfaces=("eth0", "eth1"), kind="physical")
    Interface.objects.filter(name="eth1").update(chosen_kind="tun")
    rows = admin_client.get(INTERFACES, {"kind": kind}).context["rows"]
    assert [row.interface.name for row in rows] == found


@pytest.mark.parametrize("model", ["servers_server", "metrics_interface"])
def test_nothing_measured_can_be_added(admin_client, model):
    assert admin_client.get(reverse(f"admin:{model}_add")).status_code == 403


def test_an_interface_cannot_be_deleted(admin_client):
    report()
    interface = Interface.objects.get()
    assert admin_client.post(reverse("admin:metrics_interface_delete", args=[interface.pk])).status_code == 403


def test_a_server_is_deleted_with_all_of_it_once_confirmed(admin_client):
    server = report()
    address = reverse("admin:servers_server_delete", args=[server.pk])
    assert "all that was measured" in admin_client.get(address).text
    admin_client.post(address, {"post": "yes"})
    assert not Server.objects.exists()
    assert not Heartbeat.objects.exists()


@pytest.mark.parametrize("address", [SERVERS, INTERFACES])
def test_lists_take_as_many_queries_for_many_servers_as_for_few(admin_client, address, django_assert_max_num_queries):
    for number in range(5):
        report(f"server-{number}", interfaces=("eth0", "eth1"), minutes=2)
    with django_assert_max_num_queries(10):
        admin_client.get(address)


@pytest.mark.parametrize(("query", "most"), [({}, 12), ({"interface": "eth3"}, 12), ({"period": "12m"}, 13)])
def test_a_server_page_takes_few_queries(admin_client, query, most, django_assert_max_num_queries):
    server = report(interfaces=[f"eth{number}" for number in range(20)])
    admin_client.get(page(server))  # content types are looked up once a process
    with django_assert_max_num_queries(most):
        admin_client.get(page(server, **query))


def test_an_interface_page_takes_few_queries(admin_client, django_assert_max_num_queries):
    report()
    address = interface_page()
    with django_assert_max_num_queries(10):
        admin_client.get(address)


def test_rates_are_shown_in_the_unit_that_this_browser_chose(admin_client):
    report()
    assert "1000 B/s" in admin_client.get(SERVERS).text
    back = admin_client.post(reverse("admin:unit"), {"unit": "bits", "next": SERVERS})
    assert back.url == SERVERS
    assert "8 kbit/s" in admin_client.get(SERVERS).text


def test_choosing_a_unit_leads_to_no_other_site(admin_client):
    back = admin_client.post(reverse("admin:unit"), {"unit": "bits", "next": "https://elsewhere.example/"})
    assert back.url == reverse("admin:index")


def test_pages_allow_nothing_but_their_own_files(admin_client):
    server = report()
    response = admin_client.get(page(server))
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert "style=" not in response.text
    assert "unsafe" not in response["Content-Security-Policy"]


@pytest.mark.parametrize("address", [SERVERS, INTERFACES])
def test_nobody_but_staff_sees_anything(client, django_user_model, address):
    client.force_login(django_user_model.objects.create_user("someone"))
    assert client.get(address).status_code == 302
