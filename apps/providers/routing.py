"""Which providers carry a channel."""

from django.conf import settings

from apps.channels import Channel
from apps.providers.registry import Provider, get_provider


def route(channel: Channel) -> list[Provider]:
    """The providers to try for ``channel``, best first (``settings.ROUTES``); empty when the channel has none."""
    return [get_provider(alias) for alias in settings.ROUTES.get(channel.label, ())]
