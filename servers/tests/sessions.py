"""Sessions of PostgreSQL that end when nobody expects it."""

import socket
import threading
from contextlib import suppress
from typing import Any

import psycopg
from django.db import connection


def address() -> dict[str, Any]:
    """Return where the database of the tests is, as psycopg takes it."""
    known = connection.settings_dict
    found = {"dbname": known["NAME"], "host": known["HOST"], "port": known["PORT"] or 5432}
    found |= {"user": known["USER"], "password": known["PASSWORD"]}
    return {name: value for name, value in found.items() if value}


def end_session() -> None:
    """End this thread's session at the server, as an administrator does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with psycopg.connect(**address()) as other:
        assert other.execute("SELECT pg_terminate_backend(%s::int, 5000::bigint)", [pid]).fetchone() == (True,)


class Cutter:
    """A way to the database that, once it is armed, delivers the next COMMIT and cuts before the answer comes back."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.is_armed = False
        self.cuts = 0
        self.target = (connection.settings_dict["HOST"] or "127.0.0.1", int(connection.settings_dict["PORT"] or 5432))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            is_cut = threading.Event()
            for pump in (self._there, self._back):
                threading.Thread(target=pump, args=(near, far, is_cut), daemon=True).start()

    def _there(self, near: socket.socket, far: socket.socket, is_cut: threading.Event) -> None:
        while data := _receive(near):
            if self.is_armed and b"COMMIT" in data:
                self.is_armed = False
                is_cut.set()
            far.sendall(data)
        _shut(far)

    def _back(self, near: socket.socket, far: socket.socket, is_cut: threading.Event) -> None:
        while (data := _receive(far)) and not is_cut.is_set():
            near.sendall(data)
        self.cuts += is_cut.is_set()
        _shut(near)
        _shut(far)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(65_536)
    except OSError:
        return b""


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
