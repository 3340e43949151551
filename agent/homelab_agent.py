#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["psutil>=5.9"]
# ///
"""Homelab agent: reads the counters of this machine's network interfaces and delivers them to the hub.

It computes nothing: the counters go out as the kernel keeps them, the hub does the arithmetic. Run it from cron once a
minute; it is silent when all is well. What the hub has not acknowledged waits on disk, so nothing is lost while the hub
or the network is away. Settings come from flags, else from the environment, else from the env file:

    HOMELAB_URL         where the hub is, such as http://hub.lan:8000
    HOMELAB_KEY         this machine's key; never a flag, because every user of the machine can read those
    HOMELAB_SERVER_ID   this machine's name on the hub (default: the short hostname)
    HOMELAB_STATE_DIR   where unsent heartbeats wait (default: /var/lib/homelab-agent, or ~/.local/state/homelab-agent)

Exit codes: 0 ok, 64 usage, 69 the hub said no, 75 temporary trouble, 77 key refused, 78 configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import json
import os
import random
import re
import signal
import socket
import stat
import sys
import threading
import time
import zlib
from datetime import datetime, timezone
from urllib.parse import urlsplit

TYPE_CHECKING = False  # importing typing costs a cron run more than reading every counter
if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType
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
STATE_DIR = "/var/lib/homelab-agent"
PROGRAM_DIR = "/usr/local/lib/homelab-agent"
CRON_FILE = "/etc/cron.d/homelab-agent"
UNIT_DIR = "/etc/systemd/system"
OTHER_UNIT_DIRS = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
SYSTEMD_RUNS = "/run/systemd/system"

NOT_SAVED = frozenset({"HOMELAB_STATE_DIR", "HOMELAB_LOOP", "HOMELAB_SPLAY"})  # --install writes them elsewhere
SERVER_ID = re.compile(r"[a-z0-9-]{1,100}")
SERVER_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
KEY = re.compile(r"[!-~]{1,500}")
OPERSTATES = frozenset({"up", "down", "unknown", "dormant", "lowerlayerdown", "notpresent", "testing"})
OUTCOMES = frozenset({"accepted", "duplicate", "rejected"})
MAX_INTERFACES = 256
MAX_COUNTER = 2**63 - 1
MAX_BATCH_ITEMS = 500
MAX_BATCH_BYTES = (1 << 20) - 64
FIRST_BATCH_BYTES = 1 << 14  # 16 s on a link of 8 kbit/s; doubled each time one gets through
NEXT_BATCH_SECONDS = 20.0
MAX_FILE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 20
MAX_REJECTED = 100
CONNECT_SECONDS = 10.0
BATCH_PAUSE_SECONDS = 0.5  # the hub takes two requests a second of one server
REFUSED_PAUSE_SECONDS = 600.0
MAX_PAUSE_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    """Collect one heartbeat, deliver it and what waits, and say in the exit code how that went."""
    try:
        options = arguments().parse_args(argv)
    except SystemExit as leaving:  # argparse exits by itself on --help and on wrong usage
        return int(leaving.code or 0)
    try:
        return run(options, clock or Clock())
    except ConfigurationError as error:
        say(error)
        return EXIT_CONFIGURATION


def run(options: argparse.Namespace, clock: Clock) -> int:
    if options.uninstall:
        return uninstall()
    settings = Settings(options, os.environ)
    spool = Spool(settings.state_dir, settings.spool_limit)
    if options.dry_run:
        heartbeat = collect(settings, clock, spool.stats(len(spool.waiting())))
        print(json.dumps(heartbeat, indent=2))
        return EXIT_OK
    if options.status:
        print("\n".join(status(settings, spool, clock)))
        return EXIT_OK
    if options.install:
        check_install(options.install, settings)  # before an enrolment key is spent on what cannot work
    if options.enrol:
        code = enrol(settings, os.environ)
        if code != EXIT_OK or not options.install:
            return code
    if options.install:
        return install(options.install, settings)
    settings.require_hub()
    if settings.loop:
        return loop(options, settings, spool, clock)
    return beat(settings, spool, Hub(settings, settings.key), clock)


def beat(settings: Settings, spool: Spool, hub: Hub, clock: Clock) -> int:
    """Collect, put it on disk, send. A second run beside a slow one only adds to the disk: the first one sends."""
    spool.prepare()
    try:
        with deadline(settings.deadline_seconds, exits=not settings.loop) as hub.until, spool.lock() as alone:
            waiting = spool.waiting()
            heartbeat = collect(settings, clock, spool.stats(len(waiting)))
            name = spool.add(heartbeat, waiting)
            if name and not alone:
                return EXIT_OK
            seconds_left, code = spool.paused(hub, clock)
            if seconds_left:
                return lost(name, spool, code)
            time.sleep(random.uniform(0, settings.splay))  # noqa: S311 - spreads the load, guards nothing
            return send(heartbeat, name, backlog=waiting if alone else [], spool=spool, hub=hub, clock=clock)
    except DeadlineError:
        hub.close()
        say(f"gave up after {settings.deadline_seconds:g} s")
        return EXIT_TEMPORARY


def loop(options: argparse.Namespace, settings: Settings, spool: Spool, clock: Clock) -> int:
    """Beat for ever on one connection; a beat that takes too long skips the ones it missed."""
    hub = Hub(settings, settings.key)
    due = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            code = beat(settings, spool, hub, clock)
            if code == EXIT_KEY_REFUSED:
                settings = Settings(options, os.environ)  # the key may have been changed in the env file meanwhile
                hub = Hub(settings, settings.key)
            settings.splay = 0.0
            due = max(due + settings.loop, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    return EXIT_OK


def say(message: object) -> None:
    print(f"homelab-agent: {message}", file=sys.stderr, flush=True)


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
        # Without a width, argparse imports shutil and its compression libraries to ask how wide the terminal is.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=110),
    )
    value = parser.add_argument
    value("--url", metavar="URL", help="the hub (HOMELAB_URL)")
    value("--server-id", metavar="ID", help="this machine's name on the hub (HOMELAB_SERVER_ID)")
    value("--env-file", metavar="FILE", help=f"settings, readable by you alone (default {ENV_FILE})")
    value("--state-dir", metavar="DIR", help=f"where heartbeats wait (HOMELAB_STATE_DIR, default {STATE_DIR})")
    value("--ca-file", metavar="FILE", help="certificates to trust instead of the system's (HOMELAB_CA_FILE)")
    value("--interval", metavar="SECONDS", help="time between heartbeats (HOMELAB_INTERVAL, default 60)")
    value("--deadline", metavar="SECONDS", help="give up sending after this (HOMELAB_DEADLINE, default 50)")
    value("--splay", metavar="SECONDS", help="wait up to this before sending (HOMELAB_SPLAY, default 0)")
    value("--spool-days", metavar="DAYS", help="how much may wait on disk (HOMELAB_SPOOL_DAYS, default 30)")
    value("--include", metavar="PATTERN", action="append", help="only these interfaces (HOMELAB_INCLUDE)")
    value("--exclude", metavar="PATTERN", action="append", help="not these, such as 'veth*' (HOMELAB_EXCLUDE)")
    value("--loop", metavar="SECONDS", help="stay, and send a heartbeat this often")
    value("--dry-run", action="store_true", help="print the heartbeat and send nothing")
    value("--status", action="store_true", help="tell what waits to be sent")
    value(
        "--enrol", action="store_true", help="fetch this machine's key with HOMELAB_ENROL_KEY, or one read from stdin"
    )
    value("--install", choices=("cron", "systemd"), help="run once a minute from now on")
    value("--uninstall", action="store_true", help="undo --install; settings and what waits are kept")
    value("--version", action="version", version=f"homelab-agent {VERSION}")
    return parser


class Settings:
    """What one run needs to know, read once; `given` came by flag or environment, and --install keeps it."""

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str]) -> None:
        chosen = options.env_file and os.path.abspath(options.env_file)
        self.env_file: str = chosen or own_path(ENV_FILE, "~/.config/homelab-agent/agent.env", os.R_OK)
        self.given: dict[str, str] = {}
        file = read_env_file(self.env_file, wanted=bool(options.env_file) and not (options.enrol or options.install))

        def setting(name: str, default: str = "") -> str:
            variable = f"HOMELAB_{name.upper()}"
            value = getattr(options, name, None) or environ.get(variable) or ""
            if value:
                value = value if isinstance(value, str) else " ".join(value)
                # Cron and systemd run the agent elsewhere.
                self.given[variable] = value = os.path.abspath(value) if name in {"state_dir", "ca_file"} else value
            return value or file.get(variable) or default

        def number(name: str, default: str, low: float) -> float:
            with contextlib.suppress(ValueError):
                value = float(setting(name, default))
                if low <= value <= 86_400:
                    return value
            raise ConfigurationError(f"{name.replace('_', '-')} must be a number, {low:g} or more")

        self.url = setting("url").rstrip("/")
        self.key = setting("key")
        self.hostname = socket.gethostname()[:255] or "localhost"
        self.server_id = setting("server_id") or default_server_id(self.hostname)
        self.server_guid = setting("server_guid")
        self.state_dir = setting("state_dir") or own_path(STATE_DIR, "~/.local/state/homelab-agent", os.W_OK)
        self.ca_file = setting("ca_file")
        self.loop = number("loop", "0", 0.0)
        self.interval = self.loop or number("interval", "60", 1.0)
        # A resident agent must be back for its next reading, whatever the hub does.
        self.deadline_seconds = min(number("deadline", "50", 0.1), self.loop or 86_400)
        self.splay = min(number("splay", "0", 0.0), self.deadline_seconds / 2)
        # A number of heartbeats, not of days, because a machine without a clock of its own cannot tell their age.
        self.spool_limit = max(1, int(number("spool_days", "30", 0.0) * 86_400 / self.interval))
        self.include = setting("include").replace(",", " ").split()
        self.exclude = setting("exclude").replace(",", " ").split()
        # What the hub would refuse in every heartbeat is refused here, so that none is set aside for it.
        if not SERVER_ID.fullmatch(self.server_id):
            raise ConfigurationError("the server id must be 1 to 100 of a-z, 0-9 and '-'")
        if self.server_guid and not SERVER_GUID.fullmatch(self.server_guid):
            raise ConfigurationError("HOMELAB_SERVER_GUID must be a UUID of version 4; without it --enrol makes one")
        if self.interval < 1:
            raise ConfigurationError("loop must be a number, 1 or more")

    def require_url(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable or not re.fullmatch(r"[!-~]+", self.url):
            raise ConfigurationError("HOMELAB_URL must be the hub's address, such as http://hub.lan:8000")

    def require_hub(self) -> None:
        """Refuse to go on without a hub and a key to send to it."""
        self.require_url()
        if not KEY.fullmatch(self.key):
            raise ConfigurationError("HOMELAB_KEY is missing, or is not a key")


def own_path(system: str, user: str, access: int) -> str:
    """The system's path for root and for whoever has access to it, else the user's own."""
    return system if os.geteuid() == 0 or os.access(system, access) else os.path.expanduser(user)


def default_server_id(hostname: str) -> str:
    """The short hostname, made to fit: NAS_01.lan -> nas-01."""
    short = hostname.split(".", 1)[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")[:100] or "server"


def read_env_file(path: str, *, wanted: bool) -> dict[str, str]:
    """The NAME=value lines of the env file; a file that others can open is refused, since it holds the key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        # Under systemd the file is root's and has been read already; its settings are in the environment.
        if wanted or not isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError)):
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        return {}
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{path}: not a file")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"{path}: others can open this file and read the key in it; chmod 600 it")
        if os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
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
        return read_text(os.path.join(procfs_path(), "sys/kernel/random/boot_id"), pattern=r"[0-9a-f-]{1,64}")


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
    return "veth" if name.startswith("veth") or driver(name) == "veth" else "virtual"


