import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from homelab.backup import BackupError, backup


class Command(BaseCommand):
    help = "Write the whole database to one file, while the hub runs."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="where to")
        parser.add_argument("--overwrite", action="store_true", help="replace the file")

    def handle(self, **options: Any) -> None:
        try:
            backup(options["file"], overwrite=options["overwrite"], out=sys.stderr)
        except BackupError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(options["file"]))
