from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from homelab.nightly import nightly
from homelab.tick import tick


class Command(BaseCommand):
    help = "Seal completed hours, merge weeks that are over, prune, and back up each night. Safe to run twice."

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        done = tick(now=now)
        if any(done.values()):
            self.stdout.write(", ".join(f"{count} {what}" for what, count in done.items()))
        if saved := nightly(now=now):
            self.stdout.write(f"backed up to {saved}")
