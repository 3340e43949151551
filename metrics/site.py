"""The admin site: its name, and what is a browser's choice rather than a person's."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from metrics import pages
from servers import adding, signing_in

Fill = Callable[[HttpRequest, datetime], dict[str, Any]]

PAGE_PERMISSIONS = ("servers.view_server", "metrics.view_interface")
UNITS = {"bytes": "B/s", "bits": "bit/s"}
UNIT_COOKIE = "homelab_unit"
YEAR_SECONDS = 365 * 24 * 3600


class HubSite(admin.AdminSite):
    site_header = site_title = "Homelab"
    index_title = "Overview"
    site_url = None
    enable_nav_sidebar = False

    def get_urls(self) -> list[URLResolver | URLPattern]:
        return [
            path("unit/", self.admin_view(require_POST(choose_unit)), name="unit"),
            path("top/", self.admin_view(self.top), name="top"),
            path("storage/", self.admin_view(self.storage), name="storage"),
            path("add/", self.admin_view(self.add_machine), name="add_machine"),
            path("add/<slug:prefix>/", self.admin_view(adding.arrived), name="arrived"),
            *super().get_urls(),
        ]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST" and signing_in.too_often(request):
            return signing_in.locked_out(request)
        return super().login(request, extra_context)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return self._page(request, "admin/index.html", "Overview", pages.overview)

    def top(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, "metrics/top.html", "Top talkers", pages.top)

    def storage(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, "metrics/storage.html", "Storage", pages.storage)

    def add_machine(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, "servers/add_machine.html", "Add a machine", adding.add_machine)

    def _page(self, request: HttpRequest, template: str, title: str, fill: Fill) -> TemplateResponse:
        if not request.user.has_perms(PAGE_PERMISSIONS):
            raise PermissionDenied
        now = timezone.now()
        context = {**self.each_context(request), "title": title, "now": now, "page": template, **fill(request, now)}
        return TemplateResponse(request, template, context)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "units": UNITS, "unit": rate_unit(request)}


def rate_unit(request: HttpRequest) -> str:
    """Return the unit in which this browser wants rates: bytes or bits."""
    unit = request.COOKIES.get(UNIT_COOKIE, "")
    return unit if unit in UNITS else "bytes"


def choose_unit(request: HttpRequest) -> HttpResponse:
    """Remember the unit of rates in this browser, and go back."""
    back = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
    response = redirect(back if is_ours else "admin:index")
    if request.POST.get("unit") in UNITS:
        response.set_cookie(
            UNIT_COOKIE, request.POST["unit"], max_age=YEAR_SECONDS, secure=request.is_secure(), samesite="Lax"
        )
    return response
