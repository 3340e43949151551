import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from homelab.backup import BackupError
from homelab.moving import MoveError, move


class Command(BaseCommand):
    help = (
        "Copy a whole hub, of HOMELAB_SOURCE_URL, into the empty database of DATABASE_URL. Goes on where it was killed."
    )

    def handle(self, **options: Any) -> None:
        try:
            count = move(sys.stderr)
        except (BackupError, MoveError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Copied {count:,} rows; every count and every total is the same. Start the hub.")
