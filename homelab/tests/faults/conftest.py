"""A hub for each test, copied from one that was set up once; each test tells the table what it injected."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import ceil
from pathlib import Path

import pytest

from homelab.tests.faults.hubs import BreakableHub, Origin, drop
from homelab.tests.faults.table import Table, Tally

HERE = Path(__file__).parent
ALL_ROUNDS = 200
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))

StartHub = Callable[..., BreakableHub]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Table(), "table_of_faults")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(scope="session")
def rounds() -> Callable[[int], int]:
    """How often to inject what a whole run injects so often."""
    return lambda whole: ceil(whole * ROUNDS / ALL_ROUNDS)


@pytest.fixture(scope="session")
def every() -> int:
    """Of a row of places, take each so-manieth: in a whole run each one."""
    return ceil(ALL_ROUNDS / ROUNDS)


@pytest.fixture(scope="session")
def patience() -> float:
    """What limits of time are multiplied by: they are those of the whole run, the short one is for any machine."""
    return 1.0 if ROUNDS >= ALL_ROUNDS else 4.0


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return Tally(request)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    origin = Origin(tmp_path_factory.mktemp("origin"))
    yield origin
    if origin.database:
        drop(origin.database)


@pytest.fixture
def start_hub(origin: Origin, tmp_path: Path) -> Iterator[StartHub]:
    """Start a hub of the test's own, with these variables in its environment; no agent of this machine, no throttle."""
    with ExitStack() as hubs:
        yield lambda **variables: hubs.enter_context(
            origin.copy(tmp_path / f"hub-{len(hubs._exit_callbacks)}", **variables)
        )


@pytest.fixture
def hub(start_hub: StartHub) -> BreakableHub:
    return start_hub()
