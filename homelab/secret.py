"""The hub's secret key, made on first start and kept beside the database."""

import os
import secrets
from pathlib import Path


def read_or_make(path: Path) -> str:
    """Return the key stored at `path`; make it, readable by its owner only, when it is not there."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return _make(path)


def _make(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = secrets.token_urlsafe(50)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # fails when another process was first: then its key is the key
    except FileExistsError:
        key = path.read_text().strip()
    finally:
        draft.unlink()
    return key
