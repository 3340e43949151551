"""Every error under /api is JSON of one shape, and carries the id that the log has too."""

import json
import logging
import re
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.test import Client
from rest_framework.test import APIClient

from homelab.middleware import RequestIdFilter
from homelab.tests.hub import Hub
from servers import views


def has_our_shape(answer) -> bool:
    body = answer.json()
    assert set(body) == {"type", "errors", "request_id"}
    assert all(set(error) == {"code", "detail", "attr"} for error in body["errors"])
    assert body["errors"]
    return answer["Content-Type"] == "application/json" and answer["X-Request-ID"] == body["request_id"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, reader: APIClient):
    """Ask a view that raises the given error; the test client passes on no exception."""
    reader.raise_request_exception = False

    def ask(error: Exception):
        def get(*_: object, **__: object):
            raise error

        monkeypatch.setattr(views.ServerListView, "get", get)
        return reader.get("/api/v1/servers")

    return ask


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/v1", "/api/v2/servers", "/api/v1/nonsense/", "/api/%00", "/api//"]
)
def test_an_unknown_api_path_is_404(api: APIClient, path: str):
    answer = api.get(path)
    assert answer.status_code == 404
    assert has_our_shape(answer)


def test_an_unknown_page_is_no_json(client: Client):
    answer = client.get("/nonsense")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("host", ["evil", "evil.example:80", "127.0.0.1.evil", "a b", "[", ""])
def test_another_host_is_400(api: APIClient, host: str):
    answer = api.get("/api/v1/servers", HTTP_HOST=host)
    assert answer.status_code == 400
    assert has_our_shape(answer)


@pytest.mark.parametrize("error", [OperationalError("database is locked"), InterfaceError("connection already closed")])
def test_a_busy_database_is_503_with_retry_after(failing, error: Exception):
    answer = failing(error)
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert has_our_shape(answer)
    assert b"locked" not in answer.content


def test_a_suspicious_request_is_400(failing):
    answer = failing(SuspiciousOperation("secret"))
    assert answer.status_code == 400
    assert has_our_shape(answer)
    assert b"secret" not in answer.content


def test_an_error_of_ours_is_500_without_a_stack(failing):
    answer = failing(ZeroDivisionError("secret"))
    assert answer.status_code == 500
    assert has_our_shape(answer)
    assert b"secret" not in answer.content
    assert b"Traceback" not in answer.content


def test_every_request_has_an_id_of_its_own(reader: APIClient):
    ids = {reader.get("/api/v1/servers")["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in ids)


def test_a_request_id_that_the_client_sends_is_not_taken(reader: APIClient):
    assert reader.get("/api/v1/servers", HTTP_X_REQUEST_ID="evil\nline")["X-Request-ID"] != "evil\nline"


def test_the_log_line_of_a_failure_has_the_requests_id(failing, caplog: pytest.LogCaptureFixture):
    caplog.handler.addFilter(RequestIdFilter())
    logging.getLogger("django.request").addHandler(caplog.handler)
    answer = failing(ZeroDivisionError())
    logging.getLogger("django.request").removeHandler(caplog.handler)
    assert answer["X-Request-ID"] in [record.request_id for record in caplog.records]


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*", "nonsense", "application/json; indent=4"])
def test_the_answer_is_json_whatever_is_asked_for(reader: APIClient, accept: str):
    answer = reader.get("/api/v1/servers", HTTP_ACCEPT=accept)
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"


def test_what_django_never_sees_has_our_shape_too(tmp_path: Path):
    hub = Hub(tmp_path, "--no-agent")
    unread = {
        ("Content-Length", "-1"): 400,
        ("Content-Length", "10000000"): 413,
        ("X-Long", "x" * 300_000): 431,
        ("Transfer-Encoding", "gzip"): 501,
    }
    try:
        for header, status in unread.items():
            connection = HTTPConnection(hub.address, timeout=10)
            connection.request("POST", "/api/v1/agents/heartbeat", headers=dict([header]))
            answer = connection.getresponse()
            assert answer.status == status
            assert has_our_shape(_Read(answer)), header
    finally:
        hub.stop()


class _Read:
    """An answer off the wire, as the test client gives them."""

    def __init__(self, answer: HTTPResponse) -> None:
        self.body, self.headers = answer.read(), answer.headers

    def __getitem__(self, name: str) -> str | None:
        return self.headers[name]

    def json(self) -> Any:
        return json.loads(self.body)
