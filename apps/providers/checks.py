"""What ``manage.py check`` says about providers and routes.

``notify.E001`` to ``E006`` are about the settings' shape and always run. ``E007``, ``E008`` and the warnings are about
credentials and run with ``check --deploy``, so that tests and one-off commands need none.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from apps.channels import CHANNEL_LABELS, Channel
from apps.providers.authorities import ca_bundle
from apps.providers.registry import Provider, get_provider
from apps.providers.routing import is_part, routed_aliases

MAX_PROVIDER_ID = 32_767  # stored as a smallint


@register("providers")
def check_providers(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Every entry of ``PROVIDERS`` can be loaded and has a number of its own; every route leads to such entries."""
    return [*_check_entries(), *_check_routes()]


@register("providers", deploy=True)
def check_credentials(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Every routed provider has complete credentials, and receipts can find their way back."""
    if kwargs.get("databases"):  # `check --deploy --database default`: the routes made in the admin as well
        aliases = routed_aliases()
    else:
        aliases = tuple(dict.fromkeys(alias for aliases in settings.ROUTES.values() for alias in aliases))
    return [*_check_accounts(aliases), *_check_public_url()]


def _check_entries() -> Iterator[CheckMessage]:
    numbers: dict[int, str] = {}
    for alias, entry in settings.PROVIDERS.items():
        missing = [name for name in ("id", "adapter", "options") if name not in entry]
        if missing:
            yield Error(f"PROVIDERS[{alias!r}] lacks {', '.join(missing)}.", id="notify.E001")
            continue
        number = entry["id"]
        if not isinstance(number, int) or not 0 < number <= MAX_PROVIDER_ID:
            yield Error(
                f"PROVIDERS[{alias!r}]['id'] is not a number from 1 to {MAX_PROVIDER_ID}.",
                hint="It is stored with every delivery; pick a free one and never change it.",
                id="notify.E002",
            )
        elif number in numbers:
            yield Error(
                f"PROVIDERS[{alias!r}] and PROVIDERS[{numbers[number]!r}] have the same id {number}.",
                hint="Stored deliveries could not be told apart; give the newer one another number.",
                id="notify.E003",
            )
        else:
            numbers[number] = alias
        try:
            get_provider(alias)
        except (ImportError, AttributeError) as error:
            yield Error(f"The adapter of PROVIDERS[{alias!r}] cannot be imported: {error}", id="notify.E004")


def _check_routes() -> Iterator[CheckMessage]:
    for name, aliases in settings.ROUTES.items():
        label, _, part = name.partition(":")
        if label not in CHANNEL_LABELS or (part and not is_part(Channel.from_label(label), part)):
            yield Error(
                f"ROUTES has {name!r}, which is no channel ({', '.join(CHANNEL_LABELS)}) or part of one.",
                hint="Parts are push:android, push:ios, push:web and country prefixes such as sms:+49.",
                id="notify.E005",
            )
            continue
        for alias in aliases:
            provider = _loadable(alias)
            if provider is None:
                yield Error(
                    f"ROUTES[{name!r}] names {alias!r}, which is no working entry of PROVIDERS.",
                    hint=f"Known: {', '.join(settings.PROVIDERS)}. Mend ROUTE_{name.upper().replace(':', '_')}.",
                    id="notify.E005",
                )
            elif provider.channel is not Channel.from_label(label):
                yield Error(
                    f"ROUTES[{name!r}] names {alias!r}, which carries {provider.channel.label}.", id="notify.E006"
                )


def _check_accounts(aliases: Iterable[str]) -> Iterator[CheckMessage]:
    """Accounts that are routed to and cannot work. One without any credentials is switched off, unless nothing else
    carries its channel."""
    try:
        ca_bundle(settings.PROVIDER_CA_FILE)
    except ImproperlyConfigured as error:
        yield Error(str(error), id="notify.E008")
    needed = {alias for label in CHANNEL_LABELS if (alias := _only_hope(settings.ROUTES.get(label, []))) is not None}
    for alias in aliases:
        provider = _loadable(alias)
        if provider is None:
            continue  # check_providers says so
        if is_switched_off(provider) and alias not in needed:
            continue
        try:
            _ = provider.adapter
        except ImproperlyConfigured as error:
            yield Error(
                f"Provider {error}.",
                hint="Set the options through the environment (see the README), or take it out of the routes.",
                id="notify.E007",
            )
        missing = [name for name in provider.entry.get("receipts_need", ()) if not provider.entry["options"].get(name)]
        if missing:
            yield Warning(
                f"Provider {alias} has no {', '.join(missing)}: all its receipts will be refused as forged.",
                hint="The provider's console shows it where signed webhooks are switched on.",
                id="notify.W001",
            )


def is_switched_off(provider: Provider) -> bool:
    """Whether none of the account's credentials is set: nobody means to use it."""
    names: Sequence[str] = provider.entry.get("credentials", ())
    return bool(names) and not any(provider.entry["options"].get(name) for name in names)


def _only_hope(aliases: Sequence[str]) -> str | None:
    """The first of ``aliases`` if all of them are switched off."""
    providers = [provider for alias in aliases if (provider := _loadable(alias)) is not None]
    return providers[0].alias if providers and all(map(is_switched_off, providers)) else None


def _check_public_url() -> Iterator[CheckMessage]:
    parts = urlsplit(settings.PUBLIC_URL)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield Warning(
            "PUBLIC_URL is not https: receipts, which name deliveries, would travel in the clear.",
            id="notify.W002",
        )


def _loadable(alias: str) -> Provider | None:
    try:
        return get_provider(alias)
    except (KeyError, TypeError, ImportError, AttributeError):
        return None
