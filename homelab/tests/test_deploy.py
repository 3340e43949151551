"""What a hub is deployed by: the unit, the image, the pinned dependencies. The proxies are test_proxies.py's."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from homelab.tests.hub import ROOT, environment

UNIT = ROOT / "docs" / "deploy" / "homelab.service"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SETTINGS = set(re.findall(r"env(?:\.\w+)?\(\"(\w+)\"", (ROOT / "homelab" / "settings.py").read_text()))
PYTHON = "/opt/homelab/.venv/bin/python"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    text = UNIT.read_text()
    assert f"ExecStart={PYTHON} manage.py serve\n" in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(PYTHON, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, [])


@needs_systemd
def test_systemd_finds_the_hub_little_exposed():
    rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager"]
    done = subprocess.run([*rate, UNIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize("file", ["requirements.txt", ".ci/requirements.txt"])
def test_every_dependency_is_pinned_with_its_hashes(file: str):
    lines = re.sub(r"\\\n", "", (ROOT / file).read_text()).splitlines()
    pinned = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert len(pinned) > 20
    assert [
        line[:60] for line in pinned if not re.match(r"[a-z0-9.\[\],-]+==\S+.*--hash=sha256:[0-9a-f]{64}", line)
    ] == []


def test_nothing_is_installed_without_its_hash():
    installs = re.findall(r"pip install.*", DOCKERFILE + (ROOT / "Makefile").read_text())
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs)


# The image


def instruction(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_the_image_runs_the_hub_as_nobody_who_may_do_more():
    assert instruction("USER") == ["10001"]
    assert "useradd --system --uid 10001" in DOCKERFILE
    assert json.loads(instruction("CMD")[-1]) == [".venv/bin/python", "manage.py", "serve", "--no-agent"]


def test_the_container_is_read_only_but_for_one_volume():
    (hub,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    assert hub["read_only"] is True
    assert (hub["cap_drop"], hub["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    (volume,) = hub["volumes"]
    assert volume.endswith(f":{instruction('VOLUME')[0]}")
    assert f"HOMELAB_DATA_DIR={instruction('VOLUME')[0]} " in DOCKERFILE
    assert hub["ports"] == ["127.0.0.1:8000:8000"]  # all that it believes its proxy is on this machine
    assert set(hub["environment"]) <= SETTINGS
    assert set(re.findall(r"(HOMELAB_\w+)=", DOCKERFILE)) <= SETTINGS


def test_the_image_has_what_the_hub_needs_and_no_more(tmp_path: Path):
    ignored, *allowed = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    for name in [line[1:] for line in allowed if line.startswith("!")]:
        source, copy = ROOT / name, tmp_path / "image" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("tests", "__pycache__", "vendor"))
        else:
            shutil.copy(source, copy)
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    done = subprocess.run(
        command, cwd=tmp_path / "image", env=environment(data), capture_output=True, text=True, check=False
    )
    assert (done.returncode, (data / "homelab.sqlite3").exists()) == (0, True), done.stderr
    copied = {word for line in instruction("COPY") for word in line.split()[:-1] if "/" not in word and "=" not in word}
    assert copied - {"."} <= {path.name for path in (tmp_path / "image").iterdir()}
