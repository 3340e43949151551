from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from servers.models import ApiKey


class Command(BaseCommand):
    help = "End an API key at once, by its prefix (the part before the dot)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix")

    def handle(self, *, prefix: str, **options: Any) -> None:
        try:
            key = ApiKey.objects.get(prefix=prefix.partition(".")[0])
        except ApiKey.DoesNotExist:
            raise CommandError("No key has this prefix; the admin lists them.") from None
        key.revoke(now=timezone.now())
        self.stdout.write(f"Revoked {key}.")
