from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from servers.admin import key_state
from servers.models import ApiKey, KeyKind, Server

pytestmark = pytest.mark.django_db

LIST = reverse("admin:servers_apikey_changelist")
ADD = reverse("admin:servers_apikey_add")


def change(key):
    return reverse("admin:servers_apikey_change", args=[key.pk])


@pytest.fixture
def key():
    return ApiKey.objects.make(KeyKind.READ, label="grafana")[0]


def make(client, **values):
    return client.post(ADD, {"kind": "read", "label": "", "server_id": "", "expires_at": "", **values})


def test_a_key_is_shown_on_the_page_that_answers_the_form(admin_client):
    answer = make(admin_client)
    assert answer.status_code == 200
    assert ApiKey.objects.verify(answer.context["secret"], now=timezone.now())
    assert answer.context["secret"] in answer.text


def test_a_key_is_never_shown_again(admin_client):
    secret = make(admin_client, label="grafana").context["secret"].partition(".")[2]
    key = ApiKey.objects.get()
    assert all(secret not in admin_client.get(page).text for page in (LIST, change(key)))
    assert key.digest not in admin_client.get(change(key)).text


def test_a_key_is_in_no_message_and_no_session(admin_client):
    secret = make(admin_client).context["secret"]
    assert secret not in str(admin_client.session.items())
    assert secret not in admin_client.get(LIST).text


def test_the_page_of_a_new_key_is_not_stored_by_the_browser(admin_client):
    assert "no-store" in make(admin_client)["Cache-Control"]


def test_an_agent_key_of_a_new_name_adds_the_machine(admin_client):
    answer = make(admin_client, kind="agent", server_id="nas-01")
    assert ApiKey.objects.get().server == Server.objects.get(id="nas-01")
    assert "--server-id nas-01" in answer.text


def test_an_enrolment_key_adds_one_machine(admin_client):
    answer = make(admin_client, kind="enrolment")
    assert ApiKey.objects.get().uses_left == 1
    assert f"HOMELAB_ENROL_KEY={answer.context['secret']}" in answer.text


def test_an_agent_key_of_a_known_machine_leaves_it_as_it_is(admin_client):
    Server.objects.create(id="nas-01", hostname="nas-01.home.arpa")
    make(admin_client, kind="agent", server_id="nas-01")
    assert Server.objects.get().hostname == "nas-01.home.arpa"


@pytest.mark.parametrize(
    "values", [{"kind": "agent"}, {"kind": "read", "server_id": "nas-01"}, {"kind": "agent", "server_id": "<b>"}]
)
def test_a_form_that_cannot_be_makes_nothing(admin_client, values):
    assert make(admin_client, **values).context["errors"]
    assert not ApiKey.objects.exists()
    assert not Server.objects.exists()


def test_only_the_label_of_a_key_can_be_changed(admin_client, key):
    digest = key.digest
    admin_client.post(change(key), {"label": "prometheus", "kind": "shared", "digest": "0" * 64, "prefix": "x"})
    key.refresh_from_db()
    assert (key.label, key.kind, key.digest) == ("prometheus", "read", digest)


def test_keys_cannot_be_deleted(admin_client, key):
    assert admin_client.post(reverse("admin:servers_apikey_delete", args=[key.pk])).status_code == 403


def revoke(client, *keys, **values):
    return client.post(LIST, {"action": "revoke", "_selected_action": [key.pk for key in keys], **values})


def test_revoking_asks_first(admin_client, key):
    assert "Revoke" in revoke(admin_client, key).text
    key.refresh_from_db()
    assert key.revoked_at is None


def test_a_confirmed_revocation_ends_the_key_for_good(admin_client, key):
    revoke(admin_client, key, confirmed="yes")
    key.refresh_from_db()
    assert not key.is_live(now=timezone.now())


def test_revoking_a_revoked_key_changes_nothing(admin_client, key):
    then = timezone.now() - timedelta(days=1)
    key.revoke(now=then)
    revoke(admin_client, key, confirmed="yes")
    key.refresh_from_db()
    assert key.revoked_at == then


def test_a_new_list_says_what_keys_are_for(admin_client):
    assert "No key yet" in admin_client.get(LIST).text


@pytest.mark.parametrize(
    ("state", "label"), [("live", "one"), ("expired", "two"), ("revoked", "three"), ("used up", "four")]
)
def test_keys_are_found_by_state(admin_client, state, label):
    now = timezone.now()
    ApiKey.objects.make(KeyKind.READ, label="one")
    ApiKey.objects.make(KeyKind.READ, label="two", expires_at=now - timedelta(days=1))
    ApiKey.objects.make(KeyKind.READ, label="three")[0].revoke(now=now)
    ApiKey.objects.make(KeyKind.ENROLMENT, label="four", uses_left=0, expires_at=now - timedelta(days=1))
    (found,) = admin_client.get(LIST, {"state": state}).context["cl"].result_list
    assert (found.label, key_state(found)) == (label, state)


def test_a_spent_enrolment_key_is_told_as_used_up(admin_client):
    key, _ = ApiKey.objects.make(KeyKind.ENROLMENT, uses_left=1)
    assert key.spend_use()
    text = admin_client.get(change(key)).text
    assert "state-used-up" in text
    assert "state-expired" not in text.replace('id="state-expired"', "")


@pytest.mark.parametrize(
    ("kind", "uses_left", "shown"),
    [(KeyKind.ENROLMENT, 3, "3"), (KeyKind.ENROLMENT, None, "any number"), (KeyKind.READ, None, "–")],
)
def test_the_uses_that_are_left_of_a_key_are_told(admin_client, kind, uses_left, shown):
    ApiKey.objects.make(kind, uses_left=uses_left)
    assert f'<td class="field-left">{shown}</td>' in admin_client.get(LIST).text


def test_a_label_is_untrusted(admin_client):
    ApiKey.objects.make(KeyKind.READ, label="<script>alert(1)</script>")
    assert "<script>alert" not in admin_client.get(LIST).text


def test_the_list_of_keys_takes_few_queries(admin_client, django_assert_max_num_queries):
    server = Server.objects.create(id="nas-01", hostname="nas-01")
    for _ in range(30):
        ApiKey.objects.make(KeyKind.AGENT, server=server)
    with django_assert_max_num_queries(10):
        admin_client.get(LIST)


def test_nobody_but_staff_sees_keys(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("someone"))
    assert client.get(LIST).status_code == 302
