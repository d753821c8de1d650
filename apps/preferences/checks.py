"""``manage.py check``: the keys are there and well formed before anything is encrypted with them; the settings about
recipients make sense."""

from collections.abc import Sequence
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from apps.preferences import cipher, profile, unsubscribe
from apps.preferences.categories import ZONELESS_SEND, ZONELESS_SUPPRESS

LEGAL_LINK_DAYS: Final = 30
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


def check_recipient_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """``preferences.E004``: QUIET_HOURS_WITHOUT_ZONE is not a zone; ``preferences.E005``: DEVICE_MAX_AGE_DAYS is not
    positive."""
    errors: list[CheckMessage] = []
    zoneless: str = settings.QUIET_HOURS_WITHOUT_ZONE
    if zoneless not in (ZONELESS_SEND, ZONELESS_SUPPRESS):
        try:
            profile.check_time_zone(zoneless or "blank")
        except profile.InvalidValue:
            hint = f"Set an IANA time zone name such as UTC, or {ZONELESS_SUPPRESS!r}, or {ZONELESS_SEND!r}."
            errors.append(Error("QUIET_HOURS_WITHOUT_ZONE is not a time zone.", hint=hint, id="preferences.E004"))
    if settings.DEVICE_MAX_AGE_DAYS < 1:
        errors.append(Error("DEVICE_MAX_AGE_DAYS is not positive.", hint="Set days, e.g. 270.", id="preferences.E005"))
    return errors


def check_unsubscribe_links(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """``preferences.E006``: UNSUBSCRIBE_LINK_DAYS is not a number of days that a link can carry;
    ``preferences.W001``: links expire before the law allows."""
    days: int = settings.UNSUBSCRIBE_LINK_DAYS
    if not 1 <= days <= unsubscribe.MAX_DAYS:
        hint = f"Set 1 to {unsubscribe.MAX_DAYS} days, e.g. 90."
        return [Error("UNSUBSCRIBE_LINK_DAYS is out of range.", hint=hint, id="preferences.E006")]
    if days < LEGAL_LINK_DAYS:
        hint = f"15 USC 7704(a)(3) asks for {LEGAL_LINK_DAYS} days after sending."
        return [Warning("Unsubscribe links expire too soon.", hint=hint, id="preferences.W001")]
    return []


def check_retention_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """``preferences.E007``: a retention setting is not positive; ``preferences.W002``: erased recipients are forgotten
    while the delivery log still names them."""
    errors: list[CheckMessage] = [
        Error(f"{name} is not positive.", hint="Set a number of days.", id="preferences.E007")
        for name in ("DEVICE_FORGET_DAYS", "TOMBSTONE_DAYS", "SUPPRESSION_HISTORY_DAYS")
        if getattr(settings, name) < 1
    ]
    if settings.TOMBSTONE_DAYS <= settings.DELIVERY_RETENTION_DAYS:
        hint = "Set TOMBSTONE_DAYS to more days than DELIVERY_RETENTION_DAYS."
        errors.append(
            Warning("Erased recipients are forgotten before the log of them.", hint=hint, id="preferences.W002")
        )
    return errors
