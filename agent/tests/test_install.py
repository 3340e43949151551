"""Enrolling, installing, telling: what is written where, for whom, and that the key stays private."""

from __future__ import annotations

import io
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import homelab_agent
from agent.homelab_agent import main
from agent.tests.conftest import Agent
from agent.tests.hub import KEY, HonestHub, answer
from agent.tests.proxy import Proxy


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder through which others may pass, as pytest's own is not: what root installs runs as another user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@pytest.fixture
def env_file() -> Path:
    return Path(homelab_agent.ENV_FILE)


@pytest.fixture
def unenrolled(agent: Agent, hub: HonestHub, monkeypatch) -> HonestHub:
    monkeypatch.delenv("HOMELAB_KEY")
    monkeypatch.setenv("HOMELAB_ENROL_KEY", hub.enrolment_key)
    return hub


# Enrolling


def test_enrolling_stores_the_key_for_the_owner_alone_and_the_next_run_uses_it(
    unenrolled, env_file, monkeypatch, capsys
):
    assert main(["--enrol", "--server-id", "pi-4"]) == 0
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert f"HOMELAB_KEY={KEY}\n" in env_file.read_text()
    assert KEY not in "".join(capsys.readouterr())
    for name in ("HOMELAB_URL", "HOMELAB_ENROL_KEY"):
        monkeypatch.delenv(name)
    assert main([]) == 0
    enrolment, heartbeat = (body for _, body in unenrolled.received)
    assert sorted(enrolment) == ["hostname", "server_guid", "server_id"]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", enrolment["server_guid"]
    )
    assert {name: heartbeat[name] for name in enrolment} == enrolment
    assert unenrolled.keys == [f"Bearer {unenrolled.enrolment_key}", f"Bearer {KEY}"]


def test_the_enrolment_key_may_come_on_stdin(unenrolled, env_file, monkeypatch):
    monkeypatch.delenv("HOMELAB_ENROL_KEY")
    monkeypatch.setattr(sys, "stdin", io.StringIO(unenrolled.enrolment_key + "\n"))
    assert main(["--enrol"]) == 0
    assert env_file.exists()


def test_enrolling_again_keeps_the_identity_and_the_other_settings(unenrolled, env_file):
    env_file.write_text("# mine\nHOMELAB_EXCLUDE=veth*\nHOMELAB_KEY=hl_old\n")
    env_file.chmod(0o600)
    assert main(["--enrol"]) == 0
    assert main(["--enrol"]) == 0
    first, second = (body for _, body in unenrolled.received)
    assert first["server_guid"] == second["server_guid"]
    lines = env_file.read_text().splitlines()
    assert lines[:2] == ["# mine", "HOMELAB_EXCLUDE=veth*"]
    assert [line for line in lines if line.startswith("HOMELAB_KEY=")] == [f"HOMELAB_KEY={KEY}"]


def test_root_may_change_the_key_of_the_user_whom_cron_runs_it_as(unenrolled, env_file):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    somebody = pwd.getpwnam("nobody")
    assert main(["--enrol"]) == 0
    os.chown(env_file, somebody.pw_uid, somebody.pw_gid)
    assert main(["--enrol"]) == 0
    status = env_file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (somebody.pw_uid, somebody.pw_gid, 0o600)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {}, 77),
        (403, {}, 77),
        (400, {}, 69),
        (404, b"", 69),
        (429, {}, 75),
        (500, b"", 75),
        (200, {"server_id": "a", "key": "b"}, 75),
        (201, b"", 75),
        (201, {"server_id": "a"}, 75),
        (201, {"server_id": "A B", "key": "k"}, 75),
        (201, {"server_id": "a", "key": "new\nline"}, 75),
        (302, b"", 75),
    ],
)
def test_a_hub_that_does_not_enrol_leaves_no_key(unenrolled, env_file, status: int, body: object, code: int):
    unenrolled.script.append(answer(status, body))
    assert main(["--enrol"]) == code
    assert [file.name for file in env_file.parent.glob("agent.env*")] == ["agent.env"]
    assert "HOMELAB_KEY" not in env_file.read_text()


