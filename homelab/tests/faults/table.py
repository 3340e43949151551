"""The table that a run of the faults ends with: row, injected how often, lost, twice, verdict."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from homelab.tests.faults.hubs import ON_POSTGRESQL

FAULT = "fault"
VERDICTS = ("passed", "failed", "error")
COLUMNS = "{:<5} {:<72} {:>40} {:>6} {:>6}  {}"


class Tally:
    """What one test injected, and what it found then; noted before anything is asserted."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.item = request.node
        row, _, title = (request.module.__doc__ or "").partition("\n")[0].partition(": ")
        self.item.user_properties.append((FAULT, {"row": row, "title": title.rstrip(".")}))

    def note(self, *, lost: int = 0, twice: int = 0, **injected: int) -> None:
        """`injected` says what and how often, such as `hub_kills=3`. A test that injects nothing fails."""
        self.item.user_properties.append((FAULT, {"lost": lost, "twice": twice, "injected": injected}))
        assert injected, "nothing was injected"
        assert all(injected.values()), f"not injected: {injected}"
        assert (lost, twice) == (0, 0)


class Table:
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = list(_rows(terminalreporter.stats))
        if not rows:
            return
        write = terminalreporter.write_line
        write("")
        write(f"Faults, on {'PostgreSQL' if ON_POSTGRESQL else 'SQLite'}")
        write(COLUMNS.format("row", "fault", "injected", "lost", "twice", "verdict"))
        kills: Counter[str] = Counter()
        for row in rows:
            write(COLUMNS.format(*row[:-1]))
            kills.update({what: times for what, times in row[-1].items() if what.endswith("kills")})
        total = ", ".join(f"{times:,} {what.replace('_', ' ')}" for what, times in sorted(kills.items()))
        write(f"{kills.total():,} kills in all: {total}" if kills else "No kills.")


def _rows(stats: dict[str, list[Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield a line for each row of the faults, of all its tests together."""
    titles: dict[str, str] = {}
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    injected: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in VERDICTS:
        for report in stats.get(verdict, []):
            notes = [note for name, note in getattr(report, "user_properties", []) if name == FAULT]
            if not notes or (report.when != "call" and verdict == "passed"):
                continue
            row = notes[0]["row"]
            titles[row] = notes[0]["title"]
            sums[row][verdict] += 1
            for note in notes[1:]:
                sums[row].update(lost=note["lost"], twice=note["twice"])
                injected[row].update(note["injected"])
    for row in sorted(titles, key=lambda row: int(row[1:])):
        what = ", ".join(f"{times:,} {name.replace('_', ' ')}" for name, times in injected[row].items())
        verdict = "holds" if not sums[row]["failed"] + sums[row]["error"] else "FAILS"
        yield row, titles[row], what, sums[row]["lost"], sums[row]["twice"], verdict, injected[row]
