"""What the hub's tests share: keys of each kind, clients that carry them, and heartbeats to send."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from rest_framework.test import APIClient

from metrics import memory
from servers.models import ApiKey, KeyKind, Server

settings.register_profile("homelab", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("homelab")

Body = dict[str, Any]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:No directory at:UserWarning")  # static files are not collected


@pytest.fixture(autouse=True)
def plain_static_files(settings: Any) -> None:
    """No test waits for static files to be collected, hashed and compressed."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    """A test that makes a user does not wait for Argon2; those of passwords take the hashers of the settings."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    memory.forget()


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """Today's noon, which it is: what is reported minutes before is of one day and of one month."""
    noon = timezone.localtime().replace(hour=12, minute=0, second=30, microsecond=0)
    monkeypatch.setattr(timezone, "now", lambda: noon)
    return noon


@pytest.fixture(autouse=True)
def unthrottled(settings: Any) -> None:
    """Tests ask as often as they like; those of the throttle switch it on."""
    settings.THROTTLE = False


@pytest.fixture(scope="session")
def interface() -> Callable[..., Body]:
    """Build an interface as an agent sends it; `...` leaves a field out."""

    def build(name: Any = "eth0", rx_bytes: Any = 0, tx_bytes: Any = 0, **changes: Any) -> Body:
        counters = {"rx_bytes": rx_bytes, "tx_bytes": tx_bytes, "rx_packets": 0, "tx_packets": 0}
        return _without({"name": name, **counters, "is_up": True, **changes})

    return build


@pytest.fixture(scope="session")
def heartbeat(interface: Callable[..., Body]) -> Callable[..., Body]:
    """Build a heartbeat of server `nas` as an agent sends it; `...` leaves a field out."""

    def build(**changes: Any) -> Body:
        body = {
            "server_id": "nas",
            "hostname": "nas.home.arpa",
            "timestamp": "2026-03-01T06:30:00+00:00",
            "boot_id": "boot-1",
            "uptime": 1000.0,
            "sent_uptime": 1000.0,
            "interval": 60,
            "network_interfaces": [interface()],
        }
        return _without({**body, **changes})

    return build


@pytest.fixture
def golden() -> Body:
    return json.loads((Path(__file__).parent / "docs" / "heartbeat.json").read_text())


@pytest.fixture
def server(db: None) -> Server:
    return Server.objects.create(id="nas", hostname="nas.home.arpa")


@pytest.fixture
def keys(server: Server) -> dict[str, str]:
    """The text of one live key of each kind; the agent's writes `server`."""
    return {
        kind: ApiKey.objects.make(kind, server=server if kind == KeyKind.AGENT else None)[1] for kind in KeyKind.values
    }


@pytest.fixture
def api() -> APIClient:
    """A client without a key."""
    return APIClient()


@pytest.fixture
def reader(keys: dict[str, str]) -> APIClient:
    return _with_key(keys["read"])


@pytest.fixture
def agent(keys: dict[str, str]) -> APIClient:
    return _with_key(keys["agent"])


@pytest.fixture
def shared(keys: dict[str, str]) -> APIClient:
    return _with_key(keys["shared"])


def _with_key(text: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def _without(body: Body) -> Body:
    return {name: value for name, value in body.items() if value is not ...}
