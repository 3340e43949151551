import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, Permission
from rest_framework.test import APIClient

READS = ["/api/v1/servers", "/api/v1/servers/nas", "/api/v1/metrics/sparkline/nas/network", "/api/schema"]


@pytest.mark.parametrize("path", READS)
def test_a_read_key_reads(reader: APIClient, path: str):
    assert reader.get(path).status_code == 200


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("kind", ["agent", "enrolment", "shared"])
def test_the_other_keys_may_not_read(api: APIClient, keys: dict[str, str], kind: str, path: str):
    assert api.get(path, HTTP_X_API_KEY=keys[kind]).status_code == 403


@pytest.mark.parametrize("path", READS)
def test_without_a_key_nothing_is_read(api: APIClient, db: None, path: str):
    assert api.get(path).status_code == 401


def test_signed_in_staff_reads(api: APIClient, db: None):
    api.force_login(get_user_model().objects.create_user("ada", is_staff=True))
    assert api.get("/api/v1/servers").status_code == 200


def test_a_user_who_is_not_staff_may_not_read(api: APIClient, db: None):
    api.force_login(get_user_model().objects.create_user("eve"))
    assert api.get("/api/v1/servers").status_code == 403


def test_staff_may_not_report(api: APIClient, db: None, heartbeat):
    api.force_login(get_user_model().objects.create_superuser("ada"))
    answer = api.post("/api/v1/agents/heartbeat", heartbeat(), format="json")
    assert answer.status_code == 403


def test_a_signed_in_session_that_posts_without_a_csrf_token_is_refused(db: None, heartbeat):
    api = APIClient(enforce_csrf_checks=True)
    api.force_login(get_user_model().objects.create_superuser("ada"))
    assert api.post("/api/v1/agents/heartbeat", heartbeat(), format="json").status_code == 403


@pytest.mark.parametrize(("kind", "status"), [("agent", 200), ("shared", 200), ("enrolment", 403), ("read", 403)])
def test_who_may_report(api: APIClient, keys: dict[str, str], heartbeat, kind: str, status: int):
    answer = api.post("/api/v1/agents/heartbeat", heartbeat(), format="json", HTTP_X_API_KEY=keys[kind])
    assert answer.status_code == status


@pytest.mark.django_db
@pytest.mark.parametrize("through", ["user", "group", "both"])
def test_what_a_person_may_do_themselves_and_in_groups_takes_one_query(django_assert_num_queries, through: str):
    see, change, add = (Permission.objects.get(codename=f"{verb}_server") for verb in ("view", "change", "add"))
    ada = get_user_model().objects.create_user("ada", is_staff=True)
    if through in ("user", "both"):
        ada.user_permissions.add(see, change)
    if through in ("group", "both"):
        for name in ("one", "two"):
            ada.groups.add(group := Group.objects.create(name=name))
            group.permissions.add(see, change)
    Group.objects.create(name="not hers").permissions.add(add)
    ada = get_user_model().objects.get(pk=ada.pk)
    with django_assert_num_queries(1):
        assert ada.has_module_perms("servers")
        assert not ada.has_module_perms("server")
        assert ada.has_perms(["servers.view_server", "servers.change_server"])
        assert not ada.has_perm("servers.add_server")
        assert ada.get_all_permissions() == ModelBackend().get_all_permissions(ada)
    fresh = get_user_model().objects.get(pk=ada.pk)
    assert ModelBackend().get_all_permissions(fresh) == {"servers.view_server", "servers.change_server"}


@pytest.mark.django_db
def test_a_person_who_was_shut_out_may_do_nothing():
    ada = get_user_model().objects.create_user("ada", is_staff=True, is_active=False)
    ada.user_permissions.add(Permission.objects.get(codename="view_server"))
    assert not ada.has_perm("servers.view_server")
    assert not ada.has_module_perms("servers")
