#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["psutil>=5.9"]
# ///
"""Homelab agent: reads the counters of this machine's network interfaces and delivers them to the hub.

It computes nothing: the counters go out as the kernel keeps them, the hub does the arithmetic. Run it from cron once a
minute; it is silent when all is well. Settings come from flags, else from the environment, else from the env file:

    HOMELAB_URL         where the hub is, such as http://hub.lan:8000
    HOMELAB_KEY         this machine's key; never a flag, because every user of the machine can read those
    HOMELAB_SERVER_ID   this machine's name on the hub (default: the short hostname)

Exit codes: 0 ok, 64 usage, 69 the hub said no, 75 temporary trouble, 77 key refused, 78 configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import http.client
import json
import os
import re
import signal
import socket
import stat
import sys
import time
from datetime import datetime, timezone
from urllib.parse import urlsplit

TYPE_CHECKING = False  # importing typing costs a cron run more than reading every counter
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

VERSION = "0.1.0"

EXIT_OK = 0
EXIT_USAGE = 64
EXIT_SAID_NO = 69
EXIT_TEMPORARY = 75
EXIT_KEY_REFUSED = 77
EXIT_CONFIGURATION = 78

SYSFS_PATH = "/sys"
OS_RELEASE_PATH = "/etc/os-release"
ENV_FILE = "/etc/homelab-agent/agent.env"

MAX_INTERFACES = 256
MAX_COUNTER = 2**63 - 1
MAX_ANSWER_BYTES = 1 << 20
OPERSTATES = frozenset({"up", "down", "unknown", "dormant", "lowerlayerdown", "notpresent", "testing"})


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    """Collect one heartbeat, deliver it, and say in the exit code how that went."""
    try:
        options = arguments().parse_args(argv)
    except SystemExit as leaving:  # argparse exits by itself on --help and on wrong usage
        return int(leaving.code or 0)
    clock = clock or Clock()
    try:
        settings = Settings(options, os.environ)
        if options.dry_run:
            print(json.dumps(collect(settings, clock), indent=2, ensure_ascii=False))
            return EXIT_OK
        settings.require_hub()
    except ConfigurationError as error:
        say(error)
        return EXIT_CONFIGURATION
    try:
        with deadline(settings.deadline_seconds):
            return send(collect(settings, clock), Hub(settings), clock)
    except DeadlineError:
        say(f"gave up after {settings.deadline_seconds:g} s")
        return EXIT_TEMPORARY


def say(message: object) -> None:
    print(f"homelab-agent: {message}", file=sys.stderr)


# --- Settings: flags win over the environment, the environment over the env file -----------------------------------


class ConfigurationError(Exception):
    pass


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"homelab-agent: {message}\n")


def arguments() -> ArgumentParser:
    parser = ArgumentParser(
        prog="homelab-agent",
        description="Deliver the counters of this machine's network interfaces to a Homelab hub.",
        epilog="The key comes from HOMELAB_KEY or the env file, never from a flag.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", metavar="URL", help="the hub (HOMELAB_URL)")
    parser.add_argument("--server-id", metavar="ID", help="this machine's name on the hub (HOMELAB_SERVER_ID)")
    parser.add_argument("--env-file", metavar="FILE", help=f"settings, readable by you alone (default {ENV_FILE})")
    parser.add_argument(
        "--ca-file", metavar="FILE", help="certificates to trust instead of the system's (HOMELAB_CA_FILE)"
    )
    parser.add_argument("--interval", metavar="SECONDS", help="time between heartbeats (HOMELAB_INTERVAL, default 60)")
    parser.add_argument(
        "--deadline", metavar="SECONDS", help="give up sending after this (HOMELAB_DEADLINE, default 50)"
    )
    parser.add_argument(
        "--include", metavar="PATTERN", action="append", help="only these interfaces, such as 'eth*' (HOMELAB_INCLUDE)"
    )
    parser.add_argument(
        "--exclude", metavar="PATTERN", action="append", help="not these interfaces, such as 'veth*' (HOMELAB_EXCLUDE)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the heartbeat and send nothing")
    parser.add_argument("--version", action="version", version=f"homelab-agent {VERSION}")
    return parser


class Settings:
    """What one run needs to know, read once."""

    def __init__(self, options: argparse.Namespace, environ: Any) -> None:
        file = read_env_file(options.env_file or ENV_FILE, wanted=bool(options.env_file))

        def setting(name: str, default: str = "") -> str:
            flag = getattr(options, name, None)
            variable = f"HOMELAB_{name.upper()}"
            return flag or environ.get(variable) or file.get(variable) or default

        def seconds(name: str, default: str) -> float:
            try:
                value = float(setting(name, default))
            except ValueError:
                value = -1.0
            if not 0 < value <= 86_400:
                raise ConfigurationError(f"HOMELAB_{name.upper()} must be a number of seconds")
            return value

        self.url = setting("url").rstrip("/")
        self.key = environ.get("HOMELAB_KEY") or file.get("HOMELAB_KEY") or ""
        self.hostname = socket.gethostname()[:255] or "localhost"
        self.server_id = setting("server_id") or default_server_id(self.hostname)
        self.server_guid = setting("server_guid")
        self.ca_file = setting("ca_file")
        self.interval = seconds("interval", "60")
        self.deadline_seconds = seconds("deadline", "50")
        self.include: list[str] = options.include or setting("include").replace(",", " ").split()
        self.exclude: list[str] = options.exclude or setting("exclude").replace(",", " ").split()
        if not re.fullmatch(r"[a-z0-9-]{1,100}", self.server_id):
            raise ConfigurationError("the server id must be 1 to 100 of a-z, 0-9 and '-'")

    def require_hub(self) -> None:
        """Refuse to go on without a hub and a key to send to it."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError("HOMELAB_URL must be the hub's address, such as http://hub.lan:8000")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise ConfigurationError("HOMELAB_KEY is missing, or is not a key")


