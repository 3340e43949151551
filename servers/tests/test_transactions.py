"""A transaction that something passing has broken is run again, on the real database; what does not pass is told."""

import threading
import time

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import F

from servers.models import Server, Snapshot
from servers.tests.sessions import end_session
from servers.transactions import RETRIES, retried

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such conditions: its writers queue"),
]


@pytest.fixture
def pair(db: None) -> None:
    for name in ("a", "b"):
        Snapshot.objects.create(server=Server.objects.create(id=name, hostname=name))


def count_up(server_id: str) -> None:
    Snapshot.objects.filter(server=server_id).update(revision=F("revision") + 1)


def counts() -> list[int]:
    return list(Snapshot.objects.order_by("server_id").values_list("revision", flat=True))


def test_two_that_wait_for_each_other_are_both_done_and_once(pair):
    tries: list[str] = []
    both_hold_one = threading.Barrier(2)

    @retried
    def crossed(first: str, second: str) -> None:
        tries.append(first)
        count_up(first)
        if len(tries) <= 2:
            both_hold_one.wait(timeout=5)
        count_up(second)

    def run(*order: str) -> None:
        crossed(*order)
        connection.close()

    threads = [threading.Thread(target=run, args=order) for order in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 3  # the server ended one of the two, and that one ran again
    assert counts() == [2, 2]


def test_a_session_that_is_ended_halfway_is_replaced_and_nothing_is_done_twice(pair):
    tries = []

    @retried
    def both() -> str:
        tries.append(connection.connection)
        count_up("a")
        if len(tries) == 1:
            end_session()
        count_up("b")
        return "done"

    assert both() == "done"
    assert counts() == [1, 1]
    assert tries[0].closed
    assert tries[1] is not tries[0]


def test_a_hub_that_was_suspended_halfway_begins_again(pair):
    tries = []

    @retried
    def both() -> None:
        tries.append(1)
        count_up("a")
        if len(tries) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            time.sleep(0.2)
        count_up("b")

    both()
    assert (len(tries), counts()) == (2, [1, 1])


def test_after_three_more_tries_it_is_told(pair):
    tries = []

    @retried
    def never() -> None:
        tries.append(1)
        count_up("a")
        end_session()
        count_up("b")

    with pytest.raises(OperationalError):
        never()
    assert len(tries) == RETRIES + 1 == 4
    assert counts() == [0, 0]


def test_what_another_try_would_not_change_is_told_at_once(pair):
    tries = []

    @retried
    def twice_the_same() -> None:
        tries.append(1)
        Server.objects.create(id="a", hostname="again")

    with pytest.raises(IntegrityError):
        twice_the_same()
    assert len(tries) == 1


def test_who_waits_too_long_for_a_lock_is_told_at_once(pair):
    tries = []

    @retried
    def wait() -> None:
        tries.append(1)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '50ms'")
        count_up("a")

    def in_a_thread() -> None:
        with pytest.raises(OperationalError):
            wait()
        connection.close()

    with transaction.atomic():
        count_up("a")
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
    assert (len(tries), counts()) == (1, [1, 0])


def test_part_of_a_larger_transaction_it_runs_once_for_that_is_lost_as_a_whole(pair):
    tries = []

    @retried
    def inner() -> None:
        tries.append(1)
        end_session()
        count_up("b")

    @transaction.atomic
    def outer() -> None:
        count_up("a")
        inner()

    with pytest.raises(OperationalError):
        outer()
    assert (len(tries), counts()) == (1, [0, 0])
