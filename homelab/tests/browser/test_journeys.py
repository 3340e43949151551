import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SERVER = "/admin/servers/server/nas-01/change/"


def zoom(page, start=0.25, end=0.75):
    box = page.locator(".u-over").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * start, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, middle, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("start="))


def test_who_was_it_an_hour_ago(page):
    page.goto("/admin/top/")
    then = datetime.now(UTC) - timedelta(hours=1)
    page.fill("[name=from]", f"{then - timedelta(minutes=30):%Y-%m-%dT%H:%M}")
    page.fill("[name=to]", f"{then:%Y-%m-%dT%H:%M}")
    page.click("text=Show")
    first = page.locator("table.list").first.locator("tbody tr").first
    expect(first.locator("th.name a")).to_have_text("much")
    first.locator("th.name a").click()
    expect(page.locator("h1")).to_have_text("much")


def test_dragging_over_the_chart_shows_that_time(page):
    page.goto(SERVER)
    before = page.locator(".total").inner_text()
    zoom(page)
    expect(page.locator(".total")).not_to_have_text(before)
    query = parse_qs(urlsplit(page.url).query)
    shown = datetime.fromisoformat(query["end"][0]) - datetime.fromisoformat(query["start"][0])
    assert timedelta(hours=11) < shown < timedelta(hours=13)


def test_the_address_of_a_zoomed_chart_can_be_shared(page, context):
    page.goto(SERVER)
    before = page.locator(".total").inner_text()
    zoom(page)
    expect(page.locator(".total")).not_to_have_text(before)
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator(".total")).to_have_text(page.locator(".total").inner_text())


def test_back_leaves_the_zoom(page):
    page.goto(SERVER)
    before = page.locator(".total .rx").get_attribute("title")
    zoom(page)
    expect(page.locator(".total .rx")).not_to_have_attribute("title", before)
    page.go_back()
    expect(page.locator(".total .quiet")).to_be_visible()
    assert "start=" not in page.url


def test_the_legend_follows_the_pointer(page):
    page.goto(SERVER)
    last = page.locator(".u-legend").inner_text()
    box = page.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 20)
    expect(page.locator(".u-legend")).not_to_have_text(last)


NOTES = """() => {
  const data = JSON.parse(document.querySelector("[data-chart] script").textContent);
  const step = data.starts.length - 2;
  data.events = [[data.starts[step], "eth0 link down"]];
  return options(data, 600, () => {}).series[0].value(null, data.starts[step] / 1000, 0, step);
}"""


def test_the_legend_says_what_happened_in_a_step(page):
    page.goto(SERVER)
    assert "eth0 link down" in page.evaluate(NOTES)


ONE_STEP = """async (known) => {
  const data = JSON.parse(document.querySelector("[data-chart] script").textContent);
  for (const name of ["rx", "tx", "rx_peak", "tx_peak"]) {
    data[name] = data[name].map((rate, index) => (index === known ? 1e6 : null));
  }
  const holder = document.body.appendChild(document.createElement("div"));
  const { ctx } = new uPlot(options(data, 600, () => {}), columns(data), holder);
  await new Promise((drawn) => setTimeout(drawn, 100));
  return [...ctx.getImageData(0, 0, ctx.canvas.width, ctx.canvas.height).data].filter((value) => value).length;
}"""


def test_a_single_step_that_is_known_can_be_seen(page):
    page.goto(SERVER)
    assert page.evaluate(ONE_STEP, 10) > page.evaluate(ONE_STEP, -1)


def test_an_interface_is_chosen_for_the_chart(page):
    page.goto(SERVER)
    page.select_option("[name=interface]", "br0")
    expect(page.locator("#chart-title")).to_have_text("br0")
    page.click("#chart .switch >> text=7d")
    expect(page.locator("#chart-title")).to_have_text("br0")


def test_an_interface_is_chosen_for_a_zoomed_chart(page):
    page.goto(SERVER)
    zoom(page)
    expect(page.get_by_role("link", name="Back to 24h")).to_be_visible()
    page.select_option("[name=interface]", "br0")
    expect(page.locator("#chart-title")).to_have_text("br0")
    expect(page).to_have_url(re.compile("start="))


def test_a_window_is_given_by_hand(page):
    """By keyboard, and on a phone, where nothing is dragged."""
    page.goto(SERVER)
    then = datetime.now(UTC) - timedelta(hours=3)
    page.fill("[name=from]", f"{then - timedelta(hours=2):%Y-%m-%dT%H:%M}")
    page.fill("[name=to]", f"{then:%Y-%m-%dT%H:%M}")
    page.locator("[name=to]").press("Enter")
    expect(page.locator("#chart .total .quiet")).to_contain_text(f"– {then.day} {then:%b} {then:%H:%M}")
    page.click("text=Back to 24h")
    expect(page.locator("#chart [aria-current]")).to_have_text("24h")


