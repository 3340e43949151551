"""Every page with a demo fleet, light and dark, wide and on a phone: what docs/pages.md shows.

`python -m homelab.tests.browser.screenshots [FOLDER]`, docs/images by default. Each picture is to be looked at.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "homelab.settings")

from playwright.sync_api import Browser, sync_playwright

from homelab.tests.browser.conftest import FLAGS
from homelab.tests.hub import ROOT, Hub

PASSWORD = "a password of screenshots"
FLEET = ("--servers", "8", "--interfaces", "8", "--days", "35")
PAGES = {
    "sign-in": "/admin/login/",
    "overview": "/admin/",
    "servers": "/admin/servers/server/",
    "server": "/admin/servers/server/nas/change/",
    "interfaces": "/admin/metrics/interface/",
    "interface": "/admin/metrics/interface/{interface}/change/?period=7d",
    "days": "/admin/metrics/interface/{interface}/change/?show=days",
    "months": "/admin/metrics/interface/{interface}/change/?show=months",
    "hours": "/admin/metrics/interface/{interface}/change/?show=hours",
    "top": "/admin/top/",
    "storage": "/admin/storage/",
    "add": "/admin/add/",
    "keys": "/admin/servers/apikey/",
}
WIDTHS = {1280: 800, 390: 760}  # and heights


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="homelab-screenshots-") as data:
        hub = Hub(Path(data), "--no-agent")
        create = hub.manage("createsuperuser", "--noinput", "--username", "operator", "--email", "operator@example.org")
        subprocess.run(create, cwd=ROOT, env={**hub.environment, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}, check=True)
        hub.run("createkey", "--kind", "read", "--label", "grafana")
        hub.run("demo", *FLEET)
        with closing(sqlite3.connect(hub.data / "homelab.sqlite3")) as database:
            query = "SELECT id FROM metrics_interface WHERE server_id = 'nas' AND name = 'eth0'"
            ((interface,),) = database.execute(query)
        addresses = {name: path.format(interface=interface) for name, path in PAGES.items()}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=list(FLAGS)
            )
            for theme in ("light", "dark"):
                for width, height in WIDTHS.items():
                    seem_online(hub.data)
                    take(browser, f"http://{hub.address}", addresses, theme, width, height, folder)
            browser.close()
        hub.stop()


def seem_online(data: Path) -> None:
    """A demo does not go on reporting. All but one are shown as if they did."""
    with closing(sqlite3.connect(data / "homelab.sqlite3")) as database, database:
        database.execute(
            "UPDATE servers_snapshot SET last_seen_at = ? WHERE server_id != 'backup'",
            [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"],
        )


def take(
    browser: Browser, hub: str, addresses: dict[str, str], theme: str, width: int, height: int, folder: Path
) -> None:
    context = browser.new_context(
        base_url=hub, viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    for name, address in addresses.items():
        page.goto(address)
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(300)  # the charts draw themselves
        page.screenshot(path=folder / f"{name}-{theme}-{width}.png")
        if name == "sign-in":
            page.fill("#id_username", "operator")
            page.fill("#id_password", PASSWORD)
            page.click("text=Log in")
            page.wait_for_url(f"{hub}/admin/")
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
