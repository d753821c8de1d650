"""What a client asks for when it orders a broadcast, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.channels import Channel
from apps.delivery.broadcasts.windows import SendWindow
from apps.delivery.content import Content

__all__ = ["BroadcastOrder", "SendWindow"]


@dataclass(frozen=True, slots=True)
class BroadcastOrder:
    """A well-formed order. ``audience`` is JSON as ``audience.parse_audience`` accepts it; times are aware.

    ``rate_per_s`` is how many recipients a second are worked on at most, over all channels; ``canary_share`` of the
    recipients get it first; beyond ``max_error_rate`` failed deliveries it halts. Both are shares between 0 and 1."""

    client_id: int
    name: str
    type: str
    category: str
    channels: tuple[Channel, ...]
    content: Content
    audience: Mapping[str, Any]
    trace_id: str
    send_at: datetime | None = None
    expires_at: datetime | None = None
    rate_per_s: int | None = None
    send_window: SendWindow | None = None
    canary_share: float = 0.0
    max_error_rate: float | None = None
