"""What each kind of key may do."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from servers.authentication import refusal
from servers.models import ApiKey, KeyKind


class _KeyPermission(BasePermission):
    kinds: frozenset[str]
    staff = False
    message = "This key may not do this."

    def has_permission(self, request: Request, view: Any) -> bool:
        key = request.auth
        if isinstance(key, ApiKey):
            return key.kind in self.kinds
        if self.staff and request.user and request.user.is_active and request.user.is_staff:
            return True
        if request.user and request.user.is_authenticated:
            return False
        raise refusal(request)


class CanRead(_KeyPermission):
    """A read key, or a signed-in member of the staff."""

    kinds = frozenset({KeyKind.READ})
    staff = True


class CanReport(_KeyPermission):
    """An agent's own key, or a shared one."""

    kinds = frozenset({KeyKind.AGENT, KeyKind.SHARED})


class CanEnrol(_KeyPermission):
    """An enrolment key."""

    kinds = frozenset({KeyKind.ENROLMENT})
