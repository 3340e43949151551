"""A real Prometheus scrapes a real hub, and promtool finds nothing to say of what it reads."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from homelab.tests.hub import Hub, hub_on_sqlite, wait_for

pytestmark = hub_on_sqlite


def needed(command: str, package: str = "prometheus") -> str:
    """Return the path of a command of a Debian package; without it CI fails, and others skip."""
    path = shutil.which(command)
    if path is None:
        reason = f"{command} is not installed (apt-get install {package})"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return str(path)


@pytest.fixture
def hub(tmp_path: Path, golden: dict[str, Any]) -> Iterator[Hub]:
    """A hub that has just received the golden heartbeat."""
    hub = Hub(tmp_path, "--no-agent")
    headers = {"Authorization": f"Bearer {hub.createkey('shared')}"}
    try:
        url = f"http://{hub.address}/api/v1/agents/heartbeat"
        assert requests.post(url, json=golden, headers=headers, timeout=5).status_code == 200
        yield hub
    finally:
        hub.stop()


def test_promtool_finds_no_fault(hub: Hub):
    text = hub.get("/metrics", Authorization=f"Bearer {hub.createkey('read')}").text
    assert text.count("\n") > 30
    checked = subprocess.run(
        [needed("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_real_prometheus_scrapes_the_hub(hub: Hub, tmp_path: Path):
    config = tmp_path / "prometheus.yml"
    config.write_text(f"""
scrape_configs:
  - job_name: node
    scrape_interval: 1s
    honor_labels: true
    authorization: {{credentials: {hub.createkey("read")}}}
    static_configs: [{{targets: ["{hub.address}"]}}]
""")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage = f"--storage.tsdb.path={tmp_path / 'tsdb'}"
    command = [needed("prometheus"), f"--config.file={config}", storage, f"--web.listen-address={address}"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as prometheus:
        try:
            found = wait_for(lambda: query(address, 'node_network_receive_bytes_total{device="eth0"}'), seconds=30)
            target = requests.get(f"http://{address}/api/v1/targets", timeout=5).json()["data"]["activeTargets"][0]
            ups = query(address, "homelab_server_up")
        finally:
            prometheus.terminate()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert found[0]["metric"]["instance"] == "nas-01"
    assert float(found[0]["value"][1]) == float(9_007_199_254_740_993)
    assert [(up["metric"]["instance"], up["metric"]["job"], up["value"][1]) for up in ups] == [("nas-01", "node", "1")]


def query(address: str, expression: str) -> list[dict[str, Any]]:
    try:
        answer = requests.get(f"http://{address}/api/v1/query", params={"query": expression}, timeout=5)
        return answer.json()["data"]["result"]
    except (requests.ConnectionError, ValueError, KeyError):
        return []  # it is still starting
