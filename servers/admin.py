"""Keys: made, shown once, revoked. The servers themselves are metrics/admin.py's, which knows what passed."""

from datetime import datetime
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.core.validators import RegexValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from servers.adding import where_to_fetch
from servers.models import SERVER_ID, ApiKey, ApiKeyQuerySet, KeyKind, Server

KEY_STATES = (("live", "Live"), ("used up", "Used up"), ("expired", "Expired"), ("revoked", "Revoked"))


class KeyForm(forms.ModelForm):
    """A key to be made. Its server is typed, since it may be one that the hub does not know yet."""

    server_id = forms.CharField(
        label="Server",
        required=False,
        max_length=100,
        validators=[RegexValidator(SERVER_ID, "1 to 100 lower-case letters, digits and hyphens.")],
        help_text="Of an agent key only: the machine that it reports. A name that is new adds the machine.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocapitalize": "none", "spellcheck": "false"}),
    )

    expires_at = forms.DateTimeField(
        label="Expires",
        required=False,
        help_text="Empty: never.",
        widget=forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"}),
    )

    class Meta:
        model = ApiKey
        fields = ("kind", "label", "expires_at")

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        is_agent = values.get("kind") == KeyKind.AGENT
        if is_agent and not values.get("server_id") and "server_id" not in self.errors:
            self.add_error("server_id", "An agent key needs its server.")
        if not is_agent and values.get("server_id"):
            self.add_error("server_id", "Only an agent key has a server.")
        return values


class KeyStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> tuple[tuple[str, str], ...]:
        return KEY_STATES

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        now = timezone.now()
        if self.value() == "live":
            return cast(ApiKeyQuerySet, queryset).live(now=now)
        if self.value() == "used up":
            return queryset.filter(uses_left=0, revoked_at=None)
        if self.value() == "expired":
            return queryset.filter(expires_at__lte=now, revoked_at=None).exclude(uses_left=0)
        return queryset.filter(revoked_at__isnull=False) if self.value() == "revoked" else queryset


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, kind) for kind in KeyKind.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    form = KeyForm
    list_display = ("name", "state", "sort", "server", "left", "used", "made", "expires")
    list_filter = (KeyStateFilter, KindFilter)
    list_select_related = ("server",)
    search_fields = ("prefix", "label", "server__id", "server__hostname")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = ("revoke",)
    list_per_page = 50
    save_as_continue = False

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("kind", "server_id", "label", "expires_at")
        return ("label", "state", "kind", "server", "prefix", "made", "left", "used", "expires", "revoked")

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return self.get_fields(request, obj)[1:] if obj else ()

    def get_form(self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    @admin.display(description="Label", ordering="label")
    def name(self, key: ApiKey) -> str:
        return key.label or f"{key.prefix}…"

    @admin.display(description="State")
    def state(self, key: ApiKey) -> SafeString:
        return render_to_string("servers/state.html", {"state": key_state(key)})

    @admin.display(description="Kind", ordering="kind")
    def sort(self, key: ApiKey) -> str:
        return key.kind

    @admin.display(description="Uses left", ordering="uses_left", empty_value="–")
    def left(self, key: ApiKey) -> str | None:
        if key.uses_left is not None:
            return str(key.uses_left)
        return "any number" if key.kind == KeyKind.ENROLMENT else None

    @admin.display(description="Last used", ordering="last_used_at")
    def used(self, key: ApiKey) -> SafeString:
        return _when(key.last_used_at, "never")

    @admin.display(description="Made", ordering="created_at")
    def made(self, key: ApiKey) -> SafeString:
        return _when(key.created_at)

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, key: ApiKey) -> SafeString:
        return render_to_string("servers/day.html", {"instant": key.expires_at})

    @admin.display(description="Revoked")
    def revoked(self, key: ApiKey) -> SafeString:
        return _when(key.revoked_at, "no")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": "Keys", **(extra_context or {})})

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"kind": KeyKind.AGENT, **super().get_changeform_initial_data(request)}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if context["original"] is None:
            context["title"] = "Make a key"
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            obj.save(update_fields=["label"])
            return
        values = form.cleaned_data
        server = _server(values["server_id"]) if values["server_id"] else None
        made, secret = ApiKey.objects.make(
            values["kind"],
            server=server,
            label=values["label"],
            expires_at=values["expires_at"],
            uses_left=1 if values["kind"] == KeyKind.ENROLMENT else None,
        )
        obj.prefix, obj.server = made.prefix, server
        request.made_secret = secret  # type: ignore[attr-defined] # for response_add, and nothing else

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key on the page that answers the form: it is in no address, no session and no message."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The new key",
            "opts": self.opts,
            "key": obj,
            "secret": request.made_secret,  # type: ignore[attr-defined]
            **where_to_fetch(request),
        }
        return TemplateResponse(request, "admin/servers/apikey/made.html", context)

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> HttpResponse | None:
        """Ask first; then end the keys, for good."""
        live = keys.filter(revoked_at=None)
        if "confirmed" in request.POST:
            now = timezone.now()
            revoked = list(live)
            for key in revoked:
                key.revoke(now=now)
                self.log_change(request, key, "Revoked.")
            self.message_user(request, f"Revoked: {len(revoked)}.", messages.SUCCESS)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Revoke keys",
            "opts": self.opts,
            "keys": live,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/servers/apikey/revoke.html", context)


admin.site.unregister(User)


@admin.register(User)
class PlainUserAdmin(UserAdmin):
    """Users without the fields that a screen reader cannot tell: lists of two sides, instants in two parts."""

    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")


def key_state(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    if key.uses_left == 0:
        return "used up"
    return "live" if key.is_live(now=timezone.now()) else "expired"


def _when(instant: datetime | None, never: str = "") -> SafeString:
    return render_to_string("servers/when.html", {"instant": instant, "never": never})


def _server(server_id: str) -> Server:
    return Server.objects.get_or_create(id=server_id, defaults={"hostname": server_id})[0]
