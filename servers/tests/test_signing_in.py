"""A wrong password may be typed a few times. Who guesses waits, and nobody else does."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as configured
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import identify_hasher, make_password
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import reverse

from servers import throttling

pytestmark = pytest.mark.django_db

LOGIN = reverse("admin:login")
LIMIT = configured.AXES_FAILURE_LIMIT
HASHERS = list(configured.PASSWORD_HASHERS)
RIGHT = "correct horse"


@pytest.fixture(autouse=True)
def nobody_has_guessed() -> None:
    cache.clear()
    throttling.sign_ins.clear()


@pytest.fixture
def sign_in(client: Client) -> Callable[..., int]:
    """Sign in as ada, and out again; return the status of the answer."""
    for name in ("ada", "grace"):
        get_user_model().objects.create_superuser(name, password=RIGHT)

    def attempt(password: str = "wrong", name: str = "ada", address: str = "192.0.2.1", **headers: Any) -> int:
        form = {"username": name, "password": password}
        status = client.post(LOGIN, form, REMOTE_ADDR=address, headers=headers).status_code
        client.logout()
        return status

    return attempt


def guess(sign_in: Callable[..., int], times: int = LIMIT, **who: Any) -> list[int]:
    return [sign_in(**who) for _ in range(times)]


def test_a_wrong_password_is_asked_for_again_and_the_fifth_ends_it(sign_in):
    assert guess(sign_in) == [200] * (LIMIT - 1) + [429]


def test_the_right_password_is_not_looked_at_then(sign_in):
    guess(sign_in)
    assert sign_in(RIGHT) == 429


def test_others_are_unharmed(sign_in):
    guess(sign_in)
    assert sign_in(RIGHT, name="grace") == 302
    assert sign_in(RIGHT, address="192.0.2.2") == 302


def test_an_address_of_ipv6_is_its_network(sign_in):
    assert guess(sign_in, address="2001:db8::1")[-1] == 429
    assert sign_in(RIGHT, address="2001:db8::2") == 429
    assert sign_in(RIGHT, address="2001:db8:0:1::1") == 302


def test_what_a_request_says_of_its_address_is_not_believed(sign_in):
    answers = [sign_in(**{"X-Forwarded-For": f"192.0.2.{number}"}) for number in range(LIMIT)]
    assert answers[-1] == 429


def test_who_remembers_in_time_starts_afresh(sign_in):
    for _ in range(2):
        assert guess(sign_in, times=LIMIT - 1) == [200] * (LIMIT - 1)
        assert sign_in(RIGHT) == 302


def test_the_wait_ends_though_the_guessing_goes_on(sign_in, settings):
    settings.AXES_COOLOFF_TIME = timedelta(seconds=2)
    guess(sign_in)
    until = time.monotonic() + 2.1
    while time.monotonic() < until:
        assert sign_in() in (429, 200)
        time.sleep(0.7)
    assert sign_in(RIGHT) == 302


def test_an_address_that_tries_many_users_waits_too(sign_in, settings):
    settings.THROTTLE = True
    statuses = [sign_in(name=f"user{number}") for number in range(22)]
    assert (statuses[:20], statuses[-1]) == ([200] * 20, 429)
    assert sign_in(RIGHT, address="192.0.2.2") == 302


def test_the_page_of_the_wait_is_ours(client: Client):
    for _ in range(LIMIT):
        answer = client.post(LOGIN, {"username": "ada", "password": "x"})
    assert (answer.status_code, answer["Retry-After"]) == (429, "900")
    assert "Try again in 15 minutes" in answer.text
    assert "homelab/theme.css" in answer.text
    assert LOGIN in answer.text
    assert "default-src 'self'" in answer["Content-Security-Policy"]


def test_the_page_to_sign_in_is_still_shown(sign_in, client: Client):
    guess(sign_in)
    assert client.get(LOGIN, REMOTE_ADDR="192.0.2.1").status_code == 200


def test_what_counts_has_no_table_no_permission_and_no_page_in_the_admin():
    assert not [name for name in connection.introspection.table_names() if name.startswith("axes")]
    assert not Permission.objects.filter(content_type__app_label="axes").exists()
    assert "axes" not in {model._meta.app_label for model in [*apps.get_models(), *admin.site._registry]}


# Passwords


def test_a_password_is_kept_by_argon2_in_what_a_raspberry_pi_can_spare(settings):
    settings.PASSWORD_HASHERS = HASHERS
    assert make_password(RIGHT).startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


def test_a_password_of_an_older_hub_signs_in_and_becomes_argon2(client: Client, settings):
    settings.PASSWORD_HASHERS = HASHERS
    user = get_user_model().objects.create_user("old", is_staff=True)
    user.password = make_password(RIGHT, hasher="pbkdf2_sha256")
    user.save()
    assert client.post(LOGIN, {"username": "old", "password": RIGHT}).status_code == 302
    user.refresh_from_db()
    assert identify_hasher(user.password).algorithm == "argon2"
    assert user.check_password(RIGHT)
