"""A proxy that misbehaves on purpose, to stand between an agent and any hub."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque

PORTAL = b"<html><title>Welcome</title>Accept our terms to go online</html>"


class Proxy:
    """Forwards requests, but for each waiting fault does that instead, first in, first out; `fired` tells which did.

    `requests` are all that came, whole, and `answers` all that the hub gave, whether they were passed on or not.

    lose_ack   forward, wait until the hub has answered, then reset the connection
    cut_ack    forward, then pass on only half of the answer
    reset      reset the connection without forwarding
    portal     answer with a captive portal's page
    empty      answer 200 with nothing
    busy       answer 503 with Retry-After: 2
    redirect   answer `redirects` with `elsewhere` as the place to go
    hold       wait for `go_on`, then forward

    Bodies above `largest_body` are always reset, as by a middlebox that dislikes them.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://").split(":")
        self.faults: deque[str] = deque()
        self.fired: list[str] = []
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.connections = 0
        self.redirects, self.elsewhere = 302, ""
        self.go_on = threading.Event()
        self.largest_body: int | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while request := read_message(connection):
                self.requests.append(request)
                too_large = self.largest_body is not None and len(request) > self.largest_body
                fault = "reset" if too_large else self.faults.popleft() if self.faults else ""
                if fault:
                    self.fired.append(fault)
                if fault == "reset":
                    return reset(connection)
                if fault == "portal":
                    return connection.sendall(page(PORTAL))
                if fault == "empty":
                    return connection.sendall(page(b""))
                if fault == "busy":
                    return connection.sendall(page(b"", 503, "Retry-After: 2"))
                if fault == "redirect":
                    return connection.sendall(page(b"", self.redirects, f"Location: {self.elsewhere}"))
                if fault == "hold":
                    self.go_on.wait(20)
                answer = self.forward(request)
                self.answers.append(answer)
                if fault == "lose_ack":
                    return reset(connection)
                if fault == "cut_ack":
                    return connection.sendall(answer[: len(answer) - 20])
                connection.sendall(answer)
        return None

    def forward(self, request: bytes) -> bytes:
        with socket.create_connection((self.upstream[0], int(self.upstream[1]))) as hub:
            hub.sendall(request)
            return read_message(hub)


def read_message(connection: socket.socket) -> bytes:
    """One HTTP message with a Content-Length; empty when the other side has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0] if lengths else 0):
        more = connection.recv(65_536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body


def page(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = ("Content-Type: text/html", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join((f"HTTP/1.1 {status} -", *lines, "", "")).encode() + body


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN: that is what SO_LINGER with a time of zero does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
