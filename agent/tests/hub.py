"""A small honest hub: it stores what it acknowledges, and says what it was asked to say when a test scripts a fault."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

KEY = "hl_0123456789abcdef"
SERVER_TIME = "2026-03-01T06:30:00+00:00"


class HonestHub:
    """`received` are all parsed bodies, `stored` the heartbeats by their identity, `keys` every credential that came.

    `script` holds faults: each is called with the request handler instead of the honest answer, first in, first out.
    """

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.key = KEY
        self.enrolment_key = "hl_enrolment"
        self.received: list[tuple[str, Any]] = []
        self.stored: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.outcomes: list[str] = []
        self.keys: list[str | None] = []
        self.script: deque[Callable[[Handler], None]] = deque()
        self.fired: list[str] = []
        self.poison: Callable[[dict[str, Any]], bool] = lambda heartbeat: False
        self.lock = threading.Lock()
        self.server = Server((address, 0), Handler)
        self.tls = tls
        if tls:
            # The handshake is done by the thread that serves the connection, so that a failed one stops nobody.
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.server.daemon_threads = True
        self.server.hub = self  # type: ignore[attr-defined]

    def __enter__(self) -> HonestHub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        address, port = self.server.server_address[:2]
        return f"{'https' if self.tls else 'http'}://{address!s}:{port}"

    def ingest(self, heartbeat: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            if self.poison(heartbeat):
                outcome: dict[str, Any] = {"outcome": "rejected", "error": {"type": "validation_error"}}
            else:
                identity = (heartbeat["server_id"], heartbeat.get("boot_id"), heartbeat["uptime"])
                outcome = {"outcome": "duplicate" if identity in self.stored else "accepted"}
                self.stored.setdefault(identity, heartbeat)
            self.outcomes.append(outcome["outcome"])
        return outcome


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A connection that breaks off is what these tests are about, and no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HonestHub:
        return self.server.hub  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.keys.append(self.headers.get("Authorization"))
        if self.hub.script:
            fault = self.hub.script.popleft()
            self.hub.fired.append(getattr(fault, "__name__", "fault"))
            fault(self)
        else:
            self.answer_honestly()

    def answer_honestly(self) -> None:
        if self.path.endswith("/api/v1/agents/enrol"):
            return self.enrol()
        if self.headers.get("Authorization") != f"Bearer {self.hub.key}":
            return self.say(401, {"type": "client_error", "errors": []})
        body = json.loads(self.data)
        self.hub.received.append((self.path, body))
        if self.path.endswith("/api/v1/agents/heartbeats"):
            results = [self.hub.ingest(heartbeat) for heartbeat in body["heartbeats"]]
            return self.say(200, {"status": "ok", "results": results, "server_time": SERVER_TIME})
        if self.path.endswith("/api/v1/agents/heartbeat"):
            outcome = self.hub.ingest(body)
            if outcome["outcome"] == "rejected":
                return self.say(400, outcome["error"])
            return self.say(200, {"status": "ok", "server_registered": False, **outcome, "server_time": SERVER_TIME})
        return self.say(404, {"type": "client_error", "errors": []})

    def enrol(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.hub.enrolment_key}":
            return self.say(401, {"type": "client_error", "errors": []})
        body = json.loads(self.data)
        self.hub.received.append((self.path, body))
        return self.say(201, {"server_id": body["server_id"], "key": self.hub.key})

    def say(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        """`body` goes out as JSON, unless it is bytes already."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> Callable[[Handler], None]:
    def fault(handler: Handler) -> None:
        handler.say(status, body, headers)

    fault.__name__ = f"answer_{status}"
    return fault
