"""F27: 400 clients that are idle, drip their headers, or drip their bodies."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from homelab.serve import CONNECTIONS
from homelab.tests.faults.hubs import BreakableHub
from homelab.tests.faults.machines import Machine

CLIENTS = 400
GOOD = 60
EVERY_SECONDS = 0.5  # that a slow client sends one more byte
HEAD = b"POST /api/v1/agents/heartbeat HTTP/1.1\r\nHost: hub\r\nX-Api-Key: "
KINDS = {
    "idle": b"",
    "dripping its headers": HEAD,
    "dripping its body": HEAD + b"x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{",
}


@pytest.mark.parametrize("kind", KINDS)
def test_good_heartbeats_pass_by_slow_clients(hub: BreakableHub, patience, tally, kind: str):
    machine = Machine("nas", started=time.time() - 86_400)
    with slow_clients(hub.address, KINDS[kind]) as clients:
        seconds = [send(hub, machine) for _ in range(GOOD)]
        held = sum(map(is_open, clients))
    tally.note(slow_clients=held, lost=hub.auditor().compare([machine])[0])
    assert held == CLIENTS
    assert len(machine.acknowledged) == GOOD
    assert max(seconds) < patience
    assert "Traceback" not in hub.said()


def test_connections_up_to_the_limit_leave_files_for_the_database(hub: BreakableHub, tally):
    assert hub.kill()
    hub.start("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh")
    machines = [Machine(f"machine-{number}", started=time.time() - 86_400) for number in range(8)]
    with slow_clients(hub.address, b"", CONNECTIONS - 2 * len(machines)) as clients:
        senders = [threading.Thread(target=lambda of=of: [send(hub, of) for _ in range(10)]) for of in machines]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    tally.note(idle_clients=len(clients))
    assert hub.process.poll() is None, hub.said()
    assert [len(machine.acknowledged) for machine in machines] == [10] * len(machines)
    assert "Traceback" not in hub.said()


def send(hub: BreakableHub, machine: Machine) -> float:
    """Send a heartbeat over a connection of its own, as an agent does. Return how long it took."""
    time.sleep(0.02)
    began = time.monotonic()
    sender = hub.sender()
    sender.send(machine, [machine.collect(time.time())])
    sender.close()
    return time.monotonic() - began


@contextmanager
def slow_clients(address: str, beginning: bytes, count: int = CLIENTS) -> Iterator[list[socket.socket]]:
    """Open connections that each send this, and then a byte now and then; nothing more where it is empty."""
    host, port = address.split(":")
    clients = [socket.create_connection((host, int(port)), timeout=5) for _ in range(count)]
    over = threading.Event()

    def drip() -> None:
        while not over.wait(EVERY_SECONDS):
            for client in clients:
                client.send(b"x")

    for client in clients:
        client.send(beginning)
    dripping = threading.Thread(target=drip) if beginning else None
    if dripping:
        dripping.start()
    try:
        yield clients
    finally:
        over.set()
        if dripping:
            dripping.join()
        for client in clients:
            client.close()


def is_open(client: socket.socket) -> bool:
    """Tell whether the hub still holds the connection, and has answered nothing."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    return False
