"""Addresses and tokens that a provider declared dead are retired at once."""

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from apps.channels import Channel
from apps.delivery.outcomes import Claim
from apps.preferences.services import deactivate_device, suppress_address
from apps.providers.errors import InvalidRecipient, ProviderError

log = structlog.get_logger("notify.delivery.hygiene")


def retire_addresses(results: Sequence[tuple[Claim, str, ProviderError | None]], *, used_at: datetime) -> None:
    """Switches off the device, or suppresses the address, of every (claim, user id, error) whose error says that the
    recipient is invalid. ``used_at`` (aware) is when the addresses were read: one set since then is another one."""
    for claim, user_id, error in results:
        if not isinstance(error, InvalidRecipient):
            continue
        reason = f"{error.alias}: {error.code}"
        if claim.device_id is not None:
            dead_since = used_at
            if error.dead_since_ms is not None:
                dead_since = datetime.fromtimestamp(error.dead_since_ms / 1000, UTC)
            deactivate_device(device_id=claim.device_id, dead_since=dead_since, reason=reason)
        else:
            channel = Channel(claim.channel)
            suppress_address(channel=channel, user_id=user_id, source=error.alias, reason=reason, used_at=used_at)
        log.info("address_retired", delivery_id=str(claim.id), provider=error.alias, code=error.code)
