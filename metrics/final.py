"""Up to when the hours of chunks say all that is known: what waits in the log may change the rest."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from django.db.models import Max, Min

from metrics import memory
from metrics.models import Heartbeat, Interface, to_ms
from metrics.readings import Log, Logs, Waiting, chunks_around, limit_after, logs_of, sealed_readings
from metrics.shelf import Shelf
from metrics.steady import Standing, Standings

FOREVER = 2**62


def final_until(interfaces: Sequence[Interface]) -> dict[int, int]:
    """Return, for each interface, by its id, up to when its chunks' hours say all that is known.

    Without heartbeats waiting in the log: for ever. Otherwise up to the hour of the reading before the first of them.
    """
    return limits_of(interfaces, waiting_of(interfaces, logs_of(interfaces)))


def waiting_of(interfaces: Sequence[Interface], logs: Logs) -> dict[str, Waiting]:
    """Return what waits in the log, by server; nothing for those without."""
    waiting = {
        server: Waiting(log.first_at, log.last_at, log.boots)
        for server, log in logs.items()
        if log.first_at is not None and log.last_at is not None
    }
    if others := {interface.server_id for interface in interfaces} - logs.keys():
        log = Heartbeat.objects.filter(server__in=others).order_by()
        of_each = (Min("collected_at"), Max("collected_at"), Min("boot_number"), Max("boot_number"))
        for server, first, last, *boots in log.values_list("server_id").annotate(*of_each):
            waiting[server] = Waiting(to_ms(first), to_ms(last), set(boots))
    return waiting


def limits_as_of(
    standings: Standings, interfaces: Sequence[Interface], logs: Logs, shelf: Shelf | None = None, start: int = 0
) -> dict[int, int]:
    """Return what `limits_of` does, as of these logs: for ever, too, where none that waits has the interface."""
    gone = [each for each in interfaces if _is_gone(each, standings.of[each.server_id], logs.get(each.server_id))]
    limits = {each.id: FOREVER for each in gone}
    return limits | limits_of([each for each in interfaces if each.id not in limits], standings.waiting, shelf, start)


def _is_gone(interface: Interface, standing: Standing, log: Log | None) -> bool:
    """Tell whether no heartbeat that waits has the interface: none that may be anything, and so none after these.

    Those that go on plainly since then have the interfaces of the one before, and of that one this would be sealed.
    """
    if log is None or standing.since is None or interface.sealed_until is None:
        return False
    is_as_read = interface.sealed_revision == standing.sealed
    return is_as_read and to_ms(interface.sealed_until) < standing.since and interface.name not in log.readings


def limits_of(
    interfaces: Sequence[Interface], waiting: Mapping[str, Waiting], shelf: Shelf | None = None, start: int = 0
) -> dict[int, int]:
    """Return what `final_until` does of what waits; 0 where that may change anything before `start` (ms).

    What is on the `shelf` from then on is not read again.
    """
    limits: dict[int, int] = {}
    late: dict[int, list[Interface]] = defaultdict(list)
    for interface in interfaces:
        of_server = waiting.get(interface.server_id)
        newest_sealed = to_ms(interface.sealed_until) if interface.sealed_until else None
        if of_server is None:
            limits[interface.id] = FOREVER
        elif newest_sealed is None:
            limits[interface.id] = 0
        elif newest_sealed <= of_server.first_at:
            limits[interface.id] = limit_after(newest_sealed)
        elif of_server.first_at < start:
            limits[interface.id] = 0
        else:
            late[of_server.first_at].append(interface)
    missing: dict[int, list[Interface]] = defaultdict(list)
    for first_waiting, group in late.items():
        for interface in group:
            kept: int | None = memory.recall(("limit", interface.id, first_waiting), interface.revision)
            if kept is None:
                missing[first_waiting].append(interface)
            else:
                limits[interface.id] = kept
    return limits | _limits_of_late(missing, shelf or {})


def _limits_of_late(late: Mapping[int, Sequence[Interface]], shelf: Shelf) -> dict[int, int]:
    """Return the limits of interfaces, by the first (ms) that waits for them, of which newer readings are sealed."""
    limits: dict[int, int] = {}
    ids = [each.id for group in late.values() for each in group]
    # Whatever of the log is sealed by now is not before the first that waited.
    stored = [chunk for pk in ids for chunk in shelf.get(pk, ())]
    if missing := [pk for pk in ids if pk not in shelf]:
        stored.extend(chunks_around(missing, {(first_waiting - 1, first_waiting - 1) for first_waiting in late}))
    for first_waiting, group in late.items():
        of_group = [interface.id for interface in group]
        before = first_waiting - 1
        sealed = sealed_readings(
            of_group, before, before, (), stored=stored, is_followed=False, has_no_hole=not missing
        )
        for interface in group:
            at = sealed[interface.id]["at"]
            limit = limit_after(at[0]) if at and at[0] < first_waiting else 0
            limits[interface.id] = limit
            memory.keep(("limit", interface.id, first_waiting), interface.revision, limit)
    return limits