def is_running(name: str) -> bool:
    """Whether an interface is up by the kernel's word (SIOCGIFFLAGS), which Linux gives without /sys too."""
    import struct

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16sH22x", os.fsencode(name)[:15], 0)
            (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, 0x8913, request), 16)
    except OSError:
        return False
    return flags & 0x41 == 0x41  # IFF_UP and IFF_RUNNING


def driver(name: str) -> str | None:
    """The driver of an interface by its own word (ETHTOOL_GDRVINFO), since /sys has no mark of a renamed veth."""
    import array
    import struct

    info = array.array("B", struct.pack("=I192x", 3))
    request = struct.pack("16sP16x", os.fsencode(name)[:15], info.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8946, request)
    except OSError:
        return None
    return info.tobytes()[4:36].partition(b"\0")[0].decode("utf-8", "replace")


def details_without_sysfs(name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"loopback": name in {"lo", "lo0"}, "is_up": is_running(name)}
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


# --- The spool: heartbeats on disk until the hub has acknowledged them ----------------------------------------------


class Spool:
    """One file a heartbeat, numbered as they came: `<number>-<random>.json`, a checksum and the JSON.

    A file appears complete or not at all, and leaves only when the hub has named its outcome. Beside them, `state`
    holds a few numbers the next run wants to know; losing it loses no heartbeat.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self.files = os.path.join(directory, "spool")
        self.rejected = os.path.join(directory, "rejected")

    def prepare(self) -> None:
        """Make the directories. A full disk is not the end: the heartbeat then goes out from memory."""
        try:
            os.makedirs(self.files, 0o700, exist_ok=True)
            owner = os.stat(self.files).st_uid
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise ConfigurationError(f"{self.directory}: {error.strerror}") from None
        except OSError as error:
            say(f"warning: {self.directory}: {error.strerror}")
            return
        if owner != os.geteuid():
            # Files of two owners in one spool would leave each unable to read the other's.
            raise ConfigurationError(f"{self.directory}: belongs to another user; run the agent as that user")

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether this run is the only one here. The kernel lets go of the lock however the process ends."""
        descriptor = None
        alone = True
        try:
            descriptor = os.open(os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError as error:
            say(f"warning: {self.directory}: {error.strerror}")
        try:
            yield alone
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def waiting(self) -> list[str]:
        """Names of what waits, oldest first; what killed runs left half written is removed on the way."""
        try:
            names = sorted(os.listdir(self.files))
        except OSError:
            return []
        for name in names:
            if not name.startswith("."):
                break
            path = os.path.join(self.files, name)
            with contextlib.suppress(OSError):
                # A run beside this one may be writing right now; its file is younger than an hour by any clock.
                if abs(time.time() - os.lstat(path).st_mtime) > 3600:
                    os.unlink(path)
        return [name for name in names if not name.startswith(".")]

    def add(self, heartbeat: dict[str, Any], waiting: Sequence[str] = ()) -> str | None:
        """Put a heartbeat on disk for good, and return its name; None when the disk does not take it."""
        numbers = (int(name[:12]) for name in reversed(waiting) if re.match(r"\d{12}-", name))
        name = f"{next(numbers, 0) + 1:012d}-{os.urandom(4).hex()}.json"
        torn, whole = os.path.join(self.files, f".{name}"), os.path.join(self.files, name)
        text = as_json(heartbeat)
        try:
            with open(torn, "xb", opener=lambda path, flags: os.open(path, flags | os.O_CLOEXEC, 0o600)) as file:
                file.write(b"%08x %s\n" % (zlib.crc32(text), text))
                file.flush()
                os.fsync(file.fileno())
            os.rename(torn, whole)
            self.sync()
        except OSError as error:
            say(f"warning: {self.files}: {error.strerror}; this heartbeat is in memory only")
            with contextlib.suppress(OSError):
                os.unlink(torn)
            return None
        too_many = waiting[: max(0, len(waiting) + 1 - self.limit)]
        if too_many:
            self.count(dropped=sum(self.remove(old) for old in too_many))
        return name

    def load(self, name: str) -> dict[str, Any] | None:
        """The heartbeat in a file; None when it is gone, or was no heartbeat and is now set aside."""
        try:
            # A FIFO would block and a symbolic link would lead elsewhere: neither is opened.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.path.join(self.files, name), "rb", opener=lambda path, _: os.open(path, flags)) as file:
                known = os.fstat(file.fileno())
                data = file.read(MAX_FILE_BYTES) if stat.S_ISREG(known.st_mode) else b""
            checksum, _, text = data.partition(b" ")
            text = text.rstrip(b"\n")
            heartbeat = json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            heartbeat = None
        if not isinstance(heartbeat, dict):
            say(f"warning: {name} is no whole heartbeat, moved to {self.rejected}")
            self.set_aside(name)
            return None
        return heartbeat

    def remove(self, name: str) -> bool:
        try:
            os.unlink(os.path.join(self.files, name))
        except OSError:
            return False
        return True

    def set_aside(self, name: str) -> None:
        """Move what will never be stored out of the way of the rest, where a person can look at it."""
        try:
            os.makedirs(self.rejected, 0o700, exist_ok=True)
            os.rename(os.path.join(self.files, name), os.path.join(self.rejected, name))
            self.count(rejected=1)
            kept = [os.path.join(self.rejected, old) for old in os.listdir(self.rejected)]
            kept.sort(key=lambda path: os.lstat(path).st_ctime_ns)
            for path in kept[:-MAX_REJECTED]:
                if os.path.isdir(path) and not os.path.islink(path):
                    import shutil

                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
        except OSError as error:
            say(f"warning: {self.rejected}: {error.strerror}")

    def sync(self) -> None:
        """A rename is on disk only when its directory is."""
        descriptor = os.open(self.files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def stats(self, waiting: int) -> dict[str, int]:
        """What the hub is told of the spool: how many wait, and what became of the others so far."""
        state = self.state()
        return {"spooled": waiting, **{word: state[word] for word in ("sent", "rejected", "dropped")}}

    def state(self) -> dict[str, Any]:
        """The numbers of earlier runs; nonsense in the file counts as nothing."""
        state: dict[str, Any] = {"sent": 0, "rejected": 0, "dropped": 0, "batch_bytes": MAX_BATCH_BYTES, "pause": []}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with open(os.path.join(self.directory, "state"), "rb") as file:
                found = json.loads(file.read(512))
            if isinstance(found, dict):
                state.update({word: found[word] for word in state if type(found.get(word)) is type(state[word])})
        return state

    def count(self, **more: int) -> None:
        state = self.state()
        self.remember(**{word: state[word] + number for word, number in more.items()})

    def remember(self, **values: Any) -> None:
        """Rewrite the state in place, always of one length: that works on a full disk too."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(os.path.join(self.directory, "state"), flags, 0o600)
            try:
                os.pwrite(descriptor, as_json({**self.state(), **values}).ljust(511) + b"\n", 0)
            finally:
                os.close(descriptor)

    def pause(self, seconds: float, code: int, hub: Hub, clock: Clock) -> None:
        """Send nothing for a while, also in the runs to come. Counted in uptime, which nobody can set."""
        seconds = min(max(seconds, 1.0), MAX_PAUSE_SECONDS)
        until = clock.uptime() + seconds + random.uniform(0, seconds / 10)  # noqa: S311 - spreads the load
        self.remember(pause=[clock.boot_id(), round(until, 1), code, hub.fingerprint])

    def paused(self, hub: Hub, clock: Clock) -> tuple[float, int]:
        """For how many more seconds, and with which exit code. A reboot or another key or hub ends every pause."""
        with contextlib.suppress(ValueError, TypeError):
            boot_id, until, code, fingerprint = self.state()["pause"]
            left = until - clock.uptime()
            if boot_id == clock.boot_id() and fingerprint == hub.fingerprint and 0 < left < 1.2 * MAX_PAUSE_SECONDS:
                return left, int(code)
        return 0.0, EXIT_OK


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- Sending -------------------------------------------------------------------------------------------------------


def send(
    heartbeat: dict[str, Any], name: str | None, *, backlog: Sequence[str], spool: Spool, hub: Hub, clock: Clock
) -> int:
    """Deliver the newest heartbeat, so that the hub is up to date at once, then the backlog, oldest first."""
    try:
        answer = hub.post("heartbeat", as_json(as_sent(heartbeat, clock)))
    except OSError as error:
        say(f"the hub did not answer: {error or type(error).__name__}")
        return lost(name, spool, EXIT_TEMPORARY)
    except DeadlineError:
        lost(name, spool, EXIT_TEMPORARY)
        raise
    code = EXIT_OK
    if answer.outcome is not None:
        code = settle([(name, answer.body)], spool)
    elif answer.refuses_body and name is not None:
        backlog = [*backlog, name]  # the batch will say what is wrong with it
    else:
        return lost(name, spool, refused(answer, spool, hub, clock))
    return max(code, send_backlog(list(backlog), spool=spool, hub=hub, clock=clock))


def lost(name: str | None, spool: Spool, code: int) -> int:
    """What could neither be kept nor sent is counted, so that the gap has an explanation."""
    if name is None:
        spool.count(dropped=1)
    return code


def send_backlog(names: list[str], *, spool: Spool, hub: Hub, clock: Clock) -> int:
    """Oldest first, in batches as large as the hub, the link and the time left allow.

    Any batch may be sent twice: the hub knows what it has. A hub that is older than batches gets them one by one.
    """
    code, singly = EXIT_OK, False
    size = min(spool.state()["batch_bytes"], FIRST_BATCH_BYTES)
    while names:
        sendable = hub.bytes_per_second * hub.seconds_left()
        batch = take(names, 0 if singly else min(size, sendable / 2), spool, clock)
        sent = sum(len(text) for _, text in batch)
        if not batch or sent > sendable:
            break
        half = max(1, sent // 2)
        spool.remember(batch_bytes=half)  # before the attempt: a run that is cut off in it tries less next time
        try:
            answer = post_batch([text for _, text in batch], hub, singly=singly)
        except OSError as error:
            broken = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
            if len(batch) == 1 or not broken:
                say(f"the hub did not answer: {error or type(error).__name__}")
                return EXIT_TEMPORARY
            answer = Answer(413, None)  # something on the way may not like large requests
        results = [answer.body] if singly and answer.outcome else answer.results(len(batch))
        if answer.status == 404 and not singly:
            singly = True
        elif answer.refuses_body and len(batch) > 1:
            size = half
        elif answer.refuses_body:
            poison = {"outcome": "rejected", "error": answer.body or "too large"}
            code = max(code, settle([(batch[0][0], poison)], spool))
            del names[0]
        elif results is None:
            return refused(answer, spool, hub, clock)
        else:
            code = max(code, settle([(name, results[index]) for index, (name, _) in enumerate(batch)], spool))
            del names[: len(batch)]
            size = min(max(size, sent) * 2, MAX_BATCH_BYTES)
            spool.remember(batch_bytes=int(min(size, hub.bytes_per_second * NEXT_BATCH_SECONDS)))
        pause = BATCH_PAUSE_SECONDS * random.uniform(1, 1.2)  # noqa: S311 - spreads the load
        if pause >= hub.seconds_left():
            break  # the next run goes on; to be interrupted in the pause would count as a failure
        if names:
            time.sleep(pause)
    return code


def post_batch(texts: Sequence[bytes], hub: Hub, *, singly: bool) -> Answer:
    if singly:
        return hub.post("heartbeat", texts[0])
    return hub.post("heartbeats", b'{"heartbeats":[%s]}' % b",".join(texts))


def take(names: list[str], size: float, spool: Spool, clock: Clock) -> list[tuple[str, bytes]]:
    """The first of these, as many as fit, at least one. Names that hold no heartbeat are taken off the list."""
    batch: list[tuple[str, bytes]] = []
    total = 0
    while len(batch) < min(len(names), MAX_BATCH_ITEMS):
        name = names[len(batch)]
        heartbeat = spool.load(name)
        if heartbeat is None:
            del names[len(batch)]
            continue
        text = as_json(as_sent(heartbeat, clock))
        total += len(text) + 1
        if batch and total > size:
            break
        batch.append((name, text))
    return batch


def settle(results: Sequence[tuple[str | None, Any]], spool: Spool) -> int:
    """Do with each file what its outcome says; a file without an outcome stays."""
    code, sent, rejected = EXIT_OK, 0, []
    for name, result in results:
        outcome = result.get("outcome") if isinstance(result, dict) else None
        if outcome in ("accepted", "duplicate"):
            sent += 1
            if name is not None:
                spool.remove(name)
        elif outcome == "rejected":
            rejected.append(explained(result.get("error")))
            if name is not None:
                spool.set_aside(name)
        else:
            code = EXIT_TEMPORARY
    if sent:
        spool.count(sent=sent)
    if rejected:
        say(f"the hub rejected {len(rejected)}, moved to {spool.rejected}: {rejected[0]}")
        code = max(code, EXIT_SAID_NO)
    return code


def refused(answer: Answer, spool: Spool, hub: Hub, clock: Clock) -> int:
    """The exit code for an answer that is no ack, and how long to leave the hub alone after it."""
    reason = "no outcome is named; the hub may be older than this agent" if answer.acks else explained(answer.body)
    say(f"the hub answered {answer.status}: {reason}")
    seconds = answer.retry_after
    if answer.exit_code == EXIT_KEY_REFUSED:
        seconds = seconds or REFUSED_PAUSE_SECONDS
    if seconds:
        spool.pause(seconds, answer.exit_code, hub, clock)
    return answer.exit_code


def explained(error: Any) -> str:
    """The hub's own words, as one short printable line."""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        first = error["errors"][0]
        error = f"{first['attr']}: {first['detail']}" if first["attr"] else first["detail"]
    if error is None:
        return "not in JSON"
    text = error if isinstance(error, str) else json.dumps(error)
    return "".join(c for c in text if c.isprintable())[:200]


def as_sent(heartbeat: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """The heartbeat with its age: the uptime at sending, which means something only within the same boot."""
    if heartbeat.get("boot_id") is None or heartbeat["boot_id"] != clock.boot_id():
        return heartbeat
    return {**heartbeat, "sent_uptime": round(clock.uptime(), 3)}


class DeadlineError(Exception):
    pass


@contextlib.contextmanager
def deadline(seconds: float, *, exits: bool) -> Iterator[float]:
    """Interrupt whatever runs inside after this time: a hub that drips its answer must not pile up cron runs.

    No signal interrupts the look-up of a name; where `exits`, a thread then ends the process, which loses nothing.
    """

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        raise DeadlineError

    def end() -> None:
        say(f"gave up after {seconds:g} s")
        os._exit(EXIT_TEMPORARY)

    before = signal.signal(signal.SIGALRM, interrupt)
    last_resort = threading.Timer(seconds + 2, end)
    last_resort.daemon = True
    if exits:
        last_resort.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield time.monotonic() + seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        last_resort.cancel()


class Answer:
    """What came back: `body` is the JSON object of the answer, or None for anything else."""

    def __init__(self, status: int, body: dict[str, Any] | None, retry_after: float = 0.0) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.acks = status == 200 and body is not None and body.get("status") == "ok"

    @property
    def outcome(self) -> str | None:
        """The outcome of one heartbeat. An empty 200, a captive portal's page or a redirect has none."""
        outcome = self.body.get("outcome") if self.acks and self.body is not None else None
        return outcome if isinstance(outcome, str) and outcome in OUTCOMES else None

    @property
    def exit_code(self) -> int:
        """What an answer that is no ack means for the one who waits for the exit code."""
        if self.status in {401, 403}:
            return EXIT_KEY_REFUSED
        said_no = 400 <= self.status < 500 and self.status not in {408, 425, 429}
        return EXIT_SAID_NO if said_no else EXIT_TEMPORARY

    @property
    def refuses_body(self) -> bool:
        """Whether this was about what was sent. A hub that dislikes its own address says 400 too, but to any body."""
        if self.status in {400, 422} and self.body is not None:
            return self.body.get("type") == "validation_error"
        return self.status == 413

    def results(self, expected: int) -> list[Any] | None:
        """The outcomes of a batch, one an item, in order."""
        results = self.body.get("results") if self.acks and self.body is not None else None
        return results if isinstance(results, list) and len(results) == expected else None


class Hub:
    """The connection to the hub. http.client, because importing requests costs more than all the rest of a cron run;
    it follows no redirect, reads no proxy from the environment, and checks certificates before it sends anything."""

    def __init__(self, settings: Settings, key: str) -> None:
        parts = urlsplit(settings.url)
        self.path = parts.path
        self.headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"homelab-agent/{VERSION}",
        }
        self.fingerprint = zlib.crc32(f"{settings.url} {key}".encode())
        self.until = time.monotonic() + settings.deadline_seconds
        self.bytes_per_second = float(MAX_BATCH_BYTES)
        self.http = import_http_client(tls=parts.scheme == "https")
        host, timeout = parts.hostname or "", min(CONNECT_SECONDS, settings.deadline_seconds)
        self.connection: http.client.HTTPConnection
        if parts.scheme == "https":
            import ssl

            try:
                context = ssl.create_default_context(cafile=settings.ca_file or None)
            except OSError as error:
                raise ConfigurationError(f"{settings.ca_file}: {error.strerror or error}") from None
            self.connection = self.http.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        else:
            self.connection = self.http.HTTPConnection(host, parts.port, timeout=timeout)

    def post(self, call: str, body: bytes) -> Answer:
        """Raises OSError when no whole answer came."""
        reused = self.connection.sock is not None
        started = time.monotonic()
        try:
            answer = self.exchange(call, body)
        except ConnectionError:
            if not reused:
                raise
            answer = self.exchange(call, body)  # the hub had closed the connection while it was idle
        self.bytes_per_second = len(body) / max(time.monotonic() - started, 0.001)
        return answer

    def exchange(self, call: str, body: bytes) -> Answer:
        whole = False
        try:
            if self.connection.sock is None:
                self.connection.connect()
            if self.connection.sock is not None:
                self.connection.sock.settimeout(max(0.1, self.seconds_left()))
            self.connection.request("POST", f"{self.path}/api/v1/agents/{call}", body=body, headers=self.headers)
            response = self.connection.getresponse()
            text = response.read(MAX_ANSWER_BYTES)
            whole = response.isclosed()
        except self.http.HTTPException as error:
            raise ConnectionError(f"it speaks no HTTP, or broke off: {error!r}") from None
        except UnicodeError as error:
            raise OSError(f"HOMELAB_URL: {error}") from None
        finally:
            if not whole:
                self.close()
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        return Answer(response.status, answer if isinstance(answer, dict) else None, retry_after(response.headers))

    def seconds_left(self) -> float:
        return self.until - time.monotonic()

    def close(self) -> None:
        self.connection.close()


def import_http_client(*, tls: bool) -> ModuleType:
    """http.client, and where no TLS is spoken without ssl, which takes a fifth of the memory of a whole cron run."""
    if not tls and "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # the import system's word for "not installed"
        try:
            import http.client
        finally:
            del sys.modules["ssl"]
    import http.client

    return http.client


def retry_after(headers: http.client.HTTPMessage) -> float:
    """Seconds the hub asks to wait: a number, or a date, which only its own clock can be held against."""
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        if value.isdecimal():
            return float(value)
        from email.utils import parsedate_to_datetime

        return (parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    return 0.0


# --- Enrolling -----------------------------------------------------------------------------------------------------


def enrol(settings: Settings, environ: Mapping[str, str]) -> int:
    """Trade an enrolment key for this machine's own, and keep it in the env file."""
    settings.require_url()
    enrolment_key = environ.get("HOMELAB_ENROL_KEY") or sys.stdin.readline().strip()
    if not KEY.fullmatch(enrolment_key):
        raise ConfigurationError("put the enrolment key into HOMELAB_ENROL_KEY, or on the first line of stdin")
    if not settings.server_guid:
        import uuid

        settings.server_guid = settings.given["HOMELAB_SERVER_GUID"] = str(uuid.uuid4())
    # Before the call: by this name the hub knows the machine again when its answer, which shows the key once, is lost.
    save_env_file(settings.env_file, settings.given)
    identity = {name: getattr(settings, name) for name in ("server_id", "hostname", "server_guid")}
    try:
        with deadline(settings.deadline_seconds, exits=True):
            answer = Hub(settings, enrolment_key).post("enrol", as_json(identity))
    except (OSError, DeadlineError) as error:
        say(f"the hub did not answer: {error or type(error).__name__}")
        return EXIT_TEMPORARY
    body = answer.body if answer.status == 201 and answer.body else {}
    server_id, key = str(body.get("server_id", "")), str(body.get("key", ""))
    if not SERVER_ID.fullmatch(server_id) or not KEY.fullmatch(key):
        say(f"the hub answered {answer.status}: {explained(None if answer.status == 201 else answer.body)}")
        return answer.exit_code
    settings.server_id, settings.key = server_id, key
    settings.given.update(HOMELAB_SERVER_ID=server_id, HOMELAB_KEY=key)
    save_env_file(settings.env_file, settings.given)
    print(f"enrolled as {server_id}; the key is in {settings.env_file}")
    return EXIT_OK


def save_env_file(path: str, settings: Mapping[str, str]) -> None:
    """Set these in the env file, keep its other lines and its owner; no one else can open it at any time."""
    saved = {name: " ".join(value.split()) for name, value in settings.items() if name not in NOT_SAVED}
    new = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", 0o755, exist_ok=True)
        kept = []
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            kept = [line for line in file.read().splitlines() if line.partition("=")[0].strip() not in saved]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(new, "w", encoding="utf-8", opener=lambda name, _: os.open(name, flags, 0o600)) as file:
                if os.geteuid() == 0 and os.path.exists(path):  # root changes the key of the user whom cron runs it as
                    before = os.stat(path)
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                file.write("\n".join([*kept, *(f"{name}={value}" for name, value in saved.items())]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; the new settings are not saved") from None


# --- Installing ----------------------------------------------------------------------------------------------------

MARK = "# homelab-agent"
USER = "homelab-agent"
UNITS = ("homelab-agent.timer", "homelab-agent.service")
OURS = re.compile(r"^Description=Homelab agent(: deliver|, every) |homelab_agent\.py --env-file ", re.MULTILINE)
HIDDEN_FROM_UNITS = tuple(f"/{folder}/" for folder in ("home", "root", "run/user", "tmp", "var/tmp"))
SERVICE = """\
[Unit]
Description=Homelab agent: deliver the counters of the network interfaces
Wants=network-online.target
After=network-online.target

[Service]
Type={type}
ExecStart={command}
EnvironmentFile={env_file}
Environment=HOMELAB_STATE_DIR=/var/lib/homelab-agent
DynamicUser=yes
StateDirectory=homelab-agent
StateDirectoryMode=0700
UMask=0077
{lasting}
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""
TIMER = """\
[Unit]
Description=Homelab agent, every {interval:g} seconds

[Timer]
OnBootSec=15s
OnUnitActiveSec={interval:g}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def install(how: str, settings: Settings) -> int:
    """Have the agent run by itself, with the settings of this run, in this way instead of any other."""
    settings.require_hub()
    save_env_file(settings.env_file, settings.given)
    if os.geteuid() != 0:
        words = agent_command(sys.executable, os.path.abspath(__file__), settings)
        change_crontab(f"{cron_line(words, settings)} {MARK}")
        run_once(words)
    else:
        remove_installed()
        (install_systemd if how == "systemd" else install_system_cron)(settings)
    print(f"installed for {how}")
    return EXIT_OK


def check_install(how: str, settings: Settings) -> None:
    """Refuse what cannot work on this machine, before anything is written."""
    settings.require_url()
    minutes = {60 * number for number in (1, 2, 3, 4, 5, 6, 10)}
    if how == "cron" and (settings.loop or settings.interval not in minutes):
        raise ConfigurationError("cron runs the agent every 1, 2, 3, 4, 5, 6 or 10 minutes: set --interval to that")
    if how == "systemd" and os.geteuid() != 0:
        raise ConfigurationError("--install systemd writes to /etc/systemd: run it as root (the agent itself will not)")
    if how == "systemd" and not os.path.isdir(SYSTEMD_RUNS):
        raise ConfigurationError("this machine does not run systemd: use --install cron")
    if os.geteuid() != 0:
        command_path("crontab")
    else:
        check_system_install(how, settings)


def check_system_install(how: str, settings: Settings) -> None:
    import pwd

    directories = [PROGRAM_DIR, os.path.dirname(settings.env_file)]
    if how == "systemd":
        command_path("systemctl")
        directories += [UNIT_DIR]
    else:
        if not os.path.isdir(os.path.dirname(CRON_FILE)) or not any(map(find_command, ("cron", "crond"))):
            raise ConfigurationError("cron is not installed on this machine: install it, or use --install systemd")
        if USER not in {user.pw_name for user in pwd.getpwall()}:
            command_path("useradd")
        directories += [os.path.dirname(CRON_FILE), settings.state_dir]
        for path in {settings.env_file, settings.state_dir} - {ENV_FILE, STATE_DIR}:
            check_for_others(os.path.dirname(path), how, stat.S_IXOTH)
    for path in directories:
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        if not os.path.isdir(path) or not os.access(path, os.W_OK):
            raise ConfigurationError(f"{path}: cannot be written, and --install needs to")
    python_for_others(how)
    if settings.ca_file:
        check_for_others(settings.ca_file, how, stat.S_IROTH)
    check_foreign(how)


def check_foreign(how: str) -> None:
    """Refuse to take the place of another agent; HomelabCmd's unit has the name of ours."""
    places = [CRON_FILE]
    if how == "systemd":
        places = [os.path.join(directory, unit) for directory in (UNIT_DIR, *OTHER_UNIT_DIRS) for unit in UNITS]
    for path in places:
        if os.path.lexists(path) and not is_ours(path):
            unit = os.path.basename(path)
            other = f"end it by `systemctl disable --now {unit}` and remove the file, or run this one beside it by cron"
            raise ConfigurationError(
                f"{path}: not ours, another agent has this name; {other if how == 'systemd' else 'remove the file'}"
            )


def install_systemd(settings: Settings) -> None:
    command = f"{python_for_others('systemd')} {copy_program()}"
    if settings.loop:
        kind, lasting = "simple", "Restart=always\nRestartSec=10"
        command += f" --loop {settings.loop:g}"
    else:
        kind, lasting = "oneshot", f"TimeoutStartSec={settings.deadline_seconds + 10:g}\nSuccessExitStatus=75"
    service = SERVICE.format(type=kind, command=command, env_file=settings.env_file, lasting=lasting)
    if settings.loop:
        service += "\n[Install]\nWantedBy=multi-user.target\n"
    else:
        write_file(os.path.join(UNIT_DIR, "homelab-agent.timer"), TIMER.format(interval=settings.interval))
    write_file(os.path.join(UNIT_DIR, "homelab-agent.service"), service)
    call("systemctl", "daemon-reload")
    call("systemctl", "enable", "--quiet", "--now", "homelab-agent.service" if settings.loop else "homelab-agent.timer")
    try:
        call("systemctl", "start", "homelab-agent.service")  # returns when a run is over
    except ConfigurationError:
        raise ConfigurationError(
            "installed, but its run failed: `journalctl -u homelab-agent` has the reason"
        ) from None


def install_system_cron(settings: Settings) -> None:
    """Root installs, a user without rights runs; the key and the spool become that user's."""
    import pwd

    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        call("useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER)
        user = pwd.getpwnam(USER)
    words = agent_command(python_for_others("cron"), copy_program(), settings)
    take_back(settings.state_dir)
    for directory in ("", "spool", "rejected"):
        path = os.path.join(settings.state_dir, directory)
        os.makedirs(path, 0o700, exist_ok=True)
        for name in ("", *os.listdir(path)):
            os.lchown(os.path.join(path, name), user.pw_uid, user.pw_gid)
    os.chown(settings.env_file, user.pw_uid, user.pw_gid)
    write_file(CRON_FILE, f"{cron_line(words, settings, USER)}\n")
    run_once(words, user=user.pw_uid, group=user.pw_gid, extra_groups=[])


def take_back(directory: str) -> None:
    """Put the state where other users reach it, if systemd had it: that leaves a link to where only units can go."""
    private = os.path.join(os.path.dirname(directory), "private", os.path.basename(directory))
    if os.path.islink(directory) and os.path.realpath(directory) == os.path.realpath(private):
        os.unlink(directory)
        os.rename(private, directory)


def agent_command(python: str, program: str, settings: Settings) -> list[str]:
    return [python, program, "--env-file", settings.env_file, "--state-dir", settings.state_dir]


def cron_line(words: Sequence[str], settings: Settings, *user: str) -> str:
    """The line for cron, which brings neither PATH nor virtual environment, and takes % for a line end."""
    import shlex

    minutes = int(settings.interval // 60)
    when = " ".join(("*" if minutes == 1 else f"*/{minutes}", "* * * *", *user))
    return f"{when} {' '.join(map(shlex.quote, [*words, '--splay', '20']))}".replace("%", "\\%")


def run_once(words: Sequence[str], **user: Any) -> None:
    """Run at once, as cron will: the hub sees the machine now, and who installs sees what is wrong."""
    import subprocess

    done = subprocess.run(words, cwd="/", env={"PATH": os.defpath}, check=False, **user)  # noqa: S603 - no shell
    if done.returncode not in {EXIT_OK, EXIT_TEMPORARY}:
        raise ConfigurationError("installed, but its run failed")


def change_crontab(line: str) -> None:
    """Put our line into the user's crontab, or take it out."""
    import subprocess

    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S607
    after = [old for old in before if not old.endswith(MARK)] + ([line] if line else [])
    if after != before:
        call("crontab", "-", text="\n".join(after) + "\n")


def python_for_others(how: str) -> str:
    """This Python, if a user without rights can run it too."""
    path = os.path.abspath(sys.executable)
    check_for_others(path, how, stat.S_IXOTH)
    return path


def check_for_others(path: str, how: str, bit: int) -> None:
    """Refuse a path that users without rights cannot use; from a unit of systemd, no home is to be seen either."""
    for target in (path, os.path.realpath(path)):
        if how == "systemd" and target.startswith(HIDDEN_FROM_UNITS):
            raise ConfigurationError(f"{path}: the unit sees no homes and no temporary files; use one of the system's")
        allowed = bit
        while target != os.path.dirname(target):
            with contextlib.suppress(FileNotFoundError):
                if not os.stat(target).st_mode & allowed:
                    raise ConfigurationError(f"{path}: other users cannot use this; use one of the system's")
            target, allowed = os.path.dirname(target), stat.S_IXOTH


def copy_program() -> str:
    path = os.path.join(PROGRAM_DIR, "homelab_agent.py")
    if os.path.abspath(__file__) != path:
        os.makedirs(PROGRAM_DIR, 0o755, exist_ok=True)
        with open(__file__, encoding="utf-8") as file:
            write_file(path, file.read())
    return path


def write_file(path: str, text: str) -> None:
    try:
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{path}.new", 0o644)
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def find_command(name: str) -> str | None:
    """Where a command is; what `su` leaves of root's PATH has no sbin."""
    import shutil

    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def command_path(name: str) -> str:
    path = find_command(name)
    if path is None:
        raise ConfigurationError(f"{name}: there is no such command on this machine")
    return path


def call(name: str, *words: str, text: str | None = None) -> None:
    import subprocess

    try:
        subprocess.run([command_path(name), *words], input=text, text=True, check=True)  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(f"{name}: {error}") from None


def is_ours(path: str) -> bool:
    """Whether --install wrote this file, in this version or an earlier one."""
    return bool(OURS.search(read_text(path) or ""))


def remove_installed() -> None:
    """Stop running by itself. Files of the same names that are another's are left alone."""
    found = [path for path in (*(os.path.join(UNIT_DIR, unit) for unit in UNITS), CRON_FILE) if is_ours(path)]
    units = [os.path.basename(path) for path in found if path != CRON_FILE]
    if units:
        call("systemctl", "disable", "--quiet", "--now", *units)
    for path in found:
        os.unlink(path)
    if units:
        call("systemctl", "daemon-reload")
        call("systemctl", "reset-failed", "homelab-agent.*")  # a pattern may match none; what failed is listed no more


def uninstall() -> int:
    """Stop running by itself; settings and what waits stay where they are."""
    if os.geteuid() != 0:
        if find_command("crontab"):
            change_crontab("")
        return EXIT_OK
    remove_installed()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(PROGRAM_DIR, "homelab_agent.py"))
    with contextlib.suppress(OSError):  # not empty, or not there
        os.rmdir(PROGRAM_DIR)
    return EXIT_OK


# --- Telling -------------------------------------------------------------------------------------------------------


def status(settings: Settings, spool: Spool, clock: Clock) -> Iterator[str]:
    """What a person wants to know of an agent, a line each."""
    waiting = spool.waiting()
    stats = spool.stats(len(waiting))
    yield f"runs       {how_it_runs()}"
    if os.path.exists(ENV_FILE) and not os.access(ENV_FILE, os.R_OK):
        yield f"settings   in {ENV_FILE}, which you may not read: ask again as root"
    yield f"server     {settings.server_id}"
    yield f"hub        {settings.url or 'not set'}, {'with a key' if settings.key else 'no key'}"
    yield f"spool      {spool.files}"
    yield f"waiting    {stats['spooled']}"
    for word, name in (("oldest", waiting[0]), ("newest", waiting[-1])) if waiting else ():
        with contextlib.suppress(OSError):
            written = os.lstat(os.path.join(spool.files, name)).st_mtime
            yield f"  {word}   {datetime.fromtimestamp(written, timezone.utc).isoformat(timespec='seconds')}"
    yield from (f"{word:10} {stats[word]}" for word in ("sent", "rejected", "dropped"))
    if settings.url and settings.key:
        seconds_left, _ = spool.paused(Hub(settings, settings.key), clock)
        if seconds_left:
            yield f"pause      {seconds_left:.0f} s more, because the hub said so"


def how_it_runs() -> str:
    """Which --install is in force, for this user."""
    if os.geteuid() != 0 and find_command("crontab"):
        import subprocess

        listed = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False).stdout  # noqa: S607
        if MARK in listed:
            return "by this user's cron"
    timer, service = (os.path.join(UNIT_DIR, unit) for unit in UNITS)
    ways = {timer: "by a timer of systemd", service: "resident, by systemd", CRON_FILE: f"by cron, as {USER}"}
    return next((way for path, way in ways.items() if is_ours(path)), "only when called: not installed")


if __name__ == "__main__":
    sys.exit(main())
