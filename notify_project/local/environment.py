"""The environment of the local stack: ``.local/env``, made on first start, read by every process and ``manage.py``."""

import base64
import os
import secrets
import string
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from notify_project.local.ports import LOOPBACK, Ports
from notify_project.local.private_files import write_private

ADMIN_USER = "admin"
FLOWER_USER = "flower"
STORE_VARIABLES = ("DATABASE_URL", "BROKER_URL", "CACHE_URL")

_HEADER = (
    "# Written by `make run` at every start; secrets are made once and kept. A variable of the real environment wins.\n"
)
# What a process needs of its surroundings to run at all.
_SURROUNDINGS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def read_env_file(path: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of ``path``; empty if there is no such file. Quotes around a value are dropped."""
    if not path.is_file():
        return {}
    values = {}
    for line in path.read_text().splitlines():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and not name.startswith("#"):
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            values[name.strip()] = value[1:-1] if is_quoted else value
    return values


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """Write ``values`` into ``path``, mode 0600."""
    write_private(path, _HEADER + "".join(f"{name}={value}\n" for name, value in values.items()))


def make_secrets() -> dict[str, str]:
    """A value for every secret of the platform that has no default."""
    pii_key = base64.b64encode(secrets.token_bytes(32)).decode()
    return {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "PII_KEYS": f"1:{pii_key}",
        "BLIND_INDEX_KEY": secrets.token_urlsafe(32),
        "API_KEY_PEPPER": secrets.token_urlsafe(32),
        "PUSH_ACK_KEY": secrets.token_urlsafe(32),
        "ADMIN_PASSWORD": _make_password(),
        "FLOWER_PASSWORD": _make_password(),
    }


def _make_password() -> str:
    """For people to type: 16 letters and digits, 95 bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(16))


def describe_ports(ports: Ports) -> dict[str, str]:
    """The ports as variables: ``WEB_PORT`` and its kin."""
    return {f"{name.upper()}_PORT": str(port) for name, port in asdict(ports).items()}


def describe_places(data_dir: Path, ports: Ports) -> dict[str, str]:
    """The settings that follow from where the stack lives."""
    return {
        "PUBLIC_URL": f"http://{LOOPBACK}:{ports.web}",
        "PROMETHEUS_MULTIPROC_DIR": str(data_dir / "metrics"),
        **describe_ports(ports),
    }


def surroundings() -> dict[str, str]:
    """The part of this process' own environment that says nothing about the platform: PATH, HOME, locale, …"""
    return {name: value for name, value in os.environ.items() if name in _SURROUNDINGS or name.startswith("LC_")}
