"""What is done each minute, by `serve` or `manage.py tick`."""

from datetime import datetime

from django.db import OperationalError

from homelab.errors import condition
from homelab.sqlite3 import ballast
from metrics import seal


def tick(*, now: datetime) -> dict[str, int]:
    """Seal, merge and prune all that is due. This makes room, so that on a full disk it has that of the ballast."""
    with ballast.for_making_room():
        try:
            return seal.tick(now=now)
        except OperationalError as error:
            if condition(error) != "full":
                raise
            return seal.tick(now=now)  # by now the ballast is given up