def default_server_id(hostname: str) -> str:
    """The short hostname, made to fit: NAS_01.lan -> nas-01."""
    short = hostname.split(".", 1)[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")[:100] or "server"


def read_env_file(path: str, *, wanted: bool) -> dict[str, str]:
    """The NAME=value lines of the env file; a file that others can read is refused, since it holds the key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        # Under systemd the file is root's and has been read already; its settings are in the environment.
        if wanted or not isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError)):
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        return {}
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        status = os.fstat(descriptor)
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"{path}: others can read this file and the key in it; chmod 600 it")
        if status.st_uid not in {0, os.geteuid()}:
            raise ConfigurationError(f"{path}: this file belongs to another user")
        lines = [line.strip() for line in file]
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


# --- Collecting ----------------------------------------------------------------------------------------------------


class Clock:
    """The three clocks of a machine; tests put others in their place."""

    def now(self) -> datetime:
        """Wall clock, not to be trusted: the hub only shows how wrong it is."""
        return datetime.now(timezone.utc)

    def uptime(self) -> float:
        """Seconds since boot, sleep included where the system can tell; nobody can set this clock."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def boot_id(self) -> str | None:
        """The name of this boot, the same until the next."""
        return read_text(os.path.join(procfs_path(), "sys/kernel/random/boot_id"))


def collect(settings: Settings, clock: Clock, stats: dict[str, int] | None = None) -> dict[str, Any]:
    """One heartbeat: who, when, and all counters of all interfaces; `stats` are the agent's own."""
    heartbeat: dict[str, Any] = {
        "server_id": settings.server_id,
        "server_guid": settings.server_guid or None,
        "hostname": settings.hostname,
        "timestamp": clock.now().isoformat(timespec="milliseconds"),
        "boot_id": clock.boot_id(),
        "uptime": round(clock.uptime(), 3),
        "interval": int(settings.interval) if settings.interval.is_integer() else settings.interval,
        "agent_version": VERSION,
        "os_info": os_info(),
        "agent_stats": stats,
        "network_interfaces": network_interfaces(settings.include, settings.exclude),
    }
    return {field: value for field, value in heartbeat.items() if value is not None}


def network_interfaces(include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every interface but loopback, sorted by name; at most as many as the hub takes, veths left out first."""
    addresses = interface_addresses()
    found = []
    for raw_name, counters in read_counters().items():
        name = printable(raw_name)
        if include and not any(fnmatch.fnmatchcase(name, pattern) for pattern in include):
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
            continue
        if not all(0 <= value <= MAX_COUNTER for value in counters.values()):
            say(f"warning: {name}: a counter is out of range, interface skipped")
            continue
        details = interface_details(raw_name)
        if details.pop("loopback"):
            continue
        interface = {"name": name, **counters, **details, "addresses": addresses.get(raw_name)}
        found.append({field: value for field, value in interface.items() if value is not None})
    if len(found) > MAX_INTERFACES:
        say(f"warning: {len(found)} interfaces, only {MAX_INTERFACES} reported")
        found.sort(key=lambda interface: interface.get("kind") == "veth")
    return sorted(found[:MAX_INTERFACES], key=lambda interface: interface["name"])


def printable(name: str) -> str:
    """The kernel allows any byte but space, slash and colon in a name; the hub wants text."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return shown[:64]


def read_counters() -> dict[str, dict[str, int]]:
    """The kernel's counters by interface, as they are: `nowrap` would hide resets from the hub."""
    try:
        import psutil

        rows = psutil.net_io_counters(pernic=True, nowrap=False)
    except OSError as error:
        say(f"warning: no interface counters: {error}")
        return {}
    except (ImportError, AssertionError, ValueError):
        # psutil reads /proc/net/dev all or nothing: one malformed line would cost every interface.
        if sys.platform != "linux":
            raise ConfigurationError("psutil is missing, or cannot read the interface counters") from None
        return read_counters_by_line()
    if not rows:
        say("warning: no interface counters: the system lists no interface")
    return {
        name: {
            "rx_bytes": row.bytes_recv,
            "tx_bytes": row.bytes_sent,
            "rx_packets": row.packets_recv,
            "tx_packets": row.packets_sent,
            "rx_errors": row.errin,
            "tx_errors": row.errout,
            "rx_dropped": row.dropin,
            "tx_dropped": row.dropout,
        }
        for name, row in rows.items()
    }


def read_counters_by_line() -> dict[str, dict[str, int]]:
    """The same from /proc/net/dev itself, skipping only the lines that make no sense."""
    try:
        with open(os.path.join(procfs_path(), "net/dev"), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")[2:]
    except OSError as error:
        say(f"warning: no interface counters: {error}")
        return {}
    counters = {}
    for line in filter(str.strip, lines):
        name, colon, values = line.rpartition(":")
        fields = values.split()
        if not colon or not name.strip() or len(fields) != 16 or not all(field.isdecimal() for field in fields):
            say(f"warning: malformed line in /proc/net/dev skipped: {printable(line.strip())}")
            continue
        rx_bytes, rx_packets, rx_errors, rx_dropped = map(int, fields[:4])
        tx_bytes, tx_packets, tx_errors, tx_dropped = map(int, fields[8:12])
        counters[name.strip()] = {
            "rx_bytes": rx_bytes,
            "tx_bytes": tx_bytes,
            "rx_packets": rx_packets,
            "tx_packets": tx_packets,
            "rx_errors": rx_errors,
            "tx_errors": tx_errors,
            "rx_dropped": rx_dropped,
            "tx_dropped": tx_dropped,
        }
    return counters


def interface_details(name: str) -> dict[str, Any]:
    """State and identity of an interface from /sys; what cannot be read is None. Without /sys, psutil's word."""
    directory = os.path.join(SYSFS_PATH, "class/net", name)
    if "/" in name or name in {".", ".."} or not os.path.isdir(directory):
        return details_without_sysfs(name)

    def number(file: str, low: int = 0) -> int | None:
        text = read_text(os.path.join(directory, file)) or ""
        return int(text) if text.isdecimal() and low <= int(text) < 2**31 else None

    flags = int(read_text(os.path.join(directory, "flags"), pattern=r"0x[0-9a-fA-F]{1,8}") or "0", 16)
    operstate = read_text(os.path.join(directory, "operstate"))
    mac = read_text(os.path.join(directory, "address"), pattern=r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
    return {
        "loopback": bool(flags & 0x8) or name == "lo",
        # WireGuard, Tailscale and tun devices never leave `unknown`: there the UP flag is all there is to know.
        "is_up": operstate == "up" or (operstate in {"unknown", None} and bool(flags & 0x1)),
        "operstate": operstate if operstate in OPERSTATES else None,
        "speed_mbps": number("speed", low=1),
        "mtu": number("mtu"),
        "mac": mac if mac != "00:00:00:00:00:00" else None,
        "ifindex": number("ifindex", low=1),
        "kind": interface_kind(name, directory),
        "master": link_name(os.path.join(directory, "master")),
        "carrier_changes": number("carrier_changes"),
    }


def interface_kind(name: str, directory: str) -> str:
    """What an interface is, by the marks its driver leaves in /sys."""

    def has(entry: str) -> bool:
        return os.path.lexists(os.path.join(directory, entry))

    uevent = read_text(os.path.join(directory, "uevent")) or ""
    devtype = next((line[8:] for line in uevent.split("\n") if line.startswith("DEVTYPE=")), "")
    if devtype in {"bridge", "bond", "vlan", "wireguard"}:
        return devtype
    if devtype == "wlan" or has("phy80211") or has("wireless"):
        return "wifi"
    for entry, kind in (("bridge", "bridge"), ("bonding", "bond"), ("tun_flags", "tun"), ("device", "physical")):
        if has(entry):
            return kind
    return "veth" if name.startswith("veth") or is_renamed_veth(directory) else "virtual"


def is_renamed_veth(directory: str) -> bool:
    """An Ethernet device linked to another one that is not below it can only be one end of a pair."""
    links = [read_text(os.path.join(directory, file)) for file in ("type", "ifindex", "iflink")]
    with contextlib.suppress(OSError):
        stacked = any(entry.startswith("lower_") for entry in os.listdir(directory))
        return links[0] == "1" and None not in links and links[1] != links[2] and links[2] != "0" and not stacked
    return False


def details_without_sysfs(name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"loopback": name in {"lo", "lo0"}, "is_up": False}
    with contextlib.suppress(ImportError, OSError, AssertionError, ValueError):
        import psutil

        known = psutil.net_if_stats().get(name)
        if known:
            details.update(is_up=known.isup, mtu=known.mtu or None, speed_mbps=known.speed or None)
    return details


def interface_addresses() -> dict[str, list[str]]:
    """IPv4 and IPv6 addresses by interface, as text."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(ImportError, OSError):
        import psutil

        for name, known in psutil.net_if_addrs().items():
            texts = [a.address.partition("%")[0] for a in known if a.family in {socket.AF_INET, socket.AF_INET6}]
            if texts:
                found[name] = texts[:32]
    return found


def os_info() -> dict[str, str]:
    uname = os.uname()
    release = {}
    for line in (read_text(OS_RELEASE_PATH) or "").split("\n"):
        name, _, value = line.partition("=")
        release[name] = value.strip("\"'")
    known = {
        "distribution": release.get("NAME") or uname.sysname,
        "version": release.get("VERSION_ID"),
        "kernel": uname.release,
        "architecture": uname.machine,
    }
    return {field: value[:100] for field, value in known.items() if value}


def procfs_path() -> str:
    """Where psutil looks, so that both always look at the same system."""
    return getattr(sys.modules.get("psutil"), "PROCFS_PATH", "/proc")


def read_text(path: str, *, pattern: str = r"(?s).+") -> str | None:
    """A small system file as text; None when it is not there, not readable, or not what it should be."""
    try:
        with open(path, "rb") as file:
            text = file.read(65_536).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text if re.fullmatch(pattern, text) else None


def link_name(path: str) -> str | None:
    try:
        return printable(os.path.basename(os.readlink(path))) or None
    except OSError:
        return None


# --- Sending -------------------------------------------------------------------------------------------------------


class DeadlineError(Exception):
    pass


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupt whatever runs inside after this time: a hub that drips its answer must not pile up cron runs."""

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        raise DeadlineError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Answer:
    """What came back: `body` is the JSON object of the answer, or None for anything else."""

    def __init__(self, status: int, body: dict[str, Any] | None) -> None:
        self.status = status
        self.body = body

    @property
    def outcome(self) -> str | None:
        """The outcome of an ack. An empty 200, a captive portal's page or a redirect is none."""
        if self.status != 200 or self.body is None or self.body.get("status") != "ok":
            return None
        outcome = self.body.get("outcome")
        return outcome if outcome in {"accepted", "duplicate", "rejected"} else None


class Hub:
    """The connection to the hub. http.client, because importing requests costs more than all the rest of a cron run;
    it follows no redirect, reads no proxy from the environment, and checks certificates before it sends anything."""

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.url)
        self.path = parts.path
        self.headers = {
            "Authorization": f"Bearer {settings.key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"homelab-agent/{VERSION}",
        }
        timeout = min(20.0, settings.deadline_seconds)
        host = parts.hostname or ""
        self.connection: http.client.HTTPConnection
        if parts.scheme == "https":
            import ssl

            context = ssl.create_default_context(cafile=settings.ca_file or None)
            self.connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        else:
            self.connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)

    def post(self, call: str, body: dict[str, Any]) -> Answer:
        """Raises OSError or HTTPException when no whole answer came."""
        data = json.dumps(body, separators=(",", ":")).encode()
        self.connection.request("POST", f"{self.path}/api/v1/agents/{call}", body=data, headers=self.headers)
        response = self.connection.getresponse()
        text = response.read(MAX_ANSWER_BYTES)
        self.connection.close()
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        return Answer(response.status, answer if isinstance(answer, dict) else None)


def send(heartbeat: dict[str, Any], hub: Hub, clock: Clock) -> int:
    """Deliver one heartbeat; the exit code says what became of it."""
    try:
        answer = hub.post("heartbeat", as_sent(heartbeat, clock))
    except (OSError, http.client.HTTPException) as error:
        say(f"the hub did not answer: {error or type(error).__name__}")
        return EXIT_TEMPORARY
    if answer.outcome in {"accepted", "duplicate"}:
        return EXIT_OK
    say(f"the hub answered {answer.status}{'' if answer.body else ', and not in JSON'}")
    if answer.status in {401, 403}:
        return EXIT_KEY_REFUSED
    if answer.status == 200 and answer.outcome == "rejected":
        return EXIT_SAID_NO
    return EXIT_SAID_NO if 400 <= answer.status < 500 and answer.status not in {408, 425, 429} else EXIT_TEMPORARY


def as_sent(heartbeat: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """The heartbeat with its age: the uptime at sending, which means something only within the same boot."""
    if heartbeat.get("boot_id") is None or heartbeat["boot_id"] != clock.boot_id():
        return heartbeat
    return {**heartbeat, "sent_uptime": round(clock.uptime(), 3)}


if __name__ == "__main__":
    sys.exit(main())
