"""What others name is text on every page: walked link by link, with hostile names in all that is stored."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote as quote_key
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import get_resolver, resolve, reverse
from django.utils import timezone

from homelab.tests.test_access_matrix import routes
from metrics import seal
from metrics.changes import ChangeKind
from metrics.models import Event, Interface
from servers.models import ApiKey, KeyKind, Server

NAMES = [
    "<planted onplanted=1>",
    '"onplanted=1 x="',
    "'><planted>",
    "</script></textarea></title><planted>",
    "{{7*7}}{% now 'Y' %}",
    "javascript:planted()//",
    "<!--",
    "a&amp;b<b>c",
    "=HYPERLINK(1)",
    "../../x?y=1#z",
    "'; DROP TABLE",
]
ALL = " ".join(NAMES)
EACH = 1  # pages that are opened of a route, and of each parameter that it takes
START = [
    "/admin/", "/admin/password_change/", "/admin/password_change/done/", "/admin/servers/", "/api/docs",
    *[f"/admin/{model}/?q={quote(NAMES[0])}" for model in ("servers/server", "metrics/interface", "servers/apikey")],
]  # fmt: skip
UNSEEN = {  # they show no page to who is signed in and asks by GET
    "admin/unit/", "admin/logout/", "admin/autocomplete/", "admin/jsi18n/", "admin/login/",
    "admin/r/<path:content_type_id>/<path:object_id>/", "admin/add/<slug:prefix>/", "admin/(?P<url>.*)$",
    "admin/servers/server/add/", "admin/metrics/interface/add/", "admin/metrics/interface/<path:object_id>/delete/",
    "admin/servers/apikey/<path:object_id>/delete/",
}  # fmt: skip


class Page(HTMLParser):
    """A page as a browser reads it: its elements, its text, and where its links and forms lead."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.open_script: dict[str, str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open_script = self.elements[-1][1] if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self.open_script = None

    def handle_data(self, data: str) -> None:
        if self.open_script is None:
            self.text.append(data)
        elif self.open_script.get("type") == "application/json":
            json.loads(data)
            self.text.append(data)
        else:
            self.scripts.append(data)

    def handle_comment(self, data: str) -> None:
        assert not any(name in data for name in NAMES)

    def shown(self) -> str:
        return " ".join([*self.text, *(value for _, attrs in self.elements for value in attrs.values())])

    def leads_to(self, *names: str) -> Iterator[str]:
        for _, attrs in self.elements:
            yield from (attrs[name] for name in names if attrs.get(name))


@pytest.fixture
def hostile(agent: Any, heartbeat: Any, interface: Any, server: Server) -> Server:
    """A server of which everything that can be named is named badly, by its agent or by a person."""
    now = timezone.now()
    for minutes in (120, 60, 1, 0):
        at = now - timedelta(minutes=minutes)
        reported = [interface(name, 1000 * (200 - minutes), mac=name[:17], master=name[:64]) for name in NAMES]
        facts = {"distribution": ALL[:100], "version": NAMES[0], "kernel": NAMES[1], "architecture": NAMES[2]}
        body = heartbeat(
            hostname=ALL, timestamp=at.isoformat(), boot_id=NAMES[0], uptime=9000 - 60 * minutes,
            sent_uptime=9000, agent_version=NAMES[3], os_info=facts, network_interfaces=reported,
        )  # fmt: skip
        assert agent.post("/api/v1/agents/heartbeat", body, format="json").status_code == 200
    seal.tick(now=now)
    Server.objects.update(display_name=NAMES[3], notes=ALL)
    Interface.objects.update(label=NAMES[0])
    for number, kind in enumerate(ChangeKind):
        name = NAMES[number % len(NAMES)]
        Event.objects.create(
            server=server, number=Event.first_number(now) + 100 + number, at=now, interface=name, kind=kind.value,
            before=name, after=name,
        )  # fmt: skip
    for name in NAMES:
        ApiKey.objects.make(KeyKind.READ, label=name)
    group = Group.objects.create(name=NAMES[0])
    user = User.objects.create(username=NAMES[3], first_name=NAMES[0], last_name=NAMES[1], is_staff=True)
    user.groups.add(group)
    for thing in things():
        LogEntry.objects.log_actions(user.pk, [thing], CHANGE, change_message=ALL)
    return server


def test_every_page_shows_what_others_name_as_text(hostile: Server, admin_user: User, client: Client):
    User.objects.filter(pk=admin_user.pk).update(first_name=NAMES[0])
    client.force_login(admin_user)
    pages = dict(walk(client))
    for url, page in pages.items():
        assert not [tag for tag, _ in page.elements if "planted" in tag], url
        assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)], url
        assert not "".join(page.scripts).strip(), url
        schemes = {urlsplit(link).scheme for link in page.leads_to("href", "src", "action", "formaction")}
        assert schemes <= {"", "http", "https"}, url
    for url in ("/admin/servers/server/nas/change/", "/admin/metrics/interface/", "/admin/servers/apikey/"):
        assert [name for name in NAMES if name not in pages[url].shown()] == [], url

    seen = {resolve(urlsplit(url).path).route for url in pages}
    html = {path.replace("^", "") for path in routes(get_resolver().url_patterns) if path.startswith("admin/")}
    assert {path for path in html - UNSEEN if not path.endswith("<path:object_id>/")} - seen == set()


def things() -> list[Any]:
    return [found.objects.first() for found in (Server, Interface, ApiKey, User, Group)]


def walk(client: Client) -> Iterator[tuple[str, Page]]:
    """Open the pages that links lead to, and those that their links lead to."""
    about = [
        reverse(f"admin:{thing._meta.app_label}_{thing._meta.model_name}_{what}", args=[quote_key(thing.pk)])
        for thing in things()
        for what in ("change", "history", "delete")
    ]
    waiting = [*START, *about]
    known, count = set(waiting), Counter()
    while waiting:
        url = waiting.pop(0)
        answer = client.get(url)
        assert answer.status_code in (200, 302, 403), url
        page = Page(answer.content.decode())
        if answer.status_code == 200:
            yield url, page
        for link in page.leads_to("href"):
            leads_to = urlsplit(urljoin(url, link))
            path = leads_to.path + (f"?{leads_to.query}" if leads_to.query else "")
            if leads_to.netloc or not leads_to.path.startswith("/admin/") or path in known or "logout" in path:
                continue
            known.add(path)
            route = resolve(leads_to.path).route
            kinds = [(route, name) for name, _ in parse_qsl(leads_to.query)] or [(route, "")]
            if min(count[kind] for kind in kinds) < EACH:
                waiting.append(path)
                count.update(kinds)


@pytest.mark.parametrize("path", ["/<planted>", "/admin/<planted>/", "/admin/servers/server/<planted>/change/"])
def test_a_page_that_is_not_there_shows_no_markup_of_its_address(admin_client: Client, path: str):
    answer = admin_client.get(path, follow=True)
    assert not [tag for tag, _ in Page(answer.content.decode()).elements if "planted" in tag]
