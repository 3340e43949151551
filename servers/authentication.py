"""Keys in the Authorization or X-API-Key header. Every failure gives the same 401."""

import time

from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, Throttled
from rest_framework.request import Request

from servers import throttling
from servers.models import ApiKey


class KeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[AnonymousUser, ApiKey] | None:
        """Return (nobody, the key), or None when the request carries no key at all."""
        text = _key_text(request)
        if text is None:
            return None
        now = timezone.now()
        key = ApiKey.objects.verify(text, now=now)
        if key is None:
            raise refusal(request)
        if throttling.uses.take(key.pk, now=time.monotonic()) == 0:
            key.note_use(now=now)
        return AnonymousUser(), key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def refusal(request: Request) -> APIException:
    """Return the one 401: no, wrong, expired, revoked and spent keys look the same. An address that guesses: 429."""
    wait = throttling.failed(request)
    if wait:
        return Throttled(wait)
    return AuthenticationFailed("No valid key. Send it as `Authorization: Bearer <key>`.", code="no_valid_key")


def _key_text(request: Request) -> str | None:
    authorization = request.META.get("HTTP_AUTHORIZATION")
    if authorization is not None:
        scheme, _, text = authorization.partition(" ")
        return text.strip() if scheme.lower() == "bearer" else ""
    return request.META.get("HTTP_X_API_KEY")
