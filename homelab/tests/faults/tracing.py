"""strace, to kill or hold a process at a system call that it makes."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def traced(pid: int, *expressions: str, output: Path = Path("/dev/null")) -> Iterator[subprocess.Popen[str]]:
    """Trace a process that runs, with all its threads, and the files that it names; `expressions` as after strace's -e.

    A call is counted from then on, for each thread apart. It must be in `trace=` too, or nothing is injected.
    """
    options = [word for expression in expressions for word in ("-e", expression)]
    command = ["strace", "-f", "-y", "-p", str(pid), "-o", str(output), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        assert "attached" in line, line
        try:
            yield strace
        finally:
            strace.terminate()


def killing(call: str, number: int) -> tuple[str, str]:
    """Return what kills the process at this call of any of its threads."""
    return f"trace={call}", f"inject={call}:signal=SIGKILL:when={number}"
