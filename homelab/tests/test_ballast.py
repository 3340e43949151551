"""Ballast on the database's disk. What it is for is in the faults: `faults/test_f14_disk_full.py`."""

import stat
from pathlib import Path

import pytest

from homelab.sqlite3 import ballast


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ballast, "BYTES", 2**20)
    return str(tmp_path / "db")


@pytest.fixture
def nearly_full(database: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The disk seems to have too little room: twice the ballast would be more than all of it."""
    monkeypatch.setattr(ballast, "BYTES", 2**60)
    monkeypatch.setattr(ballast, "SHARE", 1)
    return monkeypatch


def test_ballast_takes_up_room_and_is_for_its_owner(database: str):
    assert ballast.reserve(database)
    found = Path(f"{database}-ballast").stat()
    assert found.st_blocks * 512 >= 2**20
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_where_there_is_little_room_none_is_taken(database: str, nearly_full: pytest.MonkeyPatch, tmp_path: Path):
    assert not ballast.reserve(database)
    assert ballast.is_given_up(database)
    assert list(tmp_path.iterdir()) == []


def test_what_is_given_up_is_gone_and_comes_back_with_the_room(
    database: str, nearly_full: pytest.MonkeyPatch, tmp_path: Path
):
    Path(f"{database}-ballast").touch()
    ballast.give_up(database)
    assert list(tmp_path.iterdir()) == []
    assert not ballast.reserve(database)
    nearly_full.setattr(ballast, "BYTES", 2**20)
    assert ballast.reserve(database)
    assert not ballast.is_given_up(database)


def test_ballast_that_is_there_stays(database: str):
    assert ballast.reserve(database)
    before = Path(f"{database}-ballast").stat()
    assert ballast.reserve(database)
    assert Path(f"{database}-ballast").stat().st_ino == before.st_ino
