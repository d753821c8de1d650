"""Addresses and tokens that a provider declared dead are retired at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from apps.channels import Channel
from apps.delivery.outcomes import Claim
from apps.preferences.services import deactivate_device, suppress_address
from apps.providers.errors import InvalidRecipient

log = structlog.get_logger("notify.delivery.hygiene")


@dataclass(frozen=True, slots=True)
class DeadAddress:
    """What a provider said about the address of a delivery. ``used_at`` (aware) is when the address was read: one set
    since then is another one."""

    claim: Claim
    user_id: str
    error: InvalidRecipient
    used_at: datetime


def retire_addresses(addresses: Iterable[DeadAddress]) -> None:
    """Switches off the devices and suppresses the addresses. Never raises: what it serves has been sent and recorded,
    and the provider will say so again."""
    for dead in addresses:
        try:
            _retire(dead)
        except Exception:
            log.exception("address_not_retired", delivery_id=str(dead.claim.id), provider=dead.error.alias)


def _retire(dead: DeadAddress) -> None:
    reason = f"{dead.error.alias}: {dead.error.code}"
    if dead.claim.device_id is not None:
        dead_since = dead.used_at
        if dead.error.dead_since_ms is not None:
            dead_since = datetime.fromtimestamp(dead.error.dead_since_ms / 1000, UTC)
        deactivate_device(device_id=dead.claim.device_id, dead_since=dead_since, reason=reason)
    else:
        suppress_address(
            channel=Channel(dead.claim.channel),
            user_id=dead.user_id,
            source=dead.error.alias,
            reason=reason,
            used_at=dead.used_at,
        )
    log.info("address_retired", delivery_id=str(dead.claim.id), provider=dead.error.alias, code=dead.error.code)
