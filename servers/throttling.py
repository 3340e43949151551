"""How often may one ask. Token buckets in this process, which is the only one that serves."""

import re
import threading
from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from servers.models import SERVER_ID, ApiKey

PER_SECOND = 2.0
BURST = 30
REMEMBERED = 10_000  # buckets; about 200 bytes each


class Buckets:
    """A bucket of tokens for each name. It starts full, with `burst`, and `per_second` flow in.

    The `remembered` names that were used last are kept: one that is forgotten has a full bucket again.
    """

    def __init__(self, per_second: float, burst: int, remembered: int = REMEMBERED) -> None:
        self.per_second, self.burst, self.remembered = per_second, burst, remembered
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: Hashable, *, now: float) -> float:
        """Take a token and return 0; where there is none, return in how many seconds there is."""
        with self._lock:
            tokens, at = self._buckets.pop(name, (float(self.burst), now))
            now = max(now, at)
            tokens = min(tokens + (now - at) * self.per_second, self.burst)
            wait = max(1 - tokens, 0) / self.per_second
            self._buckets[name] = (tokens if wait else tokens - 1, now)
            if len(self._buckets) > self.remembered:
                self._buckets.popitem(last=False)
        return wait

    def clear(self) -> None:
        with self._lock:
            self._buckets.clear()


reports = Buckets(PER_SECOND, BURST)
failures = Buckets(PER_SECOND, BURST)
sign_ins = Buckets(1 / 3, 20)  # of people, by address
uses = Buckets(1 / 300, 1)  # how often the use of a key is written down


class ReportThrottle(BaseThrottle):
    """What agents send: for each key and each server that it writes, however many heartbeats a request holds."""

    seconds = 0.0

    def allow_request(self, request: Request, view: Any) -> bool:
        if settings.THROTTLE and isinstance(request.auth, ApiKey):
            key, now = request.auth, monotonic()
            servers = {key.server_id} if key.server_id else _named(request.data)
            self.seconds = max(reports.take((key.pk, server), now=now) for server in servers)
        return self.seconds == 0

    def wait(self) -> float:
        return self.seconds


def failed(request: Request) -> float:
    """Count a request without a valid key. Return in how many seconds its address may try again, 0 for at once.

    The address is the peer's, or what a proxy that is believed says of its own. Requests with a valid key are never
    refused for the failures of their address.
    """
    address = network(request.META.get("REMOTE_ADDR", ""))
    return failures.take(address, now=monotonic()) if settings.THROTTLE else 0


def network(address: str) -> str:
    """Return the address, of IPv6 the /64: that is what one machine has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) else address


def _named(body: Any) -> set[str]:
    """Return the servers that a request speaks of; one without a name where there is none that can be."""
    items = body.get("heartbeats", body) if isinstance(body, dict) else None
    items = items if isinstance(items, list) else [items]
    names = (item.get("server_id") for item in items if isinstance(item, dict))
    return {name for name in names if isinstance(name, str) and re.match(SERVER_ID, name)} or {""}
