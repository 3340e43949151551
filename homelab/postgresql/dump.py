"""PostgreSQL's own pg_dump, pg_restore and psql, on the database of the settings; no password is in an argument."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from django.db import connection
from psycopg import pq
from psycopg.conninfo import make_conninfo
from tqdm import tqdm

BLOCK = 1 << 20
GENTLY = ("nice", "-n", "10")  # whoever answers agents meanwhile comes first


class DumpError(Exception):
    """A program of PostgreSQL's is missing, too old, or failed. The message says which, and what it said."""


def dump(draft: Path, out: TextIO | None) -> None:
    """Write all tables to `draft` as they are at one instant, while others go on writing."""
    _check_version("pg_dump")
    tables = connection.introspection.table_names()
    conninfo, environment = _address()
    # Chunks are compressed already: the usual level takes twice as long and gains 3 %.
    command = [*GENTLY, "pg_dump", "--format=custom", "--compress=1", "--no-owner", "--no-privileges", "--verbose"]
    said = []
    with (
        _started([*command, f"--file={draft}", f"--dbname={conninfo}"], stderr=subprocess.PIPE, env=environment) as run,
        tqdm(desc="Backing up", total=len(tables), file=out, unit="table", disable=out is None) as bar,
    ):
        for line in run.stderr or ():
            said.append(line)
            bar.update(b"dumping contents of table" in line)
    _check_end(run, b"".join(said))


def migrations(path: Path) -> set[tuple[str, str]]:
    """Read the whole of a dump, and return the migrations that its tables have been through, as (app, name)."""
    for select in (["--file", os.devnull], ["--data-only", "--table=django_migrations", "--file=-"]):
        with _started(["pg_restore", *select, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            found, said = run.communicate()
        _check_end(run, said)
    rows = (line.split("\t") for line in found.decode().splitlines() if line.count("\t") == 3)
    return {(app, name) for _, app, name, _ in rows}


def load(path: Path, out: TextIO | None) -> None:
    """Put a dump in the place of all tables, in one transaction."""
    _check_version("pg_restore")
    conninfo, environment = _address()
    tables = ", ".join(map(connection.ops.quote_name, connection.introspection.table_names()))
    connection.close()
    command = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={conninfo}"]
    with (
        tempfile.TemporaryFile() as said,
        _started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environment) as writer,
        _started(
            ["pg_restore", "--no-owner", "--no-privileges", "--file=-", str(path)], stdout=subprocess.PIPE, stderr=said
        ) as reader,
        tqdm(desc="Restoring", file=out, unit="B", unit_scale=True, disable=out is None) as bar,
    ):
        with suppress(BrokenPipeError), _open(writer.stdin) as sink:  # it says why it has ended
            sink.write(f"BEGIN;\n{f'DROP TABLE {tables} CASCADE;' if tables else ''}\n".encode())
            for block in iter(lambda: _open(reader.stdout).read(BLOCK), b""):
                sink.write(block)
                bar.update(len(block))
            if reader.wait() == 0:  # otherwise what came is not all, and is undone
                sink.write(b"COMMIT;\n")
        _open(reader.stdout).close()
        for run in (writer, reader):
            run.wait()
        said.seek(0)
        words = said.read()
    for run in (writer, reader):
        _check_end(run, words)


def _address() -> tuple[str, dict[str, str]]:
    """Return where the database is, as libpq takes it, and an environment with what must be in no argument."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    wanted = {name: value for name, value in connection.get_connection_params().items() if name in known}
    password = wanted.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    return make_conninfo(**{**wanted, "application_name": "homelab backup"}), environment


def _check_version(program: str) -> None:
    with _started([program, "--version"], stdout=subprocess.PIPE) as run:
        said = run.communicate()[0].decode()
    found = re.search(r"\) (\d+)", said)
    connection.ensure_connection()
    needed = connection.pg_version // 10_000  # type: ignore[attr-defined]
    if found is None or int(found[1]) < needed:
        raise DumpError(
            f"{program} is of {said.strip()}, and the server of {needed}: install postgresql-client-{needed}"
        )


@contextmanager
def _started(command: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program, which has ended when the block has, or is killed."""
    try:
        run = subprocess.Popen(command, **options)
    except FileNotFoundError:
        raise DumpError(f"{command[0]} is not installed here; Debian has it in postgresql-client") from None
    with run:
        try:
            yield run
        except BaseException:
            run.kill()
            raise


def _check_end(run: "subprocess.Popen[bytes]", said: bytes) -> None:
    if run.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [""]
        raise DumpError(next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), lines[-1]))


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - it was asked for
    return pipe
