from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from metrics import seal


class Command(BaseCommand):
    help = "Seal completed hours, merge weeks that are over and prune what is past its retention. Safe to run twice."

    def handle(self, **options: Any) -> None:
        done = seal.tick(now=timezone.now())
        if any(done.values()):
            self.stdout.write(", ".join(f"{count} {what}" for what, count in done.items()))
