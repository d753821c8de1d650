"""``manage.py check``: the keys are there and well formed before anything is encrypted with them."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from apps.preferences import cipher

_MAKE_KEY = 'python -c "import os, base64; print(base64.b64encode(os.urandom(32)).decode())"'


def check_keys(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """``preferences.E001``: PII_KEYS or PII_ACTIVE_KEY is malformed;
    ``preferences.E002``: BLIND_INDEX_KEY is too short; ``preferences.E003``: the blind index uses a key of PII_KEYS."""
    errors: list[CheckMessage] = []
    try:
        cipher.parse_keyring(settings.PII_KEYS, settings.PII_ACTIVE_KEY)
    except ImproperlyConfigured as error:
        errors.append(
            Error(str(error), hint=f'PII_KEYS is "1:<key>,2:<key>"; a key: {_MAKE_KEY}', id="preferences.E001")
        )
    try:
        cipher.parse_blind_index_key(settings.BLIND_INDEX_KEY)
    except ImproperlyConfigured as error:
        errors.append(Error(str(error), hint=f"Take a long random text: {_MAKE_KEY}", id="preferences.E002"))
    if settings.BLIND_INDEX_KEY in settings.PII_KEYS.values():
        errors.append(
            Error("BLIND_INDEX_KEY is also one of PII_KEYS.", hint="Use a key of its own.", id="preferences.E003")
        )
    return errors
