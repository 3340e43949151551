"""What was read once, kept while it stays true: unrolled readings and hours of the interfaces last asked about.

A page asks the same again and again, and between two heartbeats of a server nothing about it changes. Every heartbeat
counts up its server's `Snapshot.revision` in its own transaction, and whatever is sealed, merged or pruned its
`Snapshot.sealed_revision`: what was read while neither has changed is still right, whichever process wrote since.
What was read of chunks alone stays right for longer, until `sealed_revision` counts up. That is to be read with what
waits in the log, or after it: what is sealed in between would be in neither. A ranking stays right while
`Standings.version` is the same, which heartbeats that go on plainly after its window do not change.
"""

from collections.abc import Hashable, Iterable
from threading import Lock
from typing import Any, NamedTuple

from cachetools import LRUCache

ROWS = 2_000_000  # a day of 300 servers, read ahead, and what their lists show of this month
ROW_BYTES = 50  # six values
_LEAST_ROWS = 50  # what an entry without readings takes all the same


class _Kept(NamedTuple):
    revision: int
    rows: int
    value: Any


_kept: LRUCache[Hashable, _Kept] = LRUCache(ROWS, getsizeof=lambda kept: kept.rows + _LEAST_ROWS)
_lock = Lock()


def recall(key: Hashable, revision: int | None) -> Any | None:
    """Return what was kept under the key at this revision, or None."""
    with _lock:
        kept = _kept.get(key)
    return kept.value if kept is not None and kept.revision == revision else None


def revision_of(interfaces: Iterable[Any]) -> int | None:
    """Return the revision of several interfaces together, or None where one has none."""
    revisions = [interface.revision for interface in interfaces]
    return sum(revisions) if None not in revisions else None


def keep(key: Hashable, revision: int | None, value: Any, *, rows: int = 0) -> None:
    """Keep a value that takes as much room as `rows` readings. Without a revision, nothing is kept."""
    if revision is not None and rows + _LEAST_ROWS <= ROWS:
        with _lock:
            _kept[key] = _Kept(revision, rows, value)


def forget() -> None:
    """Keep nothing: where a server is deleted, or in tests, a new one may come under the same keys."""
    with _lock:
        _kept.clear()
