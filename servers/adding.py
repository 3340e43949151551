"""Adding a machine: a key for one enrolment, the line to paste there, and whether it has spoken yet."""

import hashlib
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils import timezone

from servers.models import ApiKey, KeyKind, Server

AGENT_FILE = Path(settings.BASE_DIR) / "agent" / "homelab_agent.py"
VALID_FOR = timedelta(hours=1)
LOOPBACK = re.compile(r"localhost|::1|127\.[0-9.]+")


def add_machine(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """Return what the page shows; once asked to by POST, a fresh key with it, which is in no address and no session."""
    context: dict[str, Any] = where_to_fetch(request)
    if request.method != "POST":
        return context
    if not request.user.has_perm("servers.add_apikey"):
        raise PermissionDenied
    key, secret = ApiKey.objects.make(KeyKind.ENROLMENT, label="add a machine", expires_at=now + VALID_FOR, uses_left=1)
    return {**context, "secret": secret, "key": key}


def where_to_fetch(request: HttpRequest) -> dict[str, Any]:
    """Return the hub's address, whether it means this machine only, the agent file's address and its SHA-256."""
    hub = request.build_absolute_uri("/").rstrip("/")
    is_loopback = bool(LOOPBACK.fullmatch(urlsplit(hub).hostname or ""))
    agent_url = hub + reverse("agent-file")
    return {"hub": hub, "is_loopback": is_loopback, "agent_url": agent_url, "sha256": agent_digest()}


def arrived(request: HttpRequest, prefix: str) -> HttpResponse:
    """Tell which machine enrolled with a key, and whether it has reported since: null until it enrolled.

    A machine that enrols again may be online by its older key; it has arrived when it has used the new one.
    """
    enrolled = ApiKey.objects.filter(label=f"enrolled with {prefix}").select_related("server__snapshot").first()
    if enrolled is None or enrolled.server is None:
        return JsonResponse({"server": None})
    return JsonResponse({"server": _arrival(enrolled.server, has_reported=enrolled.last_used_at is not None)})


def agent_file(request: HttpRequest) -> FileResponse:
    """Send the agent, as this hub's version of it."""
    return FileResponse(AGENT_FILE.open("rb"), content_type="text/x-python; charset=utf-8")


def agent_digest() -> str:
    return hashlib.sha256(AGENT_FILE.read_bytes()).hexdigest()


def _arrival(server: Server, *, has_reported: bool) -> dict[str, str]:
    return {
        "name": str(server),
        "state": server.state(now=timezone.now()) if has_reported else "new",
        "url": reverse("admin:servers_server_change", args=[server.pk]),
    }
