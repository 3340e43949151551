import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from homelab.distribution import NotDistributable, distribute


class Command(BaseCommand):
    help = "Spread the tables over the nodes of a Citus cluster. Safe to run again."

    def handle(self, **options: Any) -> None:
        try:
            moved = distribute(sys.stderr)
        except NotDistributable as reason:
            raise CommandError(str(reason)) from None
        done = f"Distributed {', '.join(moved)}." if moved else "Every table is where it belongs already."
        self.stdout.write(done)
