"""Recipients for tests, made through the services as production makes them."""

from collections.abc import Iterable, Mapping
from typing import Any

import factory

from apps.channels import Channel
from apps.preferences import services
from apps.preferences.models import Platform, Recipient


class RecipientFactory(factory.Factory[Recipient]):
    """A recipient with an address on every channel.

    ``devices`` are tokens, or (token, platform) pairs; ``channels`` maps a ``Channel`` to on or off;
    ``email=None`` and the like leave an address out."""

    class Meta:
        model = Recipient

    user_id = factory.Sequence(lambda n: f"user-{n}")
    email = factory.LazyAttribute(lambda fields: f"{fields.user_id}@example.com")
    phone = factory.Sequence(lambda n: f"+1500555{n % 10_000:04}")
    devices = factory.LazyAttribute(lambda fields: [f"token-of-{fields.user_id}"])
    locale = "en-US"
    time_zone = "Europe/Berlin"
    attributes = factory.LazyFunction(dict)
    is_opted_out = False
    channels = factory.LazyFunction(dict)

    @classmethod
    def _create(cls, model_class: type[Recipient], *args: Any, **kwargs: Any) -> Recipient:
        devices: Iterable[str | tuple[str, str]] = kwargs.pop("devices")
        is_opted_out: bool = kwargs.pop("is_opted_out")
        channels: Mapping[Channel, bool] = kwargs.pop("channels")
        recipient, _ = services.upsert_recipient(**kwargs)
        for device in devices:
            token, platform = (device, Platform.ANDROID) if isinstance(device, str) else device
            services.register_device(user_id=recipient.user_id, token=token, platform=platform)
        if is_opted_out or channels:
            services.update_preferences(user_id=recipient.user_id, is_opted_out=is_opted_out, channels=channels)
        recipient.refresh_from_db()
        return recipient
