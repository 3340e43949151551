"""The admin site: its name, and what is a browser's choice rather than a person's."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, URLResolver, path
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

UNITS = {"bytes": "B/s", "bits": "bit/s"}
UNIT_COOKIE = "homelab_unit"
YEAR_SECONDS = 365 * 24 * 3600


class HubSite(admin.AdminSite):
    site_header = site_title = "Homelab"
    index_title = "Overview"
    site_url = None
    enable_nav_sidebar = False

    def get_urls(self) -> list[URLResolver | URLPattern]:
        return [path("unit/", self.admin_view(require_POST(choose_unit)), name="unit"), *super().get_urls()]

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
