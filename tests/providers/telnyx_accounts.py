"""A Telnyx account that never existed, and what Telnyx would say and sign."""

import base64
import json
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.providers.adapters.telnyx import TelnyxAdapter
from apps.providers.messages import WebhookCall
from tests.providers.accounts import DELIVERY_ID, NOW, Account, answer


@cache
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def make(**changes: object) -> TelnyxAdapter:
    public_key = base64.b64encode(signing_key().public_key().public_bytes_raw()).decode()
    options = {
        "base_url": "https://telnyx.example.com",
        "api_key": "KEY0123456789",
        "sender": "+15005550001",
        "public_key": public_key,
        **changes,
    }
    return TelnyxAdapter("telnyx", options)


def telnyx_event(status: str, event_type: str = "message.finalized", *, code: str = "") -> dict[str, Any]:
    """https://developers.telnyx.com/api-reference/callbacks/delivery-update"""
    return {
        "record_type": "event",
        "id": "event-1",
        "event_type": event_type,
        "occurred_at": (NOW - timedelta(seconds=1)).isoformat(),
        "payload": {
            "id": "m-1",
            "to": [{"phone_number": "+15005550006", "status": status}],
            "tags": [DELIVERY_ID],
            "errors": [{"code": code, "title": "…"}] if code else [],
        },
    }


def telnyx_call(event: dict[str, Any], *, at: datetime = NOW) -> WebhookCall:
    body, timestamp = json.dumps({"data": event}).encode(), str(int(at.timestamp()))
    signature = signing_key().sign(f"{timestamp}|".encode() + body)
    headers = {"telnyx-timestamp": timestamp, "telnyx-signature-ed25519": base64.b64encode(signature).decode()}
    return WebhookCall("https://notify.example.com/v1/webhooks/telnyx", headers, body)


ACCOUNTS = (
    Account(
        name="telnyx",
        make=make,
        required_options=("base_url", "api_key", "sender"),
        address=lambda number: f"+1500555{number:04}",
        bad_address="+1500\r\n5550006",
        accepted=answer(200, {"data": {"id": "m-1"}}),
        receipt=telnyx_call(telnyx_event("delivered")),
        keyless={"public_key": ""},
    ),
)
