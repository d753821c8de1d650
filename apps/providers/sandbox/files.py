"""Files of the data directory: replaced whole, so that a crash leaves the old or the new one, never half of it."""

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Writes ``content`` readable by the owner alone."""
    _replace(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Writes ``content`` readable by everyone who may read the directory."""
    _replace(path, content, 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
