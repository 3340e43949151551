from __future__ import annotations

import json
import socket

import pytest

from agent import homelab_agent
from agent.homelab_agent import default_server_id, main
from agent.tests.conftest import FakeClock, FakeMachine
from agent.tests.hub import KEY, HonestHub, answer

ACK = {"status": "ok", "outcome": "accepted", "server_registered": True}


@pytest.fixture
def configured(hub: HonestHub, machine: FakeMachine, monkeypatch) -> HonestHub:
    machine.interface("eth0", rx=(1, 1, 0, 0), operstate="up")
    monkeypatch.setenv("HOMELAB_URL", hub.url)
    monkeypatch.setenv("HOMELAB_KEY", KEY)
    return hub


def write_env_file(text: str, mode: int = 0o600) -> None:
    with open(homelab_agent.ENV_FILE, "w") as file:
        file.write(text)
    homelab_agent.os.chmod(homelab_agent.ENV_FILE, mode)


def test_success_is_silent_and_zero(configured: HonestHub, clock: FakeClock, capsys):
    assert main([], clock=clock) == 0
    assert capsys.readouterr() == ("", "")
    ((path, body),) = configured.received
    assert path == "/api/v1/agents/heartbeat"
    assert configured.keys == [f"Bearer {KEY}"]
    assert body["network_interfaces"][0]["name"] == "eth0"


def test_a_duplicate_is_success(configured: HonestHub, clock: FakeClock):
    assert main([], clock=clock) == 0
    assert main([], clock=clock) == 0
    assert configured.outcomes == ["accepted", "duplicate"]


def test_sent_uptime_is_the_uptime_at_sending(configured: HonestHub, clock: FakeClock):
    ticks = iter([100.0, 103.5])
    clock.uptime = lambda: next(ticks, 103.5)  # type: ignore[method-assign]
    assert main([], clock=clock) == 0
    body = configured.received[0][1]
    assert (body["uptime"], body["sent_uptime"]) == (100.0, 103.5)


def test_sent_uptime_is_left_out_after_a_reboot_or_without_a_boot(clock: FakeClock):
    assert "sent_uptime" in homelab_agent.as_sent({"boot_id": clock.boot}, clock)
    assert "sent_uptime" not in homelab_agent.as_sent({"boot_id": "another"}, clock)
    clock.boot = None
    assert "sent_uptime" not in homelab_agent.as_sent({}, clock)


def test_dry_run_prints_the_heartbeat_and_sends_nothing(configured: HonestHub, clock: FakeClock, capsys):
    assert main(["--dry-run"], clock=clock) == 0
    assert json.loads(capsys.readouterr().out)["network_interfaces"][0]["name"] == "eth0"
    assert configured.received == []


def test_dry_run_needs_neither_url_nor_key(machine: FakeMachine, capsys):
    assert main(["--dry-run"]) == 0


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"type": "client_error"}, 77),
        (403, {"type": "client_error"}, 77),
        (400, {"type": "client_error"}, 69),
        (404, b"<html>not found</html>", 69),
        (405, {"type": "client_error"}, 69),
        (429, {"type": "client_error"}, 75),
        (500, b"", 75),
        (503, {"type": "server_error"}, 75),
        (507, {"type": "server_error"}, 75),
        (200, b"", 75),
        (200, b"<html>log in to the WiFi</html>", 75),
        (200, b"[]", 75),
        (200, b'{"status":"ok"}', 75),
        (200, b'{"status":"ok","outcome":"maybe"}', 75),
        (200, b'{"status":"error","outcome":"accepted"}', 75),
        (200, b"[" * 100_000, 75),
        (201, ACK, 75),
        (204, b"", 75),
    ],
)
def test_exit_code_by_answer(configured: HonestHub, clock: FakeClock, capsys, status: int, body: object, code: int):
    configured.script.append(answer(status, body))
    assert main([], clock=clock) == code
    assert configured.fired == [f"answer_{status}"]
    assert capsys.readouterr().err.startswith("homelab-agent: ")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_is_no_ack(configured: HonestHub, clock: FakeClock, status: int):
    with HonestHub() as elsewhere:
        configured.script.append(answer(status, ACK, {"Location": f"{elsewhere.url}/api/v1/agents/heartbeat"}))
        assert main([], clock=clock) == 75
        assert elsewhere.keys == []


