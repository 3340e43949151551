import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from servers.models import ApiKey, KeyKind, Server


class Command(BaseCommand):
    help = "Make an API key and print it: this is the only time it can be read."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--kind", required=True, choices=KeyKind.values)
        parser.add_argument("--server", help="The server that an agent key writes; made when it is not known yet.")
        parser.add_argument("--label", default="", help="What the key is for.")
        parser.add_argument(
            "--expires-in",
            type=_duration,
            metavar="TIME",
            help="such as 30m, 1h or 7d; 24h for an enrolment key, the others stay until revoked",
        )
        parser.add_argument(
            "--uses", type=int, metavar="N", help="how many machines an enrolment key may add, 0 for any number: 1"
        )

    def handle(self, *, kind: str, server: str | None, label: str, **options: Any) -> None:
        if (kind == KeyKind.AGENT) != bool(server):
            raise CommandError("An agent key needs --server ID; the other kinds take none.")
        expires_in, uses = options["expires_in"], options["uses"]
        if kind == KeyKind.ENROLMENT:
            expires_in = expires_in or timedelta(hours=24)
            uses = 1 if uses is None else uses
        elif uses is not None:
            raise CommandError("Only an enrolment key has --uses.")
        _key, text = ApiKey.objects.make(
            kind,
            server=_server(server) if server else None,
            label=label,
            expires_at=timezone.now() + expires_in if expires_in else None,
            uses_left=uses or None,
        )
        self.stdout.write(text)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if match is None:
        raise ArgumentTypeError(f"not a time such as 30m, 1h or 7d: {text}")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[match[2]]: int(match[1])})


def _server(server_id: str) -> Server:
    server = Server.objects.filter(id=server_id).first() or Server(id=server_id, hostname=server_id)
    try:
        server.full_clean(validate_unique=False)
    except ValidationError as error:
        raise CommandError("; ".join(error.messages)) from None
    server.save()
    return server
