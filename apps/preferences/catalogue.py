"""The categories and their rules, kept in each process for a few seconds.

An edited rule is known everywhere after ``TTL_S``. A new category is known at once wherever it is asked for: a key
that is not known has the rules read again. What a person says about a category is not kept here but in their
snapshot, and holds from the next decision on.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from django.conf import settings

from apps.channels import Channel
from apps.preferences.categories import (
    BUILT_IN,
    DEFAULT_KEY,
    DEFAULT_RULES,
    Cap,
    CapRule,
    CategoryRules,
    Kind,
    QuietHoursRule,
)
from apps.preferences.models import Category

TTL_S: Final = 5.0


class _Catalogue:
    """The rules by key, and when they were read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: Mapping[str, CategoryRules] = {}
        self._fresh_until = 0.0

    def get(self, keys: Iterable[str]) -> Mapping[str, CategoryRules]:
        rules = self._rules
        if time.monotonic() < self._fresh_until and rules.keys() >= set(keys):
            return rules
        with self._lock:
            asked_at = time.monotonic()
            self._rules = _read_rules()
            self._fresh_until = asked_at + TTL_S
            return self._rules

    def forget(self) -> None:
        self._fresh_until = 0.0


_catalogue = _Catalogue()


def load_categories(keys: Iterable[str] = ()) -> Mapping[str, CategoryRules]:
    """Every category by key, retired ones included, the default one (``""``) always. A key of ``keys`` that is not in
    it does not exist: take the default's rules for it. At most one small query."""
    return _catalogue.get(keys)


def find_category(key: str) -> CategoryRules | None:
    """The category that new messages may name ``key``; ``None`` if there is none or it has been retired."""
    category = load_categories((key,)).get(key)
    return category if category is not None and category.is_active else None


def forget_categories() -> None:
    """Have this process read the rules again: after they were edited here."""
    _catalogue.forget()


def seed_categories(*, using: str = "default") -> None:
    """Add those built-in categories that are missing; what was edited stays as it is."""
    Category.objects.using(using).bulk_create(
        [Category(key=key, name=name, kind=kind.value, description=text) for key, name, kind, text in BUILT_IN],
        ignore_conflicts=True,
    )
    forget_categories()


def _read_rules() -> dict[str, CategoryRules]:
    zoneless: str = settings.QUIET_HOURS_WITHOUT_ZONE
    return {DEFAULT_KEY: DEFAULT_RULES} | {row.key: rules_of(row, zoneless) for row in Category.objects.all()}


def rules_of(category: Category, zoneless: str) -> CategoryRules:
    """A row as plain data; ``zoneless`` as in ``CategoryRules``."""
    defaults = {
        Channel.PUSH: category.push_default,
        Channel.SMS: category.sms_default,
        Channel.EMAIL: category.email_default,
    }
    cap = None
    if category.cap_limit is not None and category.cap_period_s is not None:
        cap = Cap(category.cap_limit, timedelta(seconds=category.cap_period_s), CapRule(category.cap_rule))
    return CategoryRules(
        id=category.pk,
        key=category.key,
        kind=Kind(category.kind),
        off_by_default=frozenset(channel for channel, is_on in defaults.items() if not is_on),
        quiet_hours=QuietHoursRule(category.quiet_hours),
        cap=cap,
        zoneless=zoneless,
        is_active=category.is_active,
        retries_unknown=category.retries_unknown,
    )
