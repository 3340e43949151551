from datetime import timedelta
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


@pytest.mark.parametrize(
    ("options", "uses", "hours"),
    [({}, 1, 24), ({"expires_in": "1h", "uses": 5}, 5, 1), ({"expires_in": "90m"}, 1, 1.5), ({"uses": 0}, None, 24)],
)
def test_createkey_limits_an_enrolment_key(db: None, options: dict[str, str], uses: int | None, hours: float):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    call_command("createkey", "--kind=enrolment", *arguments, stdout=StringIO())
    key = ApiKey.objects.get()
    assert key.uses_left == uses
    assert abs(key.expires_at - timezone.now() - timedelta(hours=hours)) < timedelta(minutes=1)


def test_createkey_makes_the_other_kinds_without_an_end(db: None):
    createkey(kind="read")
    assert (ApiKey.objects.get().expires_at, ApiKey.objects.get().uses_left) == (None, None)


@pytest.mark.parametrize("time", ["0h", "1", "h", "1y", "-1h", "1.5h"])
def test_createkey_refuses_what_is_no_time(db: None, time: str):
    with pytest.raises(CommandError, match="30m, 1h or 7d"):
        call_command("createkey", "--kind=enrolment", f"--expires-in={time}")


def test_createkey_counts_only_enrolment_keys(db: None):
    with pytest.raises(CommandError, match="--uses"):
        call_command("createkey", "--kind=read", "--uses=1")