def test_a_page_says_when_it_is_not_kept_up_to_date(page, context):
    page.goto("/admin/")
    context.clear_cookies()
    page.evaluate("refresh().catch(tellStale)")
    expect(page.locator("#stale")).to_contain_text("Not updated since")


def test_a_filter_that_finds_nothing_says_so(page):
    page.goto("/admin/")
    page.fill("#filter", "zzz")
    expect(page.get_by_text("No server matches.")).to_be_visible()


def test_the_chart_of_now_is_refreshed_in_place(page):
    page.goto(SERVER)
    page.evaluate("document.querySelector('.total').textContent = 'old'")
    page.evaluate("refresh()")
    expect(page.locator(".total")).to_contain_text("GiB")
    expect(page.locator("#chart canvas")).to_have_count(1)


def test_a_list_that_is_being_read_is_not_moved(page):
    page.goto("/admin/servers/server/router/change/")
    page.evaluate("document.querySelector('#events .timeline').scrollTop = 200")
    page.evaluate("document.querySelector('#facts').replaceChildren()")
    page.evaluate("refresh()")
    expect(page.locator("#facts")).to_contain_text("Received now")
    assert page.evaluate("document.querySelector('#events .timeline').scrollTop") == 200


def test_a_unit_is_remembered(page, context):
    page.goto("/admin/")
    page.click("text=bit/s")
    expect(page.locator(".tile-rates").last).to_contain_text("bit/s")
    other = context.new_page()
    other.goto(SERVER)
    expect(other.locator(".facts .rx")).to_contain_text("bit/s")


def test_a_theme_is_remembered(page):
    page.goto(SERVER)
    dark = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(dark)
    page.click(".theme-toggle")
    assert page.evaluate(dark) != light
    page.reload()
    assert page.evaluate(dark) != light


def test_tiles_are_filtered_as_one_types(page):
    page.goto("/admin/")
    page.fill("#filter", "rout")
    expect(page.locator(".tile:visible")).to_have_count(1)


def test_tiles_are_refreshed_in_place(page):
    page.goto("/admin/")
    page.fill("#filter", "nas")
    page.evaluate("document.querySelector('.tile:not([hidden]) .tile-rates').textContent = 'old'")
    page.evaluate("refresh()")
    expect(page.locator(".tile:visible .tile-rates")).not_to_have_text("old")
    expect(page.locator(".tile:visible")).to_have_count(1)


def test_a_list_is_sorted_by_a_click(page):
    page.goto("/admin/servers/server/")
    page.click("thead >> text=rx now")
    expect(page.locator("tbody th.name a").first).to_have_text("hypervisor-02.home.arpa")


def test_the_keyboard_reaches_a_server(page):
    page.goto("/admin/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to main content")
    page.locator(".tile a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("backup")


def test_a_key_is_made_shown_once_and_revoked(page):
    page.goto("/admin/servers/apikey/add/")
    page.select_option("#id_kind", "read")
    page.fill("#id_label", "of a journey")
    page.click("text=Save")
    secret = page.locator("#secret").inner_text()
    page.click("text=Done")
    expect(page.locator("tr", has_text="of a journey")).to_be_visible()
    assert secret not in page.content()
    page.click("text=of a journey")
    page.click("text=Revoke …")
    page.click("button:has-text('Revoke')")
    row = page.locator("tr", has_text="of a journey")
    expect(row).to_contain_text("revoked")


def test_a_machine_is_added_and_turns_green(page, hub, tmp_path):
    page.goto("/admin/add/")
    page.click("text=Make the line")
    line = page.locator("#line-cron").inner_text()
    agent(hub, tmp_path, "--enrol", key=re.search(r"HOMELAB_ENROL_KEY=(\S+)", line)[1])
    expect(page.locator(".waiting")).to_contain_text("has its key", timeout=10_000)
    agent(hub, tmp_path)
    expect(page.locator(".waiting.arrived")).to_contain_text("reports", timeout=10_000)
    page.click(".waiting a")
    expect(page.locator("h1")).to_be_visible()


def agent(hub, folder, *flags, key=""):
    command = [sys.executable, settings.BASE_DIR / "agent" / "homelab_agent.py", "--server-id", "journey", *flags]
    settings_of_agent = ["--env-file", folder / "agent.env", "--state-dir", folder]
    environment = {**os.environ, "HOMELAB_URL": hub, **({"HOMELAB_ENROL_KEY": key} if key else {})}
    subprocess.run([*command, *settings_of_agent], env=environment, check=True)
