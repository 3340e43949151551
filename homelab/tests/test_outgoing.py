"""The hub goes nowhere that a request names: what it opens while it answers is watched by the interpreter itself."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from homelab.tests.test_access_matrix import ROWS
from servers.models import KeyKind

pytestmark = pytest.mark.django_db

OUTGOING = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostby", "subprocess", "os.system",
            "os.exec", "os.posix_spawn", "os.fork", "urllib", "http.client", "ftplib", "smtplib")  # fmt: skip
URL = "http://127.0.0.1:9/planted"
HEADERS = {
    "HTTP_HOST": "localhost", "HTTP_ORIGIN": URL, "HTTP_REFERER": URL, "HTTP_X_FORWARDED_HOST": "127.0.0.1:9",
    "HTTP_X_FORWARDED_FOR": "127.0.0.1", "HTTP_FORWARDED": f"for=127.0.0.1;host={URL}", "HTTP_CALLBACK": URL,
}  # fmt: skip

seen: list[str] = []
hooked: list[Any] = []
is_watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if is_watching and event.startswith(OUTGOING):
        seen.append(f"{event} {arguments}")


@contextmanager
def watched() -> Iterator[list[str]]:
    global is_watching
    if watch not in hooked:
        sys.addaudithook(watch)  # stays for as long as the process
        hooked.append(watch)
    seen.clear()
    is_watching = True
    try:
        yield seen
    finally:
        is_watching = False


def test_what_goes_out_is_seen():
    with watched() as went:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
        socket.getaddrinfo("localhost", 9)
        subprocess.run(["true"], check=True)
    assert [line.split()[0] for line in went][:2] == ["socket.connect", "socket.getaddrinfo"]
    assert "subprocess.Popen" in went[2]


@pytest.mark.parametrize("kind", KeyKind.values)
def test_no_call_of_the_api_makes_the_hub_go_anywhere(keys: dict[str, str], heartbeat: Any, interface: Any, kind: str):
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {keys[kind]}", **HEADERS)
    named = heartbeat(
        hostname=URL, callback=URL, url=URL, agent_version=URL, os_info={"distribution": URL},
        network_interfaces=[interface(URL, master=URL, addresses=[URL])],
    )  # fmt: skip
    bodies = [named, {"heartbeats": [named]}, {"server_id": "pi", "hostname": URL, "url": URL}, {"$ref": URL}]
    statuses = set()
    with watched() as went:
        for row in ROWS.values():
            path = row.call.split()[1]
            query = dict.fromkeys(("interface", "url", "callback", "next", "server", "tz", "start", "format"), URL)
            statuses.add(client.get(path).status_code)
            statuses.add(client.get(path, query).status_code)
            for body in bodies:
                sent = json.dumps(body)
                statuses.add(client.post(path, sent, content_type="application/json").status_code)
        assert went == []
    assert statuses & {200, 201}


def test_no_page_makes_the_hub_go_anywhere(admin_user: User, server: Any):
    client = Client(raise_request_exception=False)
    client.force_login(admin_user)
    pages = ["", "top/", "storage/", "add/", "servers/server/", "servers/server/nas/change/", "servers/apikey/add/"]
    with watched() as went:
        for page in pages:
            client.get(f"/admin/{page}", {"next": URL, "url": URL, "q": URL, "interface": URL}, **HEADERS)
            answer = client.post(f"/admin/{page}", {"next": URL, "display_name": URL, "label": URL}, **HEADERS)
            assert URL not in answer.get("Location", "")
        client.post("/admin/unit/", {"next": URL, "unit": "bits"}, **HEADERS)
        assert went == []
