import subprocess
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from homelab import benchmark


class Command(BaseCommand):
    help = "Measure every claimed figure beside its baseline, in a temporary database of the engine in use."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--servers", type=int, default=20)
        parser.add_argument("--interfaces", type=int, default=10)
        parser.add_argument("--days", type=int, default=30)
        parser.add_argument("--json", action="store_true", help="print JSON, not a table")
        parser.add_argument("--here", action="store_true", help="use the database of the settings, which must be empty")

    def handle(self, *, servers: int, interfaces: int, days: int, here: bool, **options: Any) -> None:
        if here:
            figures = benchmark.run(servers=servers, interfaces=interfaces, days=days, out=sys.stderr)
            self.stdout.write(benchmark.as_json(figures) if options["json"] else benchmark.table(figures))
            return
        with benchmark.temporary_environment() as environment:
            command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *sys.argv[1:], "--here"]
            sys.exit(subprocess.run(command, env=environment, check=False).returncode)
