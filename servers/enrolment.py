"""How a machine gets a key of its own."""

from datetime import datetime
from uuid import UUID

from servers.models import ApiKey, KeyKind, Server, new_text, prefix_of
from servers.transactions import retried


class KeySpent(Exception):
    """Another machine has just used the key for the last time."""


class ServerTaken(Exception):
    """The server reports with a live key of its own, and nothing says that this is the same machine."""


def enrol(key: ApiKey, server_id: str, hostname: str, *, guid: UUID | None, now: datetime) -> str:
    """Return the text of a new agent key for the server, which is made when it is not known; uses `key` once.

    A server that has a live key of its own is given another only to the machine that names the server's guid: one
    that is set up again, or changes its key. Its older keys stay until a person revokes them: who enrols can so
    neither silence the machine that reports, nor cut off an agent that this answer never reaches.
    Raises KeySpent and ServerTaken, and changes nothing then.
    """
    text = new_text()
    _enrol(key, server_id, hostname, guid=guid, now=now, text=text)
    return text


@retried
def _enrol(key: ApiKey, server_id: str, hostname: str, *, guid: UUID | None, now: datetime, text: str) -> None:
    if ApiKey.objects.filter(prefix=prefix_of(text)).exists():
        return  # an earlier try was committed, and lost its connection before it heard so
    if not key.spend_use():
        raise KeySpent
    server, made = Server.objects.select_for_update().get_or_create(
        id=server_id, defaults={"hostname": hostname, "guid": guid}
    )
    is_same = guid is not None and server.guid == guid
    if not is_same and ApiKey.objects.live(now=now).filter(server=server).exists():
        raise ServerTaken
    if not made and guid is not None and not is_same:
        Server.objects.filter(pk=server.pk).update(guid=guid)
    ApiKey.objects.make(KeyKind.AGENT, server=server, label=f"enrolled with {key.prefix}", text=text)
