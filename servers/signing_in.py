"""How often a person's password may be wrong, and the page that says so. django-axes counts, in this process."""

import time

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from servers import throttling


def address(request: HttpRequest) -> str:
    """Return where a request comes from, of IPv6 the /64. See homelab/serve.py for whose word is taken for it."""
    return throttling.network(request.META.get("REMOTE_ADDR", ""))


def too_often(request: HttpRequest) -> bool:
    """Count an attempt; tell whether its address has made too many, whoever it signs in as: each costs a hash."""
    return settings.THROTTLE and throttling.sign_ins.take(address(request), now=time.monotonic()) > 0


def locked_out(request: HttpRequest, response: HttpResponse | None = None, credentials: object = None) -> HttpResponse:
    """Answer an attempt that was not looked at: the password may have been right, and nothing tells."""
    seconds = int(settings.AXES_COOLOFF_TIME.total_seconds())
    context = {**admin.site.each_context(request), "title": "Too many attempts", "minutes": seconds // 60}
    page = TemplateResponse(request, "admin/locked_out.html", context, status=429, headers={"Retry-After": seconds})
    return page.render()
