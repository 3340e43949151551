"""What is secret is in no line of the log, whatever a request brings and however it fails."""

import gzip
import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from homelab.tests.hub import Hub, hub_on_sqlite
from homelab.tests.test_access_matrix import ROWS
from homelab.tests.test_serve import PASSWORD as PRINTED
from servers.models import KeyKind

pytestmark = hub_on_sqlite

WRONG, TYPED_AS_NAME, NEW, OTHERS = (f"planted-password-{number}" for number in range(4))
COOKIE, TOKEN, QUERY, BODY = "planted-cookie", "planted-token", "planted-query", "planted-body"
GUESS = "0123456789.planted-guess"
PLANTED = [WRONG, TYPED_AS_NAME, NEW, OTHERS, COOKIE, TOKEN, QUERY, BODY, GUESS]

HEARTBEAT = {
    "server_id": "nas", "hostname": BODY, "timestamp": "2026-03-01T06:30:00+00:00", "boot_id": BODY, "uptime": 1000,
    "network_interfaces": [
        {"name": BODY, "is_up": True, "rx_bytes": 1, "tx_bytes": 1, "rx_packets": 1, "tx_packets": 1},
    ],
}  # fmt: skip
BODIES: list[tuple[str, bytes]] = [
    ("application/json", json.dumps(HEARTBEAT).encode()),
    ("application/json", json.dumps({"heartbeats": [HEARTBEAT, BODY, {"server_id": BODY}]}).encode()),
    ("application/json", json.dumps({"server_id": "pi", "hostname": BODY}).encode()),
    ("application/json", f'{{"{BODY}": "{BODY}'.encode()),
    ("application/json", f'"{BODY}"'.encode().ljust(1_100_000)),
    ("application/json; charset=utf-16", BODY.encode("utf-16")),
    ("text/plain", BODY.encode()),
    ("application/x-www-form-urlencoded", f"password={NEW}&key={GUESS}".encode()),
    ("application/json", gzip.compress(BODY.encode())),
]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path, "--no-agent", HOMELAB_THROTTLE="off")
    yield hub
    hub.stop()


def test_no_secret_is_in_the_log(hub: Hub):
    person, keys = sign_in(hub)
    secrets = {*PLANTED, *[key.partition(".")[2] for key in keys], *person.cookies.get_dict().values()}
    seen = ask_everything(hub, [*keys, GUESS], person)
    assert {200, 201, 400, 401, 403, 404, 405, 413, 415} <= seen
    with closing(sqlite3.connect(hub.data / "homelab.sqlite3", isolation_level=None)) as database:
        database.execute("UPDATE servers_snapshot SET network_interfaces = '7'")
        database.execute("ALTER TABLE metrics_heartbeat RENAME TO metrics_gone")
    assert {500, 503} <= ask_everything(hub, [*keys, GUESS], person)

    said = hub.said()
    assert "Traceback" in said, "nothing failed badly enough to be told of"
    assert "Answered 503" in said
    assert [secret for secret in secrets if secret in said] == []


def sign_in(hub: Hub) -> tuple[requests.Session, list[str]]:
    """Sign in after two mistakes, change the password, make a user, and a key of each kind. Return session and keys."""
    person = requests.Session()

    def post(path: str, **form: str) -> requests.Response:
        person.get(f"http://{hub.address}{path}", timeout=10)
        form["csrfmiddlewaretoken"] = person.cookies["csrftoken"]
        return person.post(f"http://{hub.address}{path}", form, timeout=10)

    first = PRINTED.search(hub.said())[1]
    for name, password in [("admin", WRONG), (TYPED_AS_NAME, WRONG), ("admin", first)]:
        post("/admin/login/", username=name, password=password)
    assert "/done/" in post("/admin/password_change/", old_password=first, new_password1=NEW, new_password2=NEW).url
    other = post("/admin/auth/user/add/", username="bob", password1=OTHERS, password2=OTHERS, usable_password="true")
    assert "/change/" in other.url
    servers = {"agent": "nas"}
    made = [
        post("/admin/servers/apikey/add/", kind=kind, label="", expires_at="", server_id=servers.get(kind, ""))
        for kind in KeyKind.values
    ]
    return person, [re.search(r'id="secret">([^<]+)', answer.text)[1] for answer in made]


def ask_everything(hub: Hub, keys: list[str], person: requests.Session) -> set[int]:
    """Ask every route with every key, body and method, and some that are no HTTP. Return the statuses seen."""
    headers: list[dict[str, Any]] = [
        {},
        *[{"Authorization": f"Bearer {key}"} for key in keys],
        {"X-API-Key": GUESS, "Authorization": f"Basic {GUESS}"},
        {"Cookie": f"sessionid={COOKIE}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN, "Referer": f"http://x/?{QUERY}"},
    ]
    paths = [row.call.split()[1] for row in ROWS.values()]
    pages = ["/admin/", "/admin/top/", "/admin/servers/server/", "/admin/servers/server/nas/change/", "/admin/login/"]
    seen, session = set(), requests.Session()
    for path in [*paths, *pages]:
        url = f"http://{hub.address}{path}?key={QUERY}&password={QUERY}"
        seen.add(person.get(url, timeout=10).status_code)
        seen.add(person.post(url, {"password": NEW, "csrfmiddlewaretoken": TOKEN}, timeout=10).status_code)
        seen.add(session.delete(url, headers=headers[-1], timeout=10).status_code)
        for each in headers[-2:] if path in pages else headers:
            seen.add(session.get(url, headers=each, timeout=10).status_code)
    for path in [path for path in paths if "/agents/" in path]:
        for each in headers[1:-2]:
            for kind, body in BODIES:
                coded = {"Content-Encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
                sent = {**each, **coded, "Content-Type": kind}
                seen.add(session.post(f"http://{hub.address}{path}", body, headers=sent, timeout=10).status_code)
    for request in (f"{GUESS} / HTTP/9\r\n", f"GET /?{QUERY} HTTP/1.1\r\nHost: {QUERY}\r\nX {GUESS}\r\n"):
        host, port = hub.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(f"{request}Connection: close\r\n\r\n".encode())
            assert b"400" in raw.recv(65_536)
    return seen
