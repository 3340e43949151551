from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from servers.models import ApiKey, KeyKind, Server


class Command(BaseCommand):
    help = "Make an API key and print it: this is the only time it can be read."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--kind", required=True, choices=KeyKind.values)
        parser.add_argument("--server", help="The server that an agent key writes; made when it is not known yet.")
        parser.add_argument("--label", default="", help="What the key is for.")

    def handle(self, *, kind: str, server: str | None, label: str, **options: Any) -> None:
        if (kind == KeyKind.AGENT) != bool(server):
            raise CommandError("An agent key needs --server ID; the other kinds take none.")
        _key, text = ApiKey.objects.make(kind, server=_server(server) if server else None, label=label)
        self.stdout.write(text)


def _server(server_id: str) -> Server:
    server = Server.objects.filter(id=server_id).first() or Server(id=server_id, hostname=server_id)
    try:
        server.full_clean(validate_unique=False)
    except ValidationError as error:
        raise CommandError("; ".join(error.messages)) from None
    server.save()
    return server
