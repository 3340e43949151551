import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from homelab.backup import BackupError, restore


class Command(BaseCommand):
    help = "Put a backup in the place of the database. Stop the hub first."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a file that backup wrote")
        parser.add_argument("--overwrite", action="store_true", help="lose what the hub has now")

    def handle(self, **options: Any) -> None:
        try:
            restore(options["file"], overwrite=options["overwrite"], out=sys.stderr)
        except BackupError as error:
            raise CommandError(str(error)) from None
        self.stdout.write("Restored. Start the hub.")
