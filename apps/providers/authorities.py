"""Which certificate authorities may vouch for a provider."""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO

import certifi
from django.core.exceptions import ImproperlyConfigured

_files: list[IO[bytes]] = []


@lru_cache(maxsize=8)
def ca_bundle(extra_file: str) -> str:
    """The path of a PEM bundle with the public authorities and those of ``extra_file`` (``""``: none).

    The combined file lives as long as the process. Raises ``ImproperlyConfigured`` when ``extra_file`` holds no
    certificate."""
    if not extra_file:
        return certifi.where()
    try:
        extra = Path(extra_file).read_bytes()
    except OSError as error:
        raise ImproperlyConfigured(f"PROVIDER_CA_FILE cannot be read: {error.strerror}. Give a PEM file.") from None
    if b"-----BEGIN CERTIFICATE-----" not in extra:
        raise ImproperlyConfigured("PROVIDER_CA_FILE holds no PEM certificate.")
    bundle = tempfile.NamedTemporaryFile(prefix="notify-ca-", suffix=".pem")  # noqa: SIM115
    bundle.write(Path(certifi.where()).read_bytes() + b"\n" + extra)
    bundle.flush()
    _files.append(bundle)
    return bundle.name
