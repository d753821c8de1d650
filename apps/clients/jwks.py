"""Public keys in a JWKS file (RFC 7517) on disk, e.g. a mounted secret; read again when the file changes."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import jwt
import orjson

from apps.clients.keys import PublicKey, check_public_key

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1_048_576

_lock = threading.Lock()
_files: dict[tuple[str, str], tuple[tuple[int, int, int], Mapping[str, PublicKey]]] = {}


def find_key(path: str, kid: str | None, algorithm: str) -> PublicKey | None:
    """The file's key ``kid`` that suits ``algorithm``; without a kid the only key there is. None if there is none."""
    keys = _load_current(path, algorithm)
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def read_keys(path: str, algorithm: str) -> dict[str, PublicKey]:
    """The keys of the file by kid, those for other uses or algorithms left out; raises ``ValueError``, ``OSError``."""
    with Path(path).open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"The JWKS file is larger than {MAX_FILE_BYTES} bytes.")
    document = orjson.loads(raw)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('A JWKS file is a JSON object with a list "keys".')
    keys = {}
    for entry in entries:
        key = _read_entry(entry, algorithm) if isinstance(entry, dict) else None
        if key is not None:
            keys[str(entry.get("kid", ""))] = key
    return keys


def _read_entry(entry: dict[str, object], algorithm: str) -> PublicKey | None:
    if entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        return check_public_key(jwt.PyJWK.from_dict(entry, algorithm).key, algorithm)
    except (jwt.PyJWTError, ValueError):
        return None


def _load_current(path: str, algorithm: str) -> Mapping[str, PublicKey]:
    try:
        stat = Path(path).stat()
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        loaded = _files.get((path, algorithm))
        if loaded is not None and loaded[0] == stamp:
            return loaded[1]
        try:
            keys: Mapping[str, PublicKey] = read_keys(path, algorithm)
        except ValueError as error:
            # Perhaps caught half-written; it is read again when it changes. Until then the keys it had.
            logger.warning("jwks_file_malformed", extra={"error": str(error)})
            keys = loaded[1] if loaded is not None else {}
    except OSError as error:
        logger.warning("jwks_file_unreadable", extra={"error": error.strerror})
        return {}
    with _lock:
        _files[path, algorithm] = (stamp, keys)
    return keys
