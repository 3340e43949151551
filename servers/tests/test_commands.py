from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from servers.models import ApiKey, Server


def createkey(**options: str) -> str:
    out = StringIO()
    call_command("createkey", stdout=out, **options)
    return out.getvalue()


def test_createkey_prints_only_the_key(db: None):
    text = createkey(kind="read", label="grafana")
    key = ApiKey.objects.verify(text.removesuffix("\n"), now=timezone.now())
    assert (key.kind, key.label) == ("read", "grafana")


def test_createkey_for_a_known_server_leaves_it_as_it_is(server: Server):
    createkey(kind="agent", server="nas")
    assert Server.objects.get().hostname == "nas.home.arpa"
    assert ApiKey.objects.get().server == server


def test_createkey_makes_a_server_that_is_not_known_yet(db: None):
    createkey(kind="agent", server="pi")
    assert ApiKey.objects.get().server_id == Server.objects.get().id == "pi"


@pytest.mark.parametrize("options", [{"kind": "agent"}, {"kind": "read", "server": "nas"}])
def test_createkey_refuses_a_server_that_does_not_fit_the_kind(db: None, options: dict[str, str]):
    with pytest.raises(CommandError, match="--server"):
        createkey(**options)


def test_createkey_refuses_a_server_id_that_agents_cannot_use(db: None):
    with pytest.raises(CommandError):
        createkey(kind="agent", server="My NAS")
    assert not Server.objects.exists()


def test_revokekey_ends_a_key_by_its_prefix(db: None):
    text = createkey(kind="read").strip()
    call_command("revokekey", text.partition(".")[0], stdout=StringIO())
    assert ApiKey.objects.verify(text, now=timezone.now()) is None


def test_revokekey_takes_a_whole_key_too_and_does_not_print_it(db: None):
    text = createkey(kind="read").strip()
    out = StringIO()
    call_command("revokekey", text, stdout=out)
    assert ApiKey.objects.verify(text, now=timezone.now()) is None
    assert text.partition(".")[2] not in out.getvalue()


def test_revokekey_says_when_there_is_no_such_key(db: None):
    with pytest.raises(CommandError, match="No key"):
        call_command("revokekey", "0123456789")
