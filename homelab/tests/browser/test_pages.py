import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

PAGES = {
    "overview": "/admin/",
    "servers": "/admin/servers/server/",
    "server": "/admin/servers/server/nas-01/change/",
    "server with many events": "/admin/servers/server/router/change/",
    "odd server": "/admin/servers/server/hypervisor-02/change/",
    "new server": "/admin/servers/server/printer/change/",
    "delete server": "/admin/servers/server/printer/delete/",
    "interfaces": "/admin/metrics/interface/",
    "interface": "/admin/metrics/interface/1/change/",
    "days": "/admin/metrics/interface/1/change/?show=days",
    "months": "/admin/metrics/interface/1/change/?show=months",
    "hours": "/admin/metrics/interface/1/change/?show=hours",
    "top": "/admin/top/",
    "keys": "/admin/servers/apikey/",
    "new key": "/admin/servers/apikey/add/",
    "storage": "/admin/storage/",
    "add a machine": "/admin/add/",
    "users": "/admin/auth/user/",
    "user": "/admin/auth/user/1/change/",
    "password": "/admin/password_change/",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_screen_and_a_phone(page, name):
    page.goto(PAGES[name])
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(page, trouble, name, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(PAGES[name])
    assert trouble() == []


@pytest.mark.parametrize("name", ["overview", "server", "interface", "days", "hours", "top"])
def test_a_page_is_complete_without_scripts(browser, browser_context_args, name):
    context = browser.new_context(**browser_context_args, java_script_enabled=False)
    page = context.new_page()
    page.goto(PAGES[name])
    assert page.locator("main h1").is_visible()
    assert page.locator("svg path[d^=M]:visible, .bar rect:visible, .heat td:visible").count() > 0
    context.close()


def test_signing_in_needs_the_password(browser, hub):
    page = browser.new_page(base_url=hub)
    page.goto("/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", "wrong")
    page.click("text=Log in")
    expect(page.locator(".errornote")).to_be_visible()
    page.close()
