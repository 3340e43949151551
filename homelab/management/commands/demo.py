import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from homelab import demo


class Command(BaseCommand):
    help = "Fill the hub with a believable fleet and its history, to look around. Existing servers are left alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--servers", type=int, default=6)
        parser.add_argument("--interfaces", type=int, default=6)
        parser.add_argument("--days", type=int, default=30)

    def handle(self, *, servers: int, interfaces: int, days: int, **options: Any) -> None:
        count = demo.build(servers=servers, interfaces=interfaces, days=days, now=timezone.now(), out=sys.stderr)
        self.stdout.write(f"Wrote {count:,} readings of {servers} servers.")
