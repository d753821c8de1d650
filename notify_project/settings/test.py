"""Settings of the test suite: the real ones, over throw-away secrets. The URLs come from ``tests/services.py``."""

import os

_DEFAULTS = {
    "NOTIFY_ENV_FILE": os.devnull,
    "SECRET_KEY": "test-secret-key",
    "DATABASE_URL": "postgres://postgres@127.0.0.1:1/not-started",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "CACHE_URL": "redis://127.0.0.1:1/0",
    "PII_KEYS": "1:MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY=",
    "BLIND_INDEX_KEY": "test-blind-index-key",
    "API_KEY_PEPPER": "test-pepper",
    "PUSH_ACK_KEY": "test-push-ack-key",
}
os.environ["NOTIFY_ENV_FILE"] = os.devnull
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from notify_project.settings.base import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
