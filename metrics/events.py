"""Keep what changed from one report of a server to the next."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import count

from metrics.changes import ChangeKind, Seen, changes, speed_of
from metrics.models import Event, from_ms

CLONE_SILENCE = timedelta(days=1)


def record(server_id: str, seen: Sequence[Seen], best_speeds: Mapping[str, int | None]) -> None:
    """Store the changes between consecutive reports, which are in order of time; no query when there are none.

    `best_speeds` were known before them, of the interfaces whose speed changed.
    """
    events: list[Event] = []
    before = seen[0]
    best = dict(best_speeds)
    for after in seen[1:]:
        numbers = count(max(Event.first_number(from_ms(after.at)), events[-1].number + 1 if events else 0))
        for change in changes(before, after, best):
            at = from_ms(after.at)
            events.append(Event(server_id=server_id, number=next(numbers), at=at, **change._asdict()))
        for interface in set(best) & set(after.interfaces or ()):
            speeds = (best[interface], speed_of((after.interfaces or {})[interface]))
            best[interface] = max(filter(None, speeds), default=None)
        before = after if after.interfaces is not None else after.with_interfaces_of(before)
    if any(event.kind == ChangeKind.CLONE for event in events):
        events = _with_one_clone(events)
    if events:
        Event.objects.bulk_create(events, ignore_conflicts=True)


def _with_one_clone(events: list[Event]) -> list[Event]:
    """Return the events without the clones that are no news: two boots take turns, and one event a day tells."""
    first = next(event for event in events if event.kind == ChangeKind.CLONE)
    since = Event.first_number(first.at - CLONE_SILENCE)
    known = Event.objects.filter(server=first.server_id, kind=ChangeKind.CLONE, number__gte=since).exists()
    return [event for event in events if event.kind != ChangeKind.CLONE or (event is first and not known)]
