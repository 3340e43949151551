"""Throw at a hub all that its schema allows, and what it does not: `make fuzz`; with FUZZ_SECONDS and FUZZ_SEED.

schemathesis runs over every call with each kind of key and without one, against a hub in a process of its own. After
that nothing may have failed inside the hub, and what it has stored must be good.
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from homelab.tests.hub import ROOT, Hub

OPTIONS = {"read": (), "shared": (), "agent": ("--server", "nas-01"), "enrolment": ("--uses", "0")}
SERVER_ID = re.compile(r"[a-z0-9-]{1,100}")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
SEED = [f"--seed={os.environ['FUZZ_SEED']}"] if "FUZZ_SEED" in os.environ else []
LATER = "from datetime import timedelta; from django.utils import timezone; from metrics import seal; "
SEAL = f"{LATER}print(seal.tick(now=timezone.now() + timedelta(days=15)))"
TEXTS = {
    "servers_server": ("hostname", "os_distribution", "os_version", "os_kernel", "os_architecture"),
    "metrics_interface": ("name", "kind", "master", "mac"),
    "metrics_event": ("interface", "kind", "before", "after"),
    "servers_boot": ("boot_id",),
}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hub = Hub(folder, "--no-agent", HOMELAB_THROTTLE="false")
        try:
            keys = {kind: hub.createkey(kind, *options) for kind, options in OPTIONS.items()}
            schema = prepare(f"http://{hub.address}", keys, folder)
            failed = [kind for kind in (*keys, "none") if not fuzz(hub, schema, kind, keys.get(kind))]
        finally:
            hub.stop()
        faults = [f"schemathesis with the key: {kind}" for kind in failed] + faults_inside(hub) + bad_rows(folder)
    print("\n".join(["", *faults]) if faults else "\nNothing found.")
    return 1 if faults else 0


def prepare(url: str, keys: dict[str, str], folder: Path) -> Path:
    """Let the hub know the server of the schema's examples, and return the schema."""
    golden = json.loads((ROOT / "docs" / "heartbeat.json").read_text())
    headers = {"X-API-Key": keys["shared"]}
    requests.post(f"{url}/api/v1/agents/heartbeat", json=golden, headers=headers, timeout=10).raise_for_status()
    path = folder / "schema.yaml"
    path.write_text(requests.get(f"{url}/api/schema", headers={"X-API-Key": keys["read"]}, timeout=10).text)
    return path


def fuzz(hub: Hub, schema: Path, kind: str, key: str | None) -> bool:
    """Run schemathesis for its share of the time. Return whether it found nothing."""
    print(f"\n== With the key: {kind}", flush=True)
    config = Path(__file__).with_name("schemathesis.toml")
    command = [Path(sys.executable).with_name("schemathesis"), f"--config-file={config}", "run", schema]
    options = [
        f"--url=http://{hub.address}", "--warnings=off", "--continue-on-failure",
        f"--max-time={max(SECONDS // (len(OPTIONS) + 1), 5)}", *SEED,
    ]  # fmt: skip
    headers = [f"--header=Authorization: Bearer {key}"] if key else []
    return subprocess.run([*command, *options, *headers], cwd=schema.parent).returncode == 0


def faults_inside(hub: Hub) -> list[str]:
    """Return what the hub has logged of failures; sealing all it has stored, two weeks later, is one of them."""
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", SEAL]
    sealed = subprocess.run(command, cwd=ROOT, env=hub.environment, capture_output=True, text=True)
    print(f"Sealed: {sealed.stdout.strip()}")
    logged = [line for line in hub.said().splitlines() if " ERROR " in line or line.startswith("Traceback")]
    return [*logged, *([sealed.stderr] if sealed.returncode else [])]


def bad_rows(folder: Path) -> list[str]:
    """Return what is stored and should not be."""
    with sqlite3.connect(folder / "homelab.sqlite3") as database:
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
        names = [server_id for (server_id,) in database.execute("SELECT id FROM servers_server")]
        texts = [
            (f"{table}.{column}", text)
            for table, columns in TEXTS.items()
            for column in columns
            for (text,) in database.execute(f"SELECT DISTINCT {column} FROM {table}")
        ]
    print(f"Stored: {len(names)} servers, {len(texts)} texts")
    bad = [f"{place}: {text!r}" for place, text in texts if not text.isprintable() or len(text) > 255]
    bad += [f"server {name!r}" for name in names if not SERVER_ID.fullmatch(name)]
    return bad if integrity == "ok" else [*bad, integrity]


if __name__ == "__main__":
    sys.exit(main())
