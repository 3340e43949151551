"""Who may speak to the hub, and whether they are alive."""

import hashlib
import hmac
import re
import secrets
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta
from typing import Any

from django.core.validators import RegexValidator
from django.db import OperationalError, connection, models
from django.db.models import F, Q
from django.utils import timezone

from servers.prepared import PreparedGet

SERVER_ID = r"^[a-z0-9-]{1,100}\Z"
KEY_PREFIX = re.compile(r"[0-9a-f]{10}")
DEFAULT_INTERVAL = 60.0
GAP_INTERVALS = 2.5  # silent for longer than this many intervals: a gap in its readings, and no longer online
OFFLINE_INTERVALS = 10


class State(models.TextChoices):
    ONLINE = "online"
    LATE = "late"
    OFFLINE = "offline"
    NEW = "new"


class ServerQuerySet(models.QuerySet["Server"]):
    def with_snapshot(self) -> "ServerQuerySet":
        return self.select_related("snapshot")

    def in_state(self, state: str, *, now: datetime) -> "ServerQuerySet":
        """Servers that are in `state` at `now`. States are computed, never stored: every server is looked at."""
        return self.filter(id__in=[server.id for server in self.with_snapshot() if server.state(now=now) == state])


class Server(models.Model):
    """A monitored machine. What changes with every heartbeat is its Snapshot, not this row."""

    id = models.CharField(
        "server id", primary_key=True, max_length=100, validators=[RegexValidator(SERVER_ID)],
        help_text="Lower-case letters, digits and hyphens; the agent's --server-id.",
    )  # fmt: skip
    guid = models.UUIDField(null=True, blank=True, editable=False)
    hostname = models.CharField(max_length=255)
    display_name = models.CharField(max_length=255, blank=True)
    notes = models.TextField(blank=True)
    os_distribution = models.CharField(max_length=255, blank=True, editable=False)
    os_version = models.CharField(max_length=255, blank=True, editable=False)
    os_kernel = models.CharField(max_length=255, blank=True, editable=False)
    os_architecture = models.CharField(max_length=255, blank=True, editable=False)
    interval = models.FloatField(
        "interval (seconds)", default=DEFAULT_INTERVAL, editable=False, help_text="Expected between two heartbeats."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ServerQuerySet.as_manager()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.display_name or self.hostname or self.id

    def state(self, *, now: datetime) -> State:
        """Return the state at `now`, from when the server was last seen."""
        seen_at = self.last_seen_at
        if seen_at is None:
            return State.NEW
        silent_for = (now - seen_at).total_seconds()
        if silent_for <= GAP_INTERVALS * self.interval:
            return State.ONLINE
        return State.LATE if silent_for <= OFFLINE_INTERVALS * self.interval else State.OFFLINE

    @property
    def last_seen_at(self) -> datetime | None:
        snapshot = getattr(self, "snapshot", None)
        return snapshot.last_seen_at if snapshot else None

    @property
    def os_info(self) -> dict[str, str]:
        return {
            "distribution": self.os_distribution,
            "version": self.os_version,
            "kernel": self.os_kernel,
            "architecture": self.os_architecture,
        }


class Boot(models.Model):
    """One uptime of a server."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="boots", db_index=False)
    boot_id = models.CharField(max_length=64)
    started_at = models.DateTimeField(help_text="In the hub's time.")
    bends = models.JSONField(default=list, help_text="Where an earlier start held: pairs of uptime and instant, in ms.")
    spoke_live = models.BooleanField(
        default=True, help_text="False while only the agent's own clock says when this boot was."
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["server", "boot_id"], name="one_row_per_boot")]
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.server_id} since {self.started_at:%Y-%m-%d %H:%M}"


class Snapshot(models.Model):
    """The latest of a server: all that changes with every heartbeat."""

    server = models.OneToOneField(Server, models.CASCADE, primary_key=True, related_name="snapshot")
    last_seen_at = models.DateTimeField(null=True)
    collected_at = models.DateTimeField(null=True, help_text="Of the newest heartbeat, in the hub's time.")
    boot = models.ForeignKey(Boot, models.SET_NULL, null=True, related_name="+", db_index=False)
    uptime_seconds = models.FloatField(null=True)
    agent_version = models.CharField(max_length=64, blank=True)
    agent_stats = models.JSONField(default=dict)
    clock_skew_seconds = models.FloatField(null=True, help_text="How far the agent's clock is behind the hub's.")
    revision = models.BigIntegerField(default=0, help_text="Counts up with every heartbeat that is stored.")
    sealed_revision = models.BigIntegerField(default=0, help_text="Counts up whenever some of it is sealed or pruned.")
    steady_since = models.DateTimeField(
        null=True, help_text="Each heartbeat collected after this goes on plainly from the one before; unknown: none."
    )
    interfaces_at = models.DateTimeField(null=True, help_text="When network_interfaces was read.")
    network_interfaces = models.JSONField(default=list)

    def __str__(self) -> str:
        return str(self.server_id)

    def interface(self, name: str) -> dict[str, Any] | None:
        return next((interface for interface in self.network_interfaces if interface["name"] == name), None)


class KeyKind(models.TextChoices):
    AGENT = "agent", "agent: writes one server"
    ENROLMENT = "enrolment", "enrolment: adds machines"
    SHARED = "shared", "shared: writes any server, registers new ones"
    READ = "read", "read: reads everything"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def live(self, *, now: datetime) -> "ApiKeyQuerySet":
        is_over = Q(expires_at__lte=now) | Q(uses_left=0)
        return self.filter(revoked_at=None).exclude(is_over)


class ApiKeyManager(models.Manager.from_queryset(ApiKeyQuerySet)):  # type: ignore[misc]
    def make(
        self,
        kind: str,
        *,
        server: Server | None = None,
        label: str = "",
        expires_at: datetime | None = None,
        uses_left: int | None = None,
        text: str = "",
    ) -> tuple["ApiKey", str]:
        """Create a key and return it with its secret text, which is shown once and cannot be read again.

        `text` is one of `new_text`, for who may have to ask whether it was made.
        """
        text = text or new_text()
        key = self.create(
            prefix=prefix_of(text),
            kind=kind,
            server=server,
            label=label,
            expires_at=expires_at,
            uses_left=uses_left,
            digest=_digest(text),
        )
        return key, text

    def verify(self, text: str, *, now: datetime) -> "ApiKey | None":
        """Return the live key whose secret `text` is, or None."""
        prefix, dot, _ = text.partition(".")
        if not dot or not KEY_PREFIX.fullmatch(prefix):  # no question for a database: NUL, say
            return None
        key = _key_by_prefix(prefix)
        matches = hmac.compare_digest(_digest(text), key.digest if key else "0" * 64)
        return key if key and matches and key.is_live(now=now) else None


class ApiKey(models.Model):
    """A credential, of which only a digest is kept."""

    prefix = models.CharField(primary_key=True, max_length=10, editable=False)
    kind = models.CharField(max_length=10, choices=KeyKind.choices)
    server = models.ForeignKey(
        Server, models.CASCADE, null=True, blank=True, related_name="keys", help_text="An agent key writes this server."
    )
    digest = models.CharField(max_length=64, editable=False)
    label = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    uses_left = models.PositiveIntegerField(
        null=True, blank=True, help_text="How many more machines an enrolment key may add; unknown: any number."
    )
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    objects = ApiKeyManager()

    LAST_USED_PRECISION = timedelta(minutes=5)
    NOTE_SECONDS = 0.25

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind=KeyKind.AGENT, server__isnull=False) | (~Q(kind=KeyKind.AGENT) & Q(server=None)),
                name="agent_keys_have_a_server",
                violation_error_message="An agent key needs its server; the other kinds have none.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix} ({self.kind})"

    def is_live(self, *, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at) and self.uses_left != 0

    def revoke(self, *, now: datetime) -> None:
        """End the key at once and for good. Revoking it again changes nothing."""
        type(self).objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=now)

    def spend_use(self) -> bool:
        """Take one of the uses that are left. Return False when another request took the last."""
        if self.uses_left is None:
            return True
        left = type(self).objects.filter(pk=self.pk, revoked_at=None, uses_left__gt=0)
        return bool(left.update(uses_left=F("uses_left") - 1))

    def note_use(self, *, now: datetime) -> None:
        """Remember that the key was used; written rarely, since every heartbeat uses one.

        Where it cannot be written, what the key is used for still goes on: reading needs no space on the disk, and
        waits for no writer.
        """
        if self.last_used_at is None or now - self.last_used_at > self.LAST_USED_PRECISION:
            at_most = getattr(connection, "waiting_at_most", nullcontext)  # SQLite's: there one writes at a time
            with suppress(OperationalError), at_most(self.NOTE_SECONDS):
                type(self).objects.filter(pk=self.pk).update(last_used_at=now)


_key_by_prefix = PreparedGet(lambda prefix: ApiKey.objects.order_by().filter(prefix=prefix))


def new_text() -> str:
    """Return the secret text of a key that is still to be made."""
    return f"{secrets.token_hex(5)}.{secrets.token_urlsafe(32)}"


def prefix_of(text: str) -> str:
    return text.partition(".")[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
