"""A real hub of its own, filled with a fleet, and Chromium signed in to it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import BrowserContext, Page

from homelab.tests.browser.fill import NAME, PASSWORD

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = settings.BASE_DIR / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    return {"executable_path": os.environ.get("CHROMIUM", "/usr/bin/chromium"), "args": list(FLAGS)}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a hub in a process of its own, and return its address."""
    environment = {**os.environ, "HOMELAB_DATA_DIR": str(tmp_path_factory.mktemp("hub"))}
    environment.pop("DATABASE_URL", None)
    run = {"cwd": settings.BASE_DIR, "env": environment}
    subprocess.run([sys.executable, "-m", "homelab.tests.browser.fill"], check=True, **run)
    address = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "manage.py", "serve", "--no-agent", "--bind", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **run) as process:
        try:
            _wait_for(address)
            yield f"http://{address}"
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def session(browser: Any, hub: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sign in once, and keep the cookies for every test."""
    kept = tmp_path_factory.mktemp("session") / "cookies.json"
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{hub}/admin/")
    page.fill("#id_username", NAME)
    page.fill("#id_password", PASSWORD)
    page.click("text=Log in")
    page.wait_for_url(f"{hub}/admin/")
    context.storage_state(path=kept)
    context.close()
    return kept


@pytest.fixture
def browser_context_args(session: Path, hub: str) -> dict[str, Any]:
    return {"storage_state": session, "base_url": hub, "viewport": {"width": 1280, "height": 900}}


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Iterator[Page]:
    """A page that must not complain: no console error, no failed script, no dialog, no file that is not there."""
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    yield page
    assert complaints == []


@pytest.fixture
def trouble(page: Page, complaints: list[str]) -> Callable[[], list[str]]:
    """Return a function that names what axe finds serious on the page."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: run `npm ci`")

    def find() -> list[str]:
        assert complaints == []
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")["violations"]
        complaints.clear()  # axe sets styles of its own to see what scrolls, which the page's policy forbids
        serious = [violation for violation in found if violation["impact"] in ("serious", "critical")]
        return [f"{violation['id']}: {node['html'][:160]}" for violation in serious for node in violation["nodes"]]

    return find


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(address)
