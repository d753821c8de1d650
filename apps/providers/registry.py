"""The provider accounts of ``settings.PROVIDERS``.

An entry is ``{"id": number stored with deliveries, "adapter": dotted path of the class, "options": {...}}``, and if
wanted ``"quota"`` (see ``quotas``), ``"timeout_s"`` for one request in place of ``PROVIDER_TIMEOUT_S``, and
``"credentials"`` and ``"receipts_need"``, the options without which the account is switched off and its receipts
cannot be verified (see ``checks``). An option called ``<name>_file`` is read here and handed to the adapter as
``<name>`` with the file's text, so that any credential can be a mounted secret and an adapter opens no file.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from apps.channels import Channel
from apps.providers.base import Adapter
from apps.providers.errors import ConfigurationError

FILE_SUFFIX = "_file"


class Provider:
    """One account: ``alias`` is its name for people, ``id`` its stored number, ``channel`` what it carries."""

    def __init__(self, alias: str, entry: Mapping[str, Any]) -> None:
        self.alias = alias
        self.entry = entry
        self.id: int = entry["id"]
        self._adapter_class: Any = import_string(entry["adapter"])
        self.channel: Channel = self._adapter_class.channel

    @cached_property
    def adapter(self) -> Adapter:
        """The adapter, made on first use; raises ``ImproperlyConfigured`` naming every option to mend."""
        try:
            adapter: Adapter = self._adapter_class(self.alias, resolve_options(self.alias, self.entry["options"]))
        except ConfigurationError as error:
            raise ImproperlyConfigured(str(error)) from None
        return adapter

    @cached_property
    def is_configured(self) -> bool:
        """Whether the account has what it needs to work. Found out once, like everything read from the environment."""
        try:
            return bool(self.adapter)
        except ImproperlyConfigured:
            return False

    def __repr__(self) -> str:
        return f"Provider({self.alias!r})"


def resolve_options(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every ``<name>_file`` replaced by ``<name>``, the file's text (``""`` for no file). Raises
    ``ConfigurationError`` for a file that cannot be read."""
    resolved: dict[str, Any] = {}
    for name, value in options.items():
        if not name.endswith(FILE_SUFFIX):
            if value or name not in resolved:  # a file of the same name may have filled it
                resolved[name] = value
            continue
        try:
            text = Path(value).read_text() if value else ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ConfigurationError(alias, [f"{name} cannot be read ({reason}); give the path of a file"]) from None
        option = name.removesuffix(FILE_SUFFIX)
        resolved[option] = resolved.get(option) or text
    return resolved


_providers: dict[str, Provider] = {}


def get_provider(alias: str) -> Provider:
    """The account called ``alias``; raises ``KeyError``. Kept for as long as its settings entry is the same object."""
    entry = settings.PROVIDERS[alias]
    provider = _providers.get(alias)
    if provider is None or provider.entry is not entry:
        provider = _providers[alias] = Provider(alias, entry)
    return provider


def provider_by_id(number: int) -> Provider:
    """The account stored with deliveries as ``number``; raises ``KeyError``."""
    for alias, entry in settings.PROVIDERS.items():
        if entry["id"] == number:
            return get_provider(alias)
    raise KeyError(number)


def provider_aliases() -> tuple[str, ...]:
    """Every configured account's alias, in the order of the settings."""
    return tuple(settings.PROVIDERS)
