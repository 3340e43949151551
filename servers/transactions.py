"""One use case, one transaction; run again from its beginning when something that passes has broken it."""

import logging
import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import InternalError, OperationalError, connection, transaction

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

RETRIES = 3
PAUSE_SECONDS = 0.05  # times a random share, so that two that met do not meet again
PASSING = {
    "25P03": "the hub stood still in the middle of it",  # idle_in_transaction_session_timeout
    "40001": "another transaction came in between",  # serialization_failure
    "40P01": "another transaction waited for this one",  # deadlock_detected
    "57P01": "the database is stopping",  # admin_shutdown
    "57P02": "the database has crashed",  # crash_shutdown
    "57P03": "the database is starting",  # cannot_connect_now
    None: "the connection was lost",
}

logger = logging.getLogger(__name__)


def retried(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run the function in a transaction of its own; up to three times more when one in PASSING ended that.

    A connection that is lost during the commit leaves open whether it happened: running the function twice must
    leave what running it once does. Where a transaction is open already, the function becomes a part of it, and is
    run once. Raises what the last try raised.
    """

    @wraps(work)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for retry in range(RETRIES + 1):
            try:
                with transaction.atomic():
                    return work(*args, **kwargs)
            except (OperationalError, InternalError) as error:
                reason = _passing(error)
                if reason is None or retry == RETRIES or connection.in_atomic_block:
                    raise
                logger.warning("Running %s again: %s.", work.__qualname__, reason)
                connection.close()  # it may be the one that was lost; a good one goes back to the pool
                time.sleep(random.uniform(0, PAUSE_SECONDS) * 2**retry)  # noqa: S311 - no secret
        raise AssertionError  # the last try returns or raises

    return run


def _passing(error: Exception) -> str | None:
    """Return why the transaction failed, where that passes."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", "")  # of psycopg's errors; None where the server could not say it
    if code is None:
        from psycopg_pool import PoolTimeout  # not for those who run on SQLite

        if isinstance(cause, PoolTimeout):  # it has waited long enough
            return None
    return PASSING.get(code)
