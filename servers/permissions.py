"""What each kind of key may do, and how what a person may do is looked up."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Permission
from django.db.models import Q
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


class PermissionsAtOnce(ModelBackend):
    """Asks for a person's own permissions and those of their groups in one query; it signs nobody in.

    Django's, which comes after it, finds them where it would have left them itself.
    """

    def authenticate(self, request: Any, *args: Any, **credentials: Any) -> None:
        return None

    def get_all_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        if not user_obj.is_active or user_obj.is_anonymous or user_obj.is_superuser or obj is not None:
            return super().get_all_permissions(user_obj, obj)
        if not hasattr(user_obj, "_perm_cache"):
            own = Permission.objects.filter(Q(user=user_obj) | Q(group__user=user_obj)).order_by()
            names = own.values_list("content_type__app_label", "codename")
            user_obj._perm_cache = {f"{app}.{name}" for app, name in names}
        return user_obj._perm_cache
