"""docs/api.md is true: each recipe is run, as it stands there, against a hub; each call and each word is in it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from django.conf import settings
from drf_spectacular.generators import SchemaGenerator

from homelab.tests.hub import Hub, hub_on_sqlite
from homelab.tests.test_prometheus import needed
from metrics.changes import ChangeKind
from metrics.counters import MARKS

pytestmark = hub_on_sqlite

API = (settings.BASE_DIR / "docs" / "api.md").read_text()
RECIPES = {part.partition("\n")[0]: part for part in re.split(r"^### \d+\. ", API, flags=re.MULTILINE)[1:]}
PRINTS = {  # what a recipe prints, from the shell and from Python
    "Today's and this month's bytes": (r'"rx_bytes":\d+', r"nas this day: .*\n(?s:.*)nas this month: \d+\.\d\d GB in"),
    "Top talkers": (r'"rank":1,"server_id":"nas","interface":"eth0"', r"^1 nas eth0 \d+\n"),
    "Who was it at 20:15?": (r'"server_id":"nas","interface":"eth0","rx_bytes":600000,', r"^nas eth0 1100 bytes"),
    "Is the port flapping?": (r'"kind":"link_down"', r" link_down up -> down\n.* flapped 1 -> 3\n"),
    "The 95th percentile": (r'"rx_p95":1000\.0', r"0\.008 Mbit/s in, 0\.001 Mbit/s out"),
    "The CSV of a week": (r"^at,server_id,interface,rx_bytes.*\n.*Z,nas,eth0,\d+,", r"Z eth0 3600000 360000\n"),
    "Grafana": (r'^node_network_receive_bytes_total\{device="eth0",instance="nas"\} ', r'device="eth0",instance="nas"'),
    "A sensor for Home Assistant": (r'"rx_rate":1000\.0', r"^1000\.0 B/s, \d+ B today"),
    "Add a machine by script": (r'"outcome":"accepted"', r"^accepted$"),
    "Is the hub well?": (r'"status":"ok"', r"^200 ok$"),
}
MINUTES = 5
LINKS = [(True, 1), (True, 1), (True, 3), (True, 3), (False, 4), (True, 5), (True, 5), (True, 5)]  # of eth0 at the end


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def week() -> Iterator[dict[str, Any]]:
    """Yield what nas reported every five minutes of the last eight days: 1000 bytes a second in, 100 out."""
    now = datetime.now(UTC)
    count = 8 * 24 * 60 // MINUTES
    for index in range(count + 1):
        seconds = index * MINUTES * 60
        is_up, carrier_changes = LINKS[max(index - count - 1, -len(LINKS))]
        eth0 = {
            "name": "eth0", "rx_bytes": 1000 * seconds, "tx_bytes": 100 * seconds, "rx_packets": seconds,
            "tx_packets": seconds, "is_up": is_up, "carrier_changes": carrier_changes,
        }  # fmt: skip
        yield {
            "server_id": "nas",
            "hostname": "nas.home.arpa",
            "timestamp": (now - timedelta(minutes=MINUTES * (count - index))).isoformat(),
            "boot_id": "boot-1",
            "uptime": 1000.0 + seconds,
            "sent_uptime": 1000.0 + count * MINUTES * 60,
            "interval": MINUTES * 60,
            "network_interfaces": [eth0],
        }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address and the keys of a hub that knows a week of nas, in a process of its own."""
    hub = Hub(tmp_path_factory.mktemp("hub"), "--no-agent")
    try:
        url = f"http://{hub.address}"
        headers = {"Authorization": f"Bearer {hub.createkey('shared')}"}
        heartbeats = list(week())
        for first in range(0, len(heartbeats), 500):
            body = {"heartbeats": heartbeats[first : first + 500]}
            answer = requests.post(f"{url}/api/v1/agents/heartbeats", json=body, headers=headers, timeout=60)
            assert {result["outcome"] for result in answer.json()["results"]} == {"accepted"}
        enrolment = hub.createkey("enrolment", "--uses", "2")
        yield {"HOMELAB_URL": url, "HOMELAB_KEY": hub.createkey("read"), "HOMELAB_ENROLMENT_KEY": enrolment}
    finally:
        hub.stop()


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    ours = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=ours, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_there_are_ten_recipes_each_for_the_shell_and_for_python():
    assert (len(RECIPES), list(RECIPES)) == (10, list(PRINTS))
    assert {(len(blocks(text, "bash")), len(blocks(text, "python"))) for text in RECIPES.values()} == {(1, 1)}


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs_in_the_shell(environment, tmp_path: Path, title: str):
    needed("curl", "curl")
    (script,) = blocks(RECIPES[title], "bash")
    assert re.search(PRINTS[title][0], run(environment, tmp_path, "bash", "-euo", "pipefail", "-c", script))


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs_in_python(environment, tmp_path: Path, title: str):
    (script,) = blocks(RECIPES[title], "python")
    assert re.search(PRINTS[title][1], run(environment, tmp_path, sys.executable, "-c", script), flags=re.MULTILINE)


def test_prometheus_takes_the_configuration(tmp_path: Path):
    (config,) = blocks(RECIPES["Grafana"], "yaml")
    (tmp_path / "prometheus.yml").write_text(config)
    assert "SUCCESS" in run({}, tmp_path, needed("promtool"), "check", "config", "prometheus.yml")


def test_the_sensors_of_home_assistant_find_their_values(environment):
    (config,) = blocks(RECIPES["A sensor for Home Assistant"], "yaml")
    (rest,) = yaml.safe_load(config)["rest"]
    url = rest["resource"].replace("http://127.0.0.1:8000", environment["HOMELAB_URL"])
    headers = {"Authorization": rest["headers"]["Authorization"].replace("YOUR-KEY", environment["HOMELAB_KEY"])}
    answer = requests.get(url, headers=headers, timeout=5).json()
    for sensor in rest["sensor"]:
        value: Any = answer
        for name in re.fullmatch(r"\{\{ value_json\.(.*) \}\}", sensor["value_template"])[1].split("."):
            value = value[name]
        assert isinstance(value, int | float)


def test_every_call_is_in_the_docs_and_no_other():
    schema = SchemaGenerator().get_schema(request=None, public=True)
    calls = {f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods}
    assert set(re.findall(r"^\| `((?:GET|POST) .*?)` \|", API, flags=re.MULTILINE)) == calls


@pytest.mark.parametrize("word", [*ChangeKind, *MARKS.values()])
def test_every_kind_of_event_and_every_mark_is_in_the_docs(word: str):
    assert f"`{word}`" in API
