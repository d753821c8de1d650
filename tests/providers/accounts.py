"""Provider accounts that never existed, and what their providers would say and sign."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from apps.providers.acks import compute_ack
from apps.providers.adapters.fcm import FcmAdapter
from apps.providers.adapters.sendgrid import SendGridAdapter
from apps.providers.adapters.twilio import TwilioAdapter
from apps.providers.base import Adapter
from apps.providers.messages import BuildContext, Message, ProviderResponse, WebhookCall

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONTEXT = BuildContext(now=NOW, access_token="access-token")
DELIVERY_ID = "019ab1c2-0000-7000-8000-000000000001"
ACK_KEY = "ack-key"
ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "auth-token"
TWILIO_WEBHOOK = f"https://notify.example.com/v1/webhooks/twilio?delivery_id={DELIVERY_ID}"


@cache
def rsa_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return _pem(key)


@cache
def webhook_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_key_base64(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def service_account(**changes: object) -> str:
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "example-project",
            "private_key_id": "key-1",
            "private_key": rsa_pem(),
            "client_email": "sender@example-project.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.example.com/token",
            **changes,
        }
    )


def fcm_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://fcm.example.com",
        "service_account": service_account(),
        "address_field": "token",
        "ack_key": ACK_KEY,
        **changes,
    }


def twilio_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://twilio.example.com",
        "account_sid": ACCOUNT_SID,
        "auth_token": AUTH_TOKEN,
        "sender": "+15005550006",
        **changes,
    }


def sendgrid_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://sendgrid.example.com",
        "api_key": "SG.key",
        "from_email": "news@example.com",
        "from_name": "News",
        "webhook_public_key": public_key_base64(webhook_key()),
        **changes,
    }


def message(number: int = 1, *, address: str, **fields: Any) -> Message:
    values = {"title": "Title", "body": "Body", "ack": compute_ack(ACK_KEY, delivery_id(number)), **fields}
    return Message(delivery_id=delivery_id(number), address=address, **values)


def delivery_id(number: int) -> str:
    return f"019ab1c2-0000-7000-8000-{number:012x}"


def answer(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> ProviderResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ProviderResponse(status=status, headers=headers or {}, body=raw, latency_s=0.05)


def fcm_ack(**changes: object) -> WebhookCall:
    fields = {
        "delivery_id": DELIVERY_ID,
        "ack": compute_ack(ACK_KEY, DELIVERY_ID),
        "event": "delivered",
        "at": int(NOW.timestamp() * 1000),
        **changes,
    }
    return WebhookCall("https://notify.example.com/v1/webhooks/fcm", {}, json.dumps(fields).encode())


def twilio_call(fields: Mapping[str, str], url: str = TWILIO_WEBHOOK) -> WebhookCall:
    signed = url + "".join(name + fields[name] for name in sorted(fields))
    return WebhookCall(
        url,
        {"x-twilio-signature": twilio_signature(signed), "content-type": "application/x-www-form-urlencoded"},
        urlencode(fields).encode(),
    )


def twilio_signature(signed: str) -> str:
    return base64.b64encode(hmac.digest(AUTH_TOKEN.encode(), signed.encode(), hashlib.sha1)).decode()


def sendgrid_call(events: object, *, at: datetime = NOW, key: ec.EllipticCurvePrivateKey | None = None) -> WebhookCall:
    body = events if isinstance(events, bytes) else json.dumps(events).encode()
    timestamp = str(int(at.timestamp()))
    signature = (key or webhook_key()).sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return WebhookCall(
        "https://notify.example.com/v1/webhooks/sendgrid",
        {
            "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
            "x-twilio-email-event-webhook-timestamp": timestamp,
        },
        body,
    )


@dataclass(frozen=True)
class Account:
    """What the contract suite needs to know of one provider."""

    name: str
    make: Callable[..., Adapter]
    required_options: tuple[str, ...]
    address: Callable[[int], str]
    bad_address: str
    accepted: ProviderResponse
    receipt: WebhookCall
    keyless: Mapping[str, str]  # options without which no receipt can be verified
    is_signed_in_body: bool = False  # a receipt needs no headers
    ended: frozenset[int] = frozenset()  # statuses that mean a dead address, whatever the body


ACCOUNTS = (
    Account(
        name="fcm",
        make=lambda **changes: FcmAdapter("fcm", fcm_options(**changes)),
        required_options=("base_url", "service_account"),
        address=lambda number: f"token:{number}",
        bad_address="a token\r\nwith: lines",
        accepted=answer(200, {"name": "projects/example-project/messages/1"}),
        receipt=fcm_ack(),
        keyless={"ack_key": ""},
        is_signed_in_body=True,
    ),
    Account(
        name="twilio",
        make=lambda **changes: TwilioAdapter("twilio", twilio_options(**changes)),
        required_options=("base_url", "account_sid", "auth_token", "sender"),
        address=lambda number: f"+1500555{number:04}",
        bad_address="+1500\r\n5550006",
        accepted=answer(201, {"sid": "SM" + "0" * 32, "status": "queued"}),
        receipt=twilio_call({"MessageSid": "SM1", "MessageStatus": "delivered"}),
        keyless={"auth_token": "another"},
    ),
    Account(
        name="sendgrid",
        make=lambda **changes: SendGridAdapter("sendgrid", sendgrid_options(**changes)),
        required_options=("base_url", "api_key", "from_email"),
        address=lambda number: f"person{number}@example.com",
        bad_address="person\r\nbcc: other@example.com",
        accepted=answer(202, b"", {"x-message-id": "14c5d75ce93"}),
        receipt=sendgrid_call(
            [{"event": "delivered", "sg_event_id": "e1", "timestamp": 1_795_000_000, "delivery_id": DELIVERY_ID}]
        ),
        keyless={"webhook_public_key": ""},
    ),
)
