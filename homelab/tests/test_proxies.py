"""The hub behind the proxies whose configuration docs/deploy/ has, with TLS: nginx, and Caddy where it is installed."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from django.conf import settings
from requests.adapters import HTTPAdapter

from homelab.tests.hub import ROOT, Hub, hub_on_sqlite, wait_for
from homelab.tests.test_serve import PASSWORD

pytestmark = hub_on_sqlite

DEPLOY = ROOT / "docs" / "deploy"
NGINX = """
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{sites}
}}
"""
CADDY = "{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\tstorage file_system {folder}\n}}\n{sites}"


class Site(NamedTuple):
    """A hub and the proxy in front of it."""

    hub: Hub
    tls: int
    plain: int
    certificate: Path
    key: str

    def client(self, address: str = "127.0.0.1") -> requests.Session:
        """Return a client that comes from an address of this machine."""
        session = requests.Session()
        session.mount("https://", _From(address))
        session.trust_env = False  # a bundle that it names would be taken instead
        session.verify = str(self.certificate)
        return session

    def url(self, path: str) -> str:
        return f"https://localhost:{self.tls}{path}"

    def sign_in(self, client: requests.Session, password: str, **headers: str) -> requests.Response:
        client.get(self.url("/admin/login/"), timeout=10)
        form = {"username": "admin", "password": password, "next": "/admin/"}
        form["csrfmiddlewaretoken"] = client.cookies["csrftoken"]
        headers = {"Referer": self.url("/admin/login/"), **headers}
        return client.post(self.url("/admin/login/"), form, headers=headers, allow_redirects=False, timeout=10)


class _From(HTTPAdapter):
    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **options)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def nginx(folder: Path, site: Site, key: Path) -> list[str]:
    sites = (DEPLOY / "nginx.conf").read_text()
    for old, new in {
        "listen [::]:80;": "", "listen [::]:443 ssl http2;": "", "listen 80;": f"listen 127.0.0.1:{site.plain};",
        "listen 443 ssl": f"listen 127.0.0.1:{site.tls} ssl", "hub.example;": "localhost;",
        "/etc/ssl/certs/hub.example.pem": str(site.certificate), "/etc/ssl/private/hub.example.key": str(key),
        "127.0.0.1:8000": site.hub.address,
    }.items():  # fmt: skip
        assert old in sites, old
        sites = sites.replace(old, new)
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, sites=sites, user="user root;" if os.geteuid() == 0 else ""))
    return ["nginx", "-p", str(folder), "-c", str(file), "-g", "daemon off;"]


def caddy(folder: Path, site: Site, key: Path) -> list[str]:
    sites = (DEPLOY / "Caddyfile").read_text()
    for old, new in {
        "http://hub.example {": f"http://localhost:{site.plain} {{",
        "\nhub.example {": f"\nhttps://localhost:{site.tls} {{\n\ttls {site.certificate} {key}",
        "127.0.0.1:8000": site.hub.address,
    }.items():
        assert old in sites, old
        sites = sites.replace(old, new)
    file = folder / "Caddyfile"
    file.write_text(CADDY.format(folder=folder, sites=sites))
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "Caddy"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    configure: Callable[[Path, Site, Path], list[str]] = request.param
    if not shutil.which(configure.__name__):
        pytest.skip(f"{configure.__name__} is not installed")
    folder, data = tmp_path_factory.mktemp("proxy"), tmp_path_factory.mktemp("hub")
    certificate, key, tls = folder / "certificate.pem", folder / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    hub = Hub(data, "--no-agent", HOMELAB_PUBLIC_URL=f"https://localhost:{tls}")
    site = Site(hub, tls, free_port(), certificate, hub.createkey("shared"))
    with (folder / "said").open("w") as said:
        environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
        proxy = subprocess.Popen(configure(folder, site, key), stdout=said, stderr=said, env=environment)
    try:
        assert wait_for(lambda: answers(site), seconds=20), (folder / "said").read_text()
        yield site
    finally:
        proxy.terminate()
        proxy.wait(timeout=20)
        hub.stop()


def answers(site: Site) -> bool:
    try:
        return site.client().get(site.url("/api/v1/system/health"), timeout=5).ok
    except requests.RequestException:
        return False


def test_who_signs_in_gets_cookies_for_tls_alone(site: Site):
    client = site.client()
    answer = site.sign_in(client, PASSWORD.search(site.hub.said())[1])
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    cookies = {cookie.name: cookie for cookie in client.cookies}
    assert all(cookie.secure for cookie in cookies.values())
    assert cookies["sessionid"].has_nonstandard_attr("HttpOnly")
    page = client.get(site.url("/admin/"), timeout=10)
    assert (page.status_code, page.url) == (200, site.url("/admin/"))
    assert page.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    added = client.post(
        site.url("/admin/add/"), {"csrfmiddlewaretoken": client.cookies["csrftoken"]},
        headers={"Referer": site.url("/admin/add/")}, timeout=10,
    )  # fmt: skip
    assert f"HOMELAB_URL=https://localhost:{site.tls} " in added.text


@pytest.mark.parametrize("path", ["/api/v1/servers", "/api/v1/servers/", "/api/docs", "/metrics", "/metrics/"])
def test_a_key_is_never_led_on(site: Site, path: str):
    answer = site.client().get(site.url(path), allow_redirects=False, timeout=10)
    assert (answer.status_code, "Location" in answer.headers) == (401, False)
    plain = site.client().get(f"http://localhost:{site.plain}{path}", allow_redirects=False, timeout=10)
    assert (plain.status_code, "Location" in plain.headers) == (404, False)


def test_a_page_that_is_asked_for_without_tls_is_asked_for_again_with_it(site: Site):
    answer = site.client().get(f"http://localhost:{site.plain}/admin/", allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (308, "https://localhost/admin/")


def test_who_guesses_waits_by_the_address_that_the_proxy_has_seen(site: Site):
    guesser = site.client("127.0.0.2")
    guesses = [
        site.sign_in(guesser, "wrong", **{"X-Forwarded-For": f"203.0.113.{number}"}).status_code
        for number in range(settings.AXES_FAILURE_LIMIT)
    ]
    assert guesses[-1] == 429
    right = PASSWORD.search(site.hub.said())[1]
    assert site.sign_in(guesser, right).status_code == 429
    assert site.sign_in(site.client("127.0.0.3"), right).status_code == 302
    assert 'ip_address: "127.0.0.2"' in site.hub.said()


def test_the_container_is_healthy_while_the_hub_is(site: Site):
    check = re.search(r"^HEALTHCHECK .* CMD (\[.+\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    program = json.loads(check)[2]
    assert "127.0.0.1:8000" in program
    codes = [
        subprocess.run([sys.executable, "-c", program.replace("127.0.0.1:8000", address)], stderr=subprocess.DEVNULL)
        for address in (site.hub.address, f"127.0.0.1:{free_port()}")
    ]
    assert [each.returncode for each in codes] == [0, 1]


@pytest.mark.parametrize(("mebibytes", "status"), [(0.9, 400), (1.5, 413)])
def test_a_body_over_one_mebibyte_is_refused_by_the_hub(site: Site, mebibytes: float, status: int):
    answer = send(site, mebibytes)
    assert answer.status_code == status
    assert set(answer.json()) == {"type", "errors", "request_id"}


def test_a_body_that_is_far_too_large_ends_at_the_proxy(site: Site):
    with suppress(requests.ConnectionError):  # it may be cut off while it still sends
        assert send(site, 5).status_code in (413, 502)  # Caddy before 2.7 may find the second first
    assert send(site, 0.1).status_code == 400


def send(site: Site, mebibytes: float) -> requests.Response:
    headers = {"Content-Type": "application/json", "X-API-Key": site.key}
    body = b" " * int(mebibytes * 2**20)
    return site.client().post(site.url("/api/v1/agents/heartbeat"), body, headers=headers, timeout=20)


def test_nobody_but_the_proxy_that_is_named_is_believed(tmp_path: Path):
    hub = Hub(tmp_path, "--no-agent", HOMELAB_PUBLIC_URL="https://localhost", HOMELAB_TRUSTED_PROXY="127.0.0.9")
    says = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.1"}
    answers = {}
    try:
        for address in ("127.0.0.1", "127.0.0.9"):
            session = requests.Session()
            session.mount("http://", _From(address))
            url = f"http://{hub.address}/admin/login/"
            answers[address] = session.get(url, headers=says, allow_redirects=False, timeout=10).status_code
            token = session.cookies.get("csrftoken", "")  # for TLS alone: the client would not send it
            form = {"username": "ada", "password": "wrong", "csrfmiddlewaretoken": token}
            headers = {**says, "Cookie": f"csrftoken={token}", "Referer": "https://localhost/"}
            session.post(url, form, headers=headers, allow_redirects=False, timeout=10)
    finally:
        hub.stop()
    assert answers == {"127.0.0.1": 301, "127.0.0.9": 200}
    assert hub.said().count('ip_address: "203.0.113.1"') == 1
