from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metrics.ingest import Receipt, ingest
from metrics.serializers import parse_heartbeat

NOW = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    """Instant 0 of `store`."""
    return NOW


@pytest.fixture
def store(db: None, heartbeat: Callable[..., dict[str, Any]]) -> Callable[..., Receipt]:
    """Store a heartbeat of server `nas`, collected `seconds` after instant 0 and received `late` seconds after that.

    Boot `boot-1` is up for 1000 s at instant 0. `changes` are fields of the heartbeat.
    """

    def build(seconds: float = 0, late: float = 0, *, now: datetime = NOW, **changes: Any) -> Receipt:
        collected_at = now + timedelta(seconds=seconds)
        times = {"timestamp": collected_at.isoformat(), "uptime": 1000.0 + seconds}
        body = heartbeat(**{**times, "sent_uptime": 1000.0 + seconds + late, **changes})
        return ingest(parse_heartbeat(body), may_register=True, now=collected_at + timedelta(seconds=late))

    return build
