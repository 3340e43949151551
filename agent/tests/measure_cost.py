"""What one cron run costs, against the naive script of the same job: `python agent/tests/measure_cost.py [rounds]`.

Both run in turns against the same small hub on this machine, as cron would start them; medians are compared, and peak
memory is the kernel's own figure (ru_maxrss). DESIGN: at most 0.75 in both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

AGENT = str(Path(__file__).parents[1] / "homelab_agent.py")
NAIVE = """\
import datetime
import os
import socket

import psutil
import requests

up = psutil.net_if_stats()
interfaces = [
    {
        "name": name,
        "rx_bytes": row.bytes_recv,
        "tx_bytes": row.bytes_sent,
        "rx_packets": row.packets_recv,
        "tx_packets": row.packets_sent,
        "is_up": up[name].isup,
    }
    for name, row in psutil.net_io_counters(pernic=True).items()
    if name != "lo"
]
heartbeat = {
    "server_id": socket.gethostname(),
    "hostname": socket.gethostname(),
    "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
    "uptime": datetime.datetime.now().timestamp() - psutil.boot_time(),
    "network_interfaces": interfaces,
}
requests.post(
    os.environ["HOMELAB_URL"] + "/api/v1/agents/heartbeat",
    json=heartbeat,
    headers={"Authorization": "Bearer " + os.environ["HOMELAB_KEY"]},
    timeout=50,
).raise_for_status()
"""


def serve() -> tuple[int, str]:
    """The hub in a process of its own, so that this one stays small: a child's peak memory counts from its parent's."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import time

        from agent.tests.hub import HonestHub

        with HonestHub() as hub:
            os.write(write, hub.url.encode())
            time.sleep(3600)
    return child, os.read(read, 200).decode()


def cost(command: list[str], environ: dict[str, str]) -> tuple[float, int]:
    """CPU milliseconds and peak kilobytes of one run."""
    process = os.posix_spawn(command[0], command, environ)
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return (used.ru_utime + used.ru_stime) * 1000, used.ru_maxrss


def main(rounds: int) -> None:
    hub, url = serve()
    with tempfile.TemporaryDirectory() as directory:
        naive = os.path.join(directory, "naive.py")
        Path(naive).write_text(NAIVE)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HOMELAB_")},
            "HOMELAB_URL": url,
            "HOMELAB_KEY": "hl_0123456789abcdef",
            "HOMELAB_STATE_DIR": os.path.join(directory, "state"),
            "HOMELAB_SERVER_ID": "measured",
        }
        runs: dict[str, list[tuple[float, int]]] = {AGENT: [], naive: []}
        try:
            for number in range(rounds + 2):
                for script, costs in runs.items():
                    measured = cost([sys.executable, script], environ)
                    if number >= 2:  # the first runs write bytecode and warm the disk
                        costs.append(measured)
        finally:
            os.kill(hub, 15)
            os.waitpid(hub, 0)
    cpu = {script: statistics.median(milliseconds for milliseconds, _ in costs) for script, costs in runs.items()}
    peak = {script: statistics.median(kilobytes for _, kilobytes in costs) / 1024 for script, costs in runs.items()}
    for word, script in (("agent", AGENT), ("naive", naive)):
        print(f"{word}  {cpu[script]:6.1f} ms CPU  {peak[script]:6.1f} MB peak")
    print(f"ratio  {cpu[AGENT] / cpu[naive]:.2f} CPU  {peak[AGENT] / peak[naive]:.2f} memory  ({rounds} rounds)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
