"""Is the hub well: can its database be written and read. For load balancers, containers and people without a key."""

import threading
import time
from contextlib import nullcontext
from typing import Any

from django.db import DatabaseError, connection
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from homelab.errors import condition
from homelab.models import Probe
from homelab.sqlite3 import ballast, damage
from servers.transactions import retried

OK = "ok"
BUSY = "busy"
FULL = "full"
DAMAGED = "damaged"
EVERY_SECONDS = 5.0  # however many ask
WAIT_SECONDS = 2.0

_lock = threading.Lock()
_known = (OK, float("-inf"))  # what was found last, and when


def condition_of_database() -> str:
    """Return `ok`, or a word for what is wrong: `busy`, `full`, `readonly`, `damaged`, `failing`.

    Known for five seconds.
    """
    global _known
    if not _lock.acquire(timeout=WAIT_SECONDS):
        return BUSY  # another request waits for the database already
    try:
        if time.monotonic() - _known[1] >= EVERY_SECONDS:
            _known = (_probe(), time.monotonic())
        return _known[0]
    finally:
        _lock.release()


def forget() -> None:
    """Look anew when asked next."""
    global _known
    _known = (OK, float("-inf"))


def _probe() -> str:
    try:
        with getattr(connection, "waiting_at_most", nullcontext)(WAIT_SECONDS):
            _write()
    except DatabaseError as error:
        return condition(error)
    return DAMAGED if damage.is_known() else FULL if ballast.is_full() else OK


@retried
def _write() -> None:
    Probe.objects.update_or_create(pk=1, defaults={"written_at": timezone.now()})


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="ok, or what is wrong: busy, full, readonly, damaged, failing")


class HealthView(APIView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(operation_id="system_health", auth=[], responses={200: HealthSerializer, 503: HealthSerializer})
    def get(self, request: Request) -> Response:
        """Tell whether the hub can write and read its database: 200 with `ok`, or 503. Anyone may ask."""
        word = condition_of_database()
        code = status.HTTP_200_OK if word == OK else status.HTTP_503_SERVICE_UNAVAILABLE
        return Response({"status": word}, status=code, headers={"Cache-Control": "no-store"})
