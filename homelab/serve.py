"""One command runs the hub: set-up, the web server, a tick and the machine's own agent each minute."""

import gc
import hashlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core import checks
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.utils import timezone
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from agent.homelab_agent import default_server_id
from homelab.backup import before_upgrade
from homelab.errors import body_of
from homelab.middleware import request_id
from homelab.moving import is_unfinished
from homelab.nightly import nightly
from homelab.sqlite3 import ballast
from homelab.sqlite3.base import close_all
from homelab.tick import tick
from metrics import pages
from metrics.windows import PERIODS
from servers.models import ApiKey, KeyKind, Server

logger = logging.getLogger(__name__)

AGENT = settings.BASE_DIR / "agent" / "homelab_agent.py"
AGENT_SECONDS = 58  # the agent gives up by itself after 50; this is for one that cannot
EVERY_SECONDS = 60.0
# A thread that computes keeps all others from running for so long at a time. Whoever writes needs its share some ten
# times in its turn, while the others wait for that turn: by Python's own 5 ms, one page held up a hundred heartbeats.
SWITCH_SECONDS = 0.0001
UNUSED = ["drf_spectacular_sidecar/redoc/*", "rest_framework/*"]  # static files of pages that are not served
CONNECTIONS = 1000
FILES = 4096  # connections, and the database's files for each thread
REFUSALS = {
    400: ("bad_request", "The request is malformed."),
    413: ("too_large", "The body is too large."),
    431: ("headers_too_large", "The headers are too large."),
    501: ("not_implemented", "This transfer encoding is not known."),
}
# The proxy says who its client is and whether it came by TLS; nobody else is believed.
BELIEVED_PROXY = {
    "trusted_proxy": settings.TRUSTED_PROXY,
    "trusted_proxy_headers": {"x-forwarded-proto", "x-forwarded-for"},
}


class AddressInUse(OSError):
    """Something else listens where the hub should."""


class Unfit(Exception):
    """Something about this machine would damage the hub's data."""


class JSONErrorTask(ErrorTask):
    """What waitress refuses before Django sees it, in the shape of all errors."""

    def execute(self) -> None:
        status = self.request.error.code
        code, detail = REFUSALS.get(status, ("error", "The hub failed; its log has this request's id."))
        token = request_id.set(secrets.token_hex(8))
        try:
            logger.info("Refused a request that could not be read: %s", status)
            body = json.dumps(body_of("client_error" if status < 500 else "server_error", code, detail)).encode()
            self.response_headers += [("Content-Type", "application/json"), ("X-Request-ID", request_id.get())]
        finally:
            request_id.reset(token)
        self.status = f"{status} {self.request.error.reason}"
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def set_up(out: TextIO) -> None:
    """Bring the database, the static files and the first admin up to date; quick when they are.

    A database that is migrated is backed up first. Raises Unfit and BackupError.
    """
    _check_machine(out)
    _check_database()
    if is_unfinished():
        raise Unfit(
            "The database holds only a part of what it is to hold. Run manage.py migratedata again, to its end."
        )
    if saved := before_upgrade(sys.stderr):
        out.write(f"The database as it was before this version is in {saved}.\n")
    call_command("migrate", verbosity=0, interactive=False)
    ballast.keep()
    _collect_static()
    _make_first_admin(out)


def run(bind: str, *, with_agent: bool, out: TextIO, with_tick: bool = True) -> None:
    """Serve until SIGINT or SIGTERM. Raises AddressInUse."""
    host, _, port = bind.rpartition(":")
    HTTPChannel.error_task_class = JSONErrorTask
    # waitress reads requests in one thread before it hands them on, so that clients which drip their
    # bodies hold none of these threads.
    try:
        server = create_server(
            get_wsgi_application(),
            host=host.strip("[]"),
            port=int(port),
            threads=8,
            connection_limit=CONNECTIONS,
            channel_timeout=30,
            asyncore_use_poll=True,  # select() ends the process at its 1,024th file, of which the database's are some
            max_request_body_size=4 * settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
            ident="homelab",
            clear_untrusted_proxy_headers=True,
            **(BELIEVED_PROXY if settings.BEHIND_TLS else {}),
        )
    except OSError as error:
        raise AddressInUse(
            f"Cannot listen on {bind}: {error.strerror}. Choose another with --bind HOST:PORT."
        ) from error
    _allow_files()
    stop = threading.Event()
    jobs = [_every(EVERY_SECONDS, _tick_job(), stop)] if with_tick else []
    if with_tick:  # in a thread of its own: a slow disk stops no sealing; and nobody waits for it at the end
        _every(EVERY_SECONDS, _back_up, stop)
    if with_agent:
        jobs.append(_every(EVERY_SECONDS, _agent_job(f"http://{_reachable(host)}:{port}"), stop))
    sys.setswitchinterval(SWITCH_SECONDS)
    _settle()
    with _stopping_on_signals():
        out.write(f"\nHomelab is at http://{_reachable(host)}:{port}/ - stop it with Ctrl-C.\n")
        out.flush()
        try:
            server.run()
        except (KeyboardInterrupt, SystemExit):
            out.write("\nStopping ...\n")
        finally:
            stop.set()
            server.close()
            for job in jobs:
                job.join(timeout=10)
            close_all()


