from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils import timezone

from servers.models import ApiKey, Boot, KeyKind, Server, Snapshot, State

NOW = timezone.now()


def seen(seconds_ago: float, interval: float = 60.0) -> Server:
    server = Server(id="nas", hostname="nas.lan", interval=interval)
    server.snapshot = Snapshot(server=server, last_seen_at=NOW - timedelta(seconds=seconds_ago))
    return server


@pytest.mark.parametrize(
    ("seconds_ago", "state"),
    [(0, State.ONLINE), (150, State.ONLINE), (150.001, State.LATE), (600, State.LATE), (600.001, State.OFFLINE)],
)
def test_state_by_silence(seconds_ago: float, state: State):
    assert seen(seconds_ago).state(now=NOW) == state


def test_state_is_measured_in_the_servers_own_intervals():
    assert seen(749, interval=300).state(now=NOW) == State.ONLINE
    assert seen(751, interval=300).state(now=NOW) == State.LATE


def test_a_server_that_never_spoke_is_new(db: None):
    assert Server(id="nas").state(now=NOW) == State.NEW
    assert Server(id="nas", snapshot=Snapshot()).state(now=NOW) == State.NEW


def test_servers_in_a_state_are_found(server: Server):
    Snapshot.objects.create(server=server, last_seen_at=NOW)
    Server.objects.create(id="pi", hostname="pi")
    assert [found.id for found in Server.objects.in_state(State.ONLINE, now=NOW)] == ["nas"]
    assert [found.id for found in Server.objects.in_state(State.NEW, now=NOW)] == ["pi"]


@pytest.mark.parametrize("server_id", ["A B", "", "a" * 101, "../x", "nas\n", "näs"])
def test_a_server_id_is_a_slug(server_id: str):
    with pytest.raises(ValidationError) as caught:
        Server(id=server_id, hostname="nas").full_clean(validate_unique=False)
    assert "id" in caught.value.message_dict


def test_a_server_is_called_by_the_best_name_it_has():
    assert str(Server(id="nas", hostname="nas.lan", display_name="The NAS")) == "The NAS"
    assert str(Server(id="nas", hostname="nas.lan")) == "nas.lan"
    assert str(Server(id="nas")) == "nas"


def test_a_boot_is_stored_once_per_server(server: Server):
    Boot.objects.create(server=server, boot_id="boot-1", started_at=NOW)
    with pytest.raises(IntegrityError):
        Boot.objects.create(server=server, boot_id="boot-1", started_at=NOW)


def test_a_snapshot_finds_its_interface_by_name():
    snapshot = Snapshot(network_interfaces=[{"name": "eth0"}, {"name": "eth1"}])
    assert snapshot.interface("eth1") == {"name": "eth1"}
    assert snapshot.interface("eth2") is None


def test_a_new_key_is_verified_by_its_text(server: Server):
    key, text = ApiKey.objects.make(KeyKind.AGENT, server=server)
    found = ApiKey.objects.verify(text, now=NOW)
    assert found == key
    assert found.server == server


def test_the_text_of_a_key_is_kept_nowhere(db: None):
    key, text = ApiKey.objects.make(KeyKind.READ, label="grafana")
    stored = " ".join(str(value) for value in ApiKey.objects.values().get(pk=key.pk).values())
    assert text not in stored
    assert text.partition(".")[2] not in stored + str(key) + repr(key)


def test_two_keys_are_never_alike(db: None):
    texts = {ApiKey.objects.make(KeyKind.READ)[1] for _ in range(20)}
    assert len(texts) == 20
    assert min(len(text.partition(".")[2]) for text in texts) >= 43  # 256 bits in base 64


@pytest.mark.parametrize("wrong", ["", ".", "nonsense", "0123456789.", "\x00123456789.x", "\ud800123456789.x"])
def test_text_that_is_no_key_verifies_to_none(db: None, wrong: str):
    assert ApiKey.objects.verify(wrong, now=NOW) is None


def test_a_right_prefix_with_a_wrong_secret_verifies_to_none(db: None):
    _, text = ApiKey.objects.make(KeyKind.READ)
    assert ApiKey.objects.verify(text[:-1], now=NOW) is None
    assert ApiKey.objects.verify(text + "x", now=NOW) is None


def test_a_key_ends_when_it_expires(db: None):
    _, text = ApiKey.objects.make(KeyKind.READ, expires_at=NOW)
    assert ApiKey.objects.verify(text, now=NOW - timedelta(seconds=1)) is not None
    assert ApiKey.objects.verify(text, now=NOW) is None


def test_a_revoked_key_ends_at_once_and_for_good(db: None):
    key, text = ApiKey.objects.make(KeyKind.READ)
    key.revoke(now=NOW)
    key.revoke(now=NOW + timedelta(days=1))
    assert ApiKey.objects.verify(text, now=NOW) is None
    assert ApiKey.objects.get(pk=key.pk).revoked_at == NOW


def test_revoking_one_key_of_a_server_leaves_the_other(server: Server):
    old, _ = ApiKey.objects.make(KeyKind.AGENT, server=server)
    _, text = ApiKey.objects.make(KeyKind.AGENT, server=server)
    old.revoke(now=NOW)
    assert ApiKey.objects.verify(text, now=NOW) is not None


def test_use_of_a_key_is_noted_at_most_every_five_minutes(db: None):
    key, _ = ApiKey.objects.make(KeyKind.READ)
    for seconds in (0, 299, 301):
        ApiKey.objects.get(pk=key.pk).note_use(now=NOW + timedelta(seconds=seconds))
        expected = 301 if seconds == 301 else 0
        assert ApiKey.objects.get(pk=key.pk).last_used_at == NOW + timedelta(seconds=expected)


def test_an_agent_key_needs_a_server(db: None):
    with pytest.raises(IntegrityError):
        ApiKey.objects.make(KeyKind.AGENT)


def test_other_keys_have_no_server(server: Server):
    with pytest.raises(IntegrityError):
        ApiKey.objects.make(KeyKind.SHARED, server=server)