def test_a_hub_that_is_away_is_temporary(configured: HonestHub, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HOMELAB_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert main([]) == 75


def test_a_proxy_in_the_environment_is_ignored(configured: HonestHub, clock: FakeClock, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert main([], clock=clock) == 0


@pytest.mark.parametrize("argv", [["--nonsense"], ["--server-id"], ["stray"], ["--key", KEY], ["--dry"]])
def test_wrong_usage_is_64(argv: list[str], capsys):
    assert main(argv) == 64


def test_help_is_zero_and_has_no_flag_for_the_key(capsys):
    assert main(["--help"]) == 0
    assert "--key" not in capsys.readouterr().out


@pytest.mark.parametrize("url", ["", "hub.lan", "ftp://hub.lan", "http://", "http://hub.lan:port", "http://[::1"])
def test_a_url_that_is_none_is_78(configured: HonestHub, monkeypatch, url: str):
    monkeypatch.setenv("HOMELAB_URL", url)
    assert main([]) == 78


@pytest.mark.parametrize("key", ["", "two words", "new\nline", "clé"])
def test_a_key_that_is_none_is_78(configured: HonestHub, monkeypatch, key: str):
    monkeypatch.setenv("HOMELAB_KEY", key)
    assert main([]) == 78


@pytest.mark.parametrize("server_id", ["A B", "x" * 101, "../x", "ünder"])
def test_a_server_id_the_hub_refuses_is_78(configured: HonestHub, server_id: str):
    assert main(["--server-id", server_id]) == 78


def test_a_server_guid_the_hub_refuses_is_78(configured: HonestHub, monkeypatch):
    monkeypatch.setenv("HOMELAB_SERVER_GUID", "3f2b8c1e-7d54-1a96-9b0e-51c6d2a7f830")
    assert main([]) == 78
    monkeypatch.setenv("HOMELAB_SERVER_GUID", "3F2B8C1E-7D54-4A96-9B0E-51C6D2A7F830")
    assert main([]) == 0


@pytest.mark.parametrize("interval", ["0", "0.5", "-1", "soon", "nan", "inf"])
def test_an_interval_that_is_none_or_that_the_hub_refuses_is_78(configured: HonestHub, interval: str):
    assert main(["--interval", interval]) == 78


def test_a_loop_the_hub_refuses_is_78(configured: HonestHub):
    assert main(["--loop", "0.5"]) == 78


def test_settings_come_from_flag_then_environment_then_file(configured: HonestHub, clock: FakeClock, monkeypatch):
    write_env_file(f"# the hub\nHOMELAB_KEY='{KEY}'\nHOMELAB_SERVER_ID=file\nHOMELAB_INTERVAL = 30\n")
    monkeypatch.delenv("HOMELAB_KEY")
    assert main([], clock=clock) == 0
    monkeypatch.setenv("HOMELAB_SERVER_ID", "environment")
    assert main([], clock=clock) == 0
    assert main(["--server-id", "flag"], clock=clock) == 0
    assert [body["server_id"] for _, body in configured.received] == ["file", "environment", "flag"]
    assert configured.received[0][1]["interval"] == 30


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602])
def test_an_env_file_that_others_can_open_is_78(configured: HonestHub, capsys, mode: int):
    write_env_file(f"HOMELAB_KEY={KEY}\n", mode)
    assert main([]) == 78
    assert KEY not in capsys.readouterr().err
    assert configured.received == []


def test_an_env_file_that_was_asked_for_and_is_missing_is_78(configured: HonestHub, tmp_path):
    assert main(["--env-file", str(tmp_path / "none")]) == 78


@pytest.mark.parametrize(
    ("hostname", "server_id"),
    [
        ("nas-01", "nas-01"),
        ("NAS_01.lan", "nas-01"),
        ("Jo's MacBook.local", "jo-s-macbook"),
        ("...", "server"),
        ("x" * 200, "x" * 100),
        ("büro", "b-ro"),
    ],
)
def test_the_server_id_is_the_short_hostname_made_to_fit(hostname: str, server_id: str):
    assert default_server_id(hostname) == server_id


def test_the_key_is_never_printed(configured: HonestHub, capsys):
    configured.script.append(answer(401, {}))
    main([])
    main(["--dry-run"])
    assert KEY not in "".join(capsys.readouterr())


def test_an_answer_that_drips_for_ever_is_cut_by_the_deadline(configured: HonestHub, clock: FakeClock):
    def drip(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            homelab_agent.time.sleep(0.05)

    configured.script.append(drip)
    before = homelab_agent.time.monotonic()
    assert main(["--deadline", "0.5"], clock=clock) == 75
    assert homelab_agent.time.monotonic() - before < 2
