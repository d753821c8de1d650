"""Files that only their owner may read."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Put ``text`` into ``path`` with mode 0600, all of it or nothing: a crash leaves the old file."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def stored_secret(path: Path) -> str:
    """The secret kept in ``path``; made on first use."""
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()