def test_a_machine_whose_enrolment_was_answered_in_vain_is_known_again_by_its_guid(unenrolled, env_file, monkeypatch):
    with Proxy(unenrolled.url) as proxy:
        monkeypatch.setenv("HOMELAB_URL", proxy.url)
        proxy.faults.append("lose_ack")
        assert main(["--enrol"]) == 75
        assert main(["--enrol"]) == 0
        assert proxy.fired == ["lose_ack"]
    first, second = (body for _, body in unenrolled.received)
    assert first == second


def test_an_enrolment_key_is_needed(unenrolled, monkeypatch):
    monkeypatch.delenv("HOMELAB_ENROL_KEY")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["--enrol"]) == 78
    assert unenrolled.keys == []


def test_nothing_is_asked_of_the_hub_when_the_key_could_not_be_kept(unenrolled, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["--enrol", "--env-file", str(tmp_path / "file" / "agent.env")]) == 78
    assert unenrolled.keys == []


# Installing


@pytest.fixture
def system(tmp_path: Path, monkeypatch) -> Path:
    """Directories to install into, and commands that only write down how they were called."""
    for name in ("units", "packaged", "running"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(homelab_agent, "UNIT_DIR", str(tmp_path / "units"))
    monkeypatch.setattr(homelab_agent, "OTHER_UNIT_DIRS", (str(tmp_path / "packaged"),))
    monkeypatch.setattr(homelab_agent, "SYSTEMD_RUNS", str(tmp_path / "running"))
    monkeypatch.setattr(homelab_agent, "PROGRAM_DIR", str(tmp_path / "lib"))
    monkeypatch.setattr(homelab_agent, "CRON_FILE", str(tmp_path / "cron"))
    monkeypatch.setattr(homelab_agent, "STATE_DIR", str(tmp_path / "state"))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("systemctl", "useradd", "crontab", "cron"):
        (commands / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n')
    (commands / "crontab").write_text(
        f'#!/bin/sh\n[ "$1" = -l ] && exec cat {tmp_path}/crontab\ncat > {tmp_path}/crontab\n'
    )
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def usable_python(monkeypatch) -> None:
    """Where these tests run, Python may live in a home; the rule about that has a test of its own."""
    monkeypatch.setattr(homelab_agent, "python_for_others", lambda how: "/usr/bin/python3")


def become(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(homelab_agent.os, "geteuid", lambda: uid)


def test_systemd_gets_a_timer_and_a_unit_that_verify(agent, system, usable_python, env_file, monkeypatch, capfd):
    become(monkeypatch, 0)
    assert main(["--install", "systemd", "--exclude", "veth*", "--exclude", "br-*"]) == 0
    assert (system / "called").read_text().splitlines() == [
        "systemctl daemon-reload",
        "systemctl enable --quiet --now homelab-agent.timer",
        "systemctl start homelab-agent.service",
    ]
    assert "HOMELAB_EXCLUDE=veth* br-*\n" in env_file.read_text()
    assert f"HOMELAB_KEY={KEY}\n" in env_file.read_text()
    assert env_file.stat().st_mode & 0o777 == 0o600
    unit = (system / "units" / "homelab-agent.service").read_text()
    assert KEY not in unit
    for line in ("DynamicUser=yes", "StateDirectory=homelab-agent", "ProtectSystem=strict", "Type=oneshot"):
        assert line in unit.splitlines()
    assert (system / "lib" / "homelab_agent.py").read_text() == Path(homelab_agent.__file__).read_text()
    verify(system)


def test_systemd_can_keep_the_agent_resident(agent, system, usable_python, monkeypatch):
    become(monkeypatch, 0)
    assert main(["--install", "systemd", "--loop", "10"]) == 0
    unit = (system / "units" / "homelab-agent.service").read_text()
    assert "--loop 10\n" in unit
    assert "Restart=always" in unit
    assert not (system / "units" / "homelab-agent.timer").exists()
    assert "enable --quiet --now homelab-agent.service" in (system / "called").read_text()
    verify(system)


def verify(system: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: the units could not be verified")
    units = sorted(map(str, (system / "units").iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_cron_of_root_runs_as_a_user_without_rights(agent, hub, system, usable_python, env_file, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    somebody = pwd.getpwnam("nobody")
    monkeypatch.setattr(homelab_agent, "USER", "nobody")
    agent.run()
    assert main(["--install", "cron"]) == 0
    assert len(hub.stored) == 2, "that user has not run it"
    line = (system / "cron").read_text()
    program = system / "lib" / "homelab_agent.py"
    assert line.startswith(
        f"* * * * * nobody /usr/bin/python3 {program} --env-file {env_file} --state-dir {agent.state}"
    )
    assert KEY not in line
    for path in (env_file, agent.state, *agent.state.iterdir()):
        assert path.stat().st_uid == somebody.pw_uid
    assert program.stat().st_mode & 0o777 == 0o644


def test_cron_of_root_makes_the_user_when_there_is_none(agent, system, usable_python, monkeypatch):
    become(monkeypatch, 0)
    monkeypatch.setattr(homelab_agent, "USER", "no-such-user")
    with pytest.raises(KeyError):  # because the command of this test only pretends
        main(["--install", "cron"])
    assert "useradd --system" in (system / "called").read_text()


def test_cron_of_a_user_changes_only_its_own_line(agent, system, tmp_path, monkeypatch):
    become(monkeypatch, 1000)
    (system / "crontab").write_text("0 4 * * * backup\n")
    for _ in range(2):
        assert main(["--install", "cron", "--interval", "300"]) == 0
    first, second = (system / "crontab").read_text().splitlines()
    assert first == "0 4 * * * backup"
    assert second.startswith(f"*/5 * * * * {sys.executable} {os.path.abspath(homelab_agent.__file__)} --env-file ")
    assert KEY not in second
    env_file = tmp_path / "home" / ".config" / "homelab-agent" / "agent.env"
    assert "HOMELAB_INTERVAL=300\n" in env_file.read_text()
    assert main(["--uninstall"]) == 0
    assert (system / "crontab").read_text() == "0 4 * * * backup\n"
    assert env_file.exists()


def test_the_hub_hears_of_the_machine_as_soon_as_it_is_installed(agent, hub, system, monkeypatch, capfd):
    become(monkeypatch, 1000)
    assert main(["--install", "cron", "--server-id", "pi-4"]) == 0
    assert [heartbeat["server_id"] for heartbeat in hub.stored.values()] == ["pi-4"]
    assert tuple(capfd.readouterr()) == ("installed for cron\n", "")


def test_a_hub_that_is_away_does_not_stop_the_installation(agent: Agent, system, monkeypatch):
    become(monkeypatch, 1000)
    agent.away(monkeypatch)
    assert main(["--install", "cron"]) == 0
    assert "homelab-agent" in (system / "crontab").read_text()


def test_a_key_that_the_hub_refuses_is_told_by_the_installation(agent, hub, system, monkeypatch, capfd):
    become(monkeypatch, 1000)
    hub.key = "hl_another"
    assert main(["--install", "cron"]) == 78
    assert capfd.readouterr().err.splitlines()[-1] == "homelab-agent: installed, but its run failed"


def test_the_line_for_cron_is_quoted_for_the_shell_and_for_cron(agent, system, monkeypatch, tmp_path):
    become(monkeypatch, 1000)
    strange = tmp_path / "100% my $HOME"
    strange.mkdir()
    assert main(["--install", "cron", "--env-file", str(strange / "agent.env")]) == 0
    line = (system / "crontab").read_text().strip()
    assert "%" not in line.replace("\\%", "")
    command = line.replace("\\%", "%").split(" ", 5)[5]
    listed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    ).stdout
    assert str(strange / "agent.env") in listed.splitlines()


@pytest.mark.parametrize("flags", [["--interval", "45"], ["--interval", "420"], ["--loop", "10"]])
def test_cron_cannot_do_every_interval(agent, system, flags: list[str]):
    assert main(["--install", "cron", *flags]) == 78


def test_systemd_needs_root(agent, system, monkeypatch, capsys):
    become(monkeypatch, 1000)
    assert main(["--install", "systemd"]) == 78
    assert "root" in capsys.readouterr().err


def test_installing_needs_a_key(agent, system, monkeypatch, env_file):
    monkeypatch.delenv("HOMELAB_KEY")
    assert main(["--install", "cron"]) == 78
    assert not env_file.exists()


@pytest.mark.parametrize("how", ["cron", "systemd"])
def test_a_python_in_a_private_directory_is_refused_for_other_users(tmp_path, monkeypatch, how: str):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "python3").symlink_to("/usr/bin/env")
    monkeypatch.setattr(sys, "executable", str(private / "python3"))
    with pytest.raises(homelab_agent.ConfigurationError):
        homelab_agent.python_for_others(how)
    monkeypatch.setattr(sys, "executable", "/usr/bin/env")
    assert homelab_agent.python_for_others(how) == "/usr/bin/env"


@pytest.mark.parametrize("home", [f"{folder}venv/bin/python3" for folder in homelab_agent.HIDDEN_FROM_UNITS])
def test_a_python_in_a_home_is_refused_for_a_unit_which_sees_no_homes(monkeypatch, home: str):
    monkeypatch.setattr(sys, "executable", home)
    with pytest.raises(homelab_agent.ConfigurationError, match="sees no homes"):
        homelab_agent.python_for_others("systemd")


def test_a_command_that_fails_is_78(agent, system, usable_python, monkeypatch, capsys):
    become(monkeypatch, 0)
    (system / "bin" / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    assert main(["--install", "systemd"]) == 78
    assert "systemctl" in capsys.readouterr().err


def test_uninstalling_takes_away_what_installing_brought(agent, system, usable_python, env_file, monkeypatch):
    become(monkeypatch, 0)
    agent.run()
    assert main(["--install", "systemd"]) == 0
    assert main(["--uninstall"]) == 0
    assert list((system / "units").iterdir()) == []
    assert not (system / "lib").exists()
    assert "disable --quiet --now homelab-agent.timer homelab-agent.service" in (system / "called").read_text()
    assert env_file.exists()
    assert agent.state.exists()
    assert main(["--uninstall"]) == 0


def test_enrolling_and_installing_is_one_line(unenrolled, system, usable_python, env_file, monkeypatch):
    become(monkeypatch, 0)
    assert main(["--enrol", "--install", "systemd", "--url", unenrolled.url]) == 0
    assert f"HOMELAB_KEY={KEY}\n" in env_file.read_text()
    assert "HOMELAB_ENROL_KEY" not in env_file.read_text()
    assert (system / "units" / "homelab-agent.timer").exists()


# What cannot work is refused before the one-time key is spent


def no_systemd(system: Path, monkeypatch) -> None:
    (system / "running").rmdir()


def no_systemctl(system: Path, monkeypatch) -> None:
    monkeypatch.setattr(homelab_agent, "find_command", lambda name: None)


def not_root(system: Path, monkeypatch) -> None:
    become(monkeypatch, 1000)


def no_cron(system: Path, monkeypatch) -> None:
    monkeypatch.setattr(homelab_agent, "CRON_FILE", str(system / "cron.d" / "homelab-agent"))


def no_crontab(system: Path, monkeypatch) -> None:
    become(monkeypatch, 1000)
    monkeypatch.setenv("PATH", str(system / "running"))
    monkeypatch.setattr(homelab_agent, "find_command", shutil.which)


def no_place_for_the_program(system: Path, monkeypatch) -> None:
    (system / "file").write_text("")
    monkeypatch.setattr(homelab_agent, "PROGRAM_DIR", str(system / "file" / "lib"))


def nothing_wrong(system: Path, monkeypatch) -> None:
    pass


@pytest.mark.parametrize(
    ("how", "trouble", "flags", "said"),
    [
        ("systemd", no_systemd, [], "does not run systemd: use --install cron"),
        ("systemd", no_systemctl, [], "systemctl: there is no such command"),
        ("systemd", not_root, [], "as root"),
        ("systemd", no_place_for_the_program, [], "cannot be written"),
        ("systemd", nothing_wrong, ["--ca-file", homelab_agent.HIDDEN_FROM_UNITS[0] + "hub.pem"], "sees no homes"),
        ("cron", no_cron, [], "cron is not installed"),
        ("cron", no_crontab, [], "crontab: there is no such command"),
        ("cron", nothing_wrong, ["--interval", "45"], "--interval"),
        ("cron", nothing_wrong, ["--loop", "10"], "--interval"),
        ("cron", nothing_wrong, ["--url", "hub.lan"], "HOMELAB_URL"),
    ],
)
def test_what_cannot_work_is_refused_before_the_enrolment_key_is_spent(
    unenrolled, system, usable_python, env_file, monkeypatch, capsys, how, trouble, flags, said
):
    become(monkeypatch, 0)
    trouble(system, monkeypatch)
    assert main(["--enrol", "--install", how, *flags]) == 78
    assert said in capsys.readouterr().err
    assert unenrolled.keys == []
    assert not env_file.exists()


# Others under the same name

OTHER_UNIT = "[Unit]\nDescription=HomelabCmd Monitoring Agent\n[Service]\nExecStart=/usr/bin/python3 /opt/agent.py\n"


@pytest.mark.parametrize("place", ["units", "packaged"])
def test_a_unit_of_another_agent_is_not_replaced_and_the_enrolment_key_not_spent(
    unenrolled, system, usable_python, monkeypatch, capsys, place: str
):
    become(monkeypatch, 0)
    other = system / place / "homelab-agent.service"
    other.write_text(OTHER_UNIT)
    assert main(["--enrol", "--install", "systemd"]) == 78
    told = capsys.readouterr().err
    assert str(other) in told
    assert "systemctl disable --now homelab-agent.service" in told
    assert unenrolled.keys == []
    assert main(["--uninstall"]) == 0
    assert other.read_text() == OTHER_UNIT
    assert not (system / "called").exists()


def test_beside_the_unit_of_another_agent_ours_runs_by_cron(agent, system, usable_python, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    monkeypatch.setattr(homelab_agent, "USER", "nobody")
    other = system / "units" / "homelab-agent.service"
    other.write_text(OTHER_UNIT)
    assert main(["--install", "cron"]) == 0
    assert other.read_text() == OTHER_UNIT
    assert not (system / "called").exists()


def test_a_cron_file_that_is_not_ours_is_left_alone(agent, system, usable_python, monkeypatch, capsys):
    become(monkeypatch, 0)
    (system / "cron").write_text("0 4 * * * root /opt/backup\n")
    assert main(["--install", "cron"]) == 78
    assert main(["--uninstall"]) == 0
    assert (system / "cron").read_text() == "0 4 * * * root /opt/backup\n"
    assert "remove the file" in capsys.readouterr().err


def test_units_that_an_earlier_version_wrote_are_ours(system):
    """These lines are how they are known; whoever changes one leaves machines that cannot be upgraded."""
    for unit, description in (
        ("homelab-agent.service", "Homelab agent: deliver the counters of the network interfaces"),
        ("homelab-agent.timer", "Homelab agent, every 60 seconds"),
    ):
        (system / "units" / unit).write_text(f"[Unit]\nDescription={description}\n")
        assert homelab_agent.is_ours(str(system / "units" / unit))


# One way of running at a time


def test_installing_again_in_another_way_ends_the_first(agent, system, usable_python, monkeypatch, capsys):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    monkeypatch.setattr(homelab_agent, "USER", "nobody")

    def installed(*flags: str) -> list[str]:
        assert main(["--install", *flags]) == 0
        return sorted(path.name for path in (system / "cron", *(system / "units").iterdir()) if path.exists())

    assert installed("systemd") == ["homelab-agent.service", "homelab-agent.timer"]
    assert installed("cron") == ["cron"]
    assert installed("systemd", "--loop", "10") == ["homelab-agent.service"]
    assert "[Install]" in (system / "units" / "homelab-agent.service").read_text()
    assert installed("systemd") == ["homelab-agent.service", "homelab-agent.timer"]
    assert "[Install]" not in (system / "units" / "homelab-agent.service").read_text()


def test_what_waited_under_systemd_goes_on_waiting_under_cron(agent: Agent, system, usable_python, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    monkeypatch.setattr(homelab_agent, "USER", "nobody")
    agent.away(monkeypatch)
    agent.run()
    (system / "private").mkdir(mode=0o700)
    agent.state.rename(system / "private" / "state")
    agent.state.symlink_to("private/state")
    assert main(["--install", "cron"]) == 0
    assert not agent.state.is_symlink()
    before, _of_the_first_run = agent.waiting()
    assert before.stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_paths_are_kept_whole_since_cron_runs_the_agent_elsewhere(agent, system, tmp_path, monkeypatch):
    become(monkeypatch, 1000)
    monkeypatch.chdir(tmp_path)
    assert main(["--install", "cron", "--env-file", "my.env", "--state-dir", "kept", "--ca-file", "hub.pem"]) == 0
    line = (system / "crontab").read_text()
    assert f"--env-file {tmp_path}/my.env --state-dir {tmp_path}/kept " in line
    assert f"HOMELAB_CA_FILE={tmp_path}/hub.pem\n" in (tmp_path / "my.env").read_text()


# Telling


def test_status_tells_how_the_agent_runs(agent, system, usable_python, monkeypatch, capsys):
    def runs() -> str:
        capsys.readouterr()
        assert main(["--status"]) == 0
        return capsys.readouterr().out.splitlines()[0].removeprefix("runs").strip()

    become(monkeypatch, 0)
    assert runs() == "only when called: not installed"
    assert main(["--install", "systemd", "--loop", "10"]) == 0
    assert runs() == "resident, by systemd"
    assert main(["--install", "systemd"]) == 0
    assert runs() == "by a timer of systemd"
    assert main(["--uninstall"]) == 0
    become(monkeypatch, 1000)
    assert main(["--install", "cron"]) == 0
    assert runs() == "by this user's cron"


def test_status_tells_what_waits(agent: Agent, hub, monkeypatch, capsys):
    agent.away(monkeypatch)
    for _ in range(3):
        agent.run()
    capsys.readouterr()
    assert main(["--status", "--server-id", "pi"], clock=agent.clock) == 0
    told = capsys.readouterr().out
    assert re.search(r"^waiting +3$", told, re.MULTILINE)
    assert re.search(r"^server +pi$", told, re.MULTILINE)
    assert KEY not in told
    agent.back(hub, monkeypatch)
    hub.script.append(answer(503, b"", {"Retry-After": "300"}))
    agent.run()
    main(["--status"], clock=agent.clock)
    assert re.search(r"^pause +\d+ s", capsys.readouterr().out, re.MULTILINE)


def test_status_works_on_a_machine_without_settings(agent: Agent, monkeypatch, capsys):
    for name in ("HOMELAB_URL", "HOMELAB_KEY"):
        monkeypatch.delenv(name)
    assert main(["--status"]) == 0
    assert "not set, no key" in capsys.readouterr().out
