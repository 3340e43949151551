from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from homelab import backup, serve


class Command(BaseCommand):
    help = "Run the hub: migrate, make the first admin, serve, and run this machine's own agent each minute."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--bind", default=settings.BIND, metavar="HOST:PORT", help="default %(default)s")
        parser.add_argument("--no-agent", action="store_true", help="do not report this machine itself")

    def handle(self, *, bind: str, no_agent: bool, **options: Any) -> None:
        if not bind.rpartition(":")[2].isdigit():
            raise CommandError(f"--bind takes HOST:PORT, not {bind}.")
        try:
            backup.serve_from_here()
            serve.set_up(self.stdout)  # type: ignore[arg-type]
            serve.run(bind, with_agent=not no_agent, out=self.stdout)  # type: ignore[arg-type]
        except (backup.BackupError, serve.AddressInUse, serve.Unfit) as error:
            raise CommandError(str(error)) from None