def _settle() -> None:
    """Let sweeps for garbage pass over what stays: what was imported, and what is remembered for the pages."""
    gc.unfreeze()  # or what was garbage since would stay, too
    gc.collect()
    gc.freeze()


def _allow_files() -> None:
    """Many systems begin with 1,024 open files a process, fewer than connections and database need together."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tick_job() -> Callable[[threading.Event], None]:
    """Return a job that does a tick and, after the first and once another hour is sealed, reads ahead."""
    ahead_of: datetime | None = None

    def job(stop: threading.Event) -> None:
        nonlocal ahead_of
        now = timezone.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        try:
            if _tick(now) and hour != ahead_of:
                ahead_of = hour
                _read_ahead(now, stop)
        finally:
            connections.close_all()

    return job


def _tick(now: datetime) -> bool:
    try:
        tick(now=now)
        ballast.keep()
    except Exception:
        # The next tick does what this one could not; the hub goes on serving.
        logger.exception("The tick failed; the next one, in a minute, goes on where it stopped.")
        return False
    return True


def _read_ahead(now: datetime, stop: threading.Event) -> None:
    try:
        for period in PERIODS:
            if not stop.is_set():
                pages.read_ahead(period, now)
        _settle()
    except Exception:
        logger.exception("Could not read ahead for the pages; they read what they need themselves.")


def _back_up(stop: threading.Event) -> None:
    try:
        nightly(now=timezone.now())
    except Exception:
        logger.exception("The nightly backup failed.")
    finally:
        connections.close_all()


def _check_machine(out: TextIO) -> None:
    found = checks.run_checks(tags=[checks.Tags.database], databases=[DEFAULT_DB_ALIAS])
    serious = [f"{message.msg} {message.hint}" for message in found if message.is_serious()]
    if serious:
        raise Unfit("\n".join(serious))
    for message in found:
        kind = "Warning" if message.level >= checks.WARNING else "Note"
        out.write(f"{kind}: {message.msg}\n      {message.hint}\n")


def _check_database() -> None:
    """See whether the database can be used at all. Raises Unfit, with the reason that it gives."""
    connection = connections[DEFAULT_DB_ALIAS]
    is_postgresql = connection.vendor == "postgresql"
    try:
        with connection.wrap_database_errors:
            if is_postgresql:  # not from the pool, which keeps the reason to itself
                connection.Database.connect(**connection.get_connection_params()).close()  # type: ignore[attr-defined]
            else:
                connection.ensure_connection()
    except DatabaseError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        hint = (
            "See that PostgreSQL runs and that DATABASE_URL is right."
            if is_postgresql
            else f"See {connection.settings_dict['NAME']}, or restore a backup: docs/commands.md."
        )
        raise Unfit(f"The database cannot be used: {reason}. {hint}") from error


def _collect_static() -> None:
    """Copy and compress the static files, unless they are as they were at the last start."""
    sources = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list(UNUSED):
            sources.update(f"{path} {os.stat(storage.path(path)).st_mtime_ns}\n".encode())
    stamp = settings.STATIC_ROOT / ".sources"
    if stamp.exists() and stamp.read_text() == sources.hexdigest():
        return
    call_command("collectstatic", verbosity=0, interactive=False, clear=True, ignore_patterns=[*UNUSED])
    stamp.write_text(sources.hexdigest())


def _make_first_admin(out: TextIO) -> None:
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return
    password = secrets.token_urlsafe(12)
    users.create_superuser("admin", password=password)
    out.write(f"Sign in as admin with the password {password} - it is shown only now; change it in the admin.\n")


def _agent_job(url: str) -> Callable[[threading.Event], None]:
    """Return a job that runs this machine's agent once, over HTTP, as cron would."""
    state = settings.DATA_DIR / "agent"
    server_id = default_server_id(socket.gethostname())
    env_file = _own_key(server_id, state / "agent.env")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "DATABASE_"))},
        "HOMELAB_URL": url,
        "HOMELAB_STATE_DIR": str(state),
    }
    command = [sys.executable, str(AGENT), "--server-id", server_id, "--env-file", str(env_file)]

    def job(stop: threading.Event) -> None:
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as agent:
            waited = 0.0
            while agent.poll() is None and waited < AGENT_SECONDS and not stop.wait(0.1):
                waited += 0.1
            if agent.poll() is None:
                agent.terminate()

    return job


def _own_key(server_id: str, path: Path) -> Path:
    """Return the settings file of this machine's agent; the first start makes its key, and the server."""
    if path.exists():
        prefix = path.read_text().partition("=")[2].partition(".")[0]
        if ApiKey.objects.filter(prefix=prefix, revoked_at=None).exists():
            return path
    server, _ = Server.objects.get_or_create(id=server_id, defaults={"hostname": socket.gethostname()})
    _, text = ApiKey.objects.make(KeyKind.AGENT, server=server, label="this machine, made by serve")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"HOMELAB_KEY={text}\n")
    return path


def _every(seconds: float, job: Callable[[threading.Event], None], stop: threading.Event) -> threading.Thread:
    """Start a thread that runs the job at once and then each `seconds`, until `stop`."""

    def loop() -> None:
        due = time.monotonic()
        while not stop.wait(max(due - time.monotonic(), 0)):
            due += seconds
            job(stop)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


@contextmanager
def _stopping_on_signals() -> Any:
    def stop(*_: Any) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("", "0.0.0.0", "[::]", "::") else host  # noqa: S104 - compared, not bound
