"""Vonage accounts that never existed, and what Vonage would say and sign."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from apps.providers.adapters.vonage import VonageAdapter
from apps.providers.adapters.vonage_messages import VonageMessagesAdapter
from apps.providers.messages import WebhookCall
from tests.providers.accounts import DELIVERY_ID, NOW, Account, answer, rsa_pem

API_KEY = "abcd1234"
APPLICATION_ID = "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab"
SIGNATURE_SECRET = "signature-secret"
FORM = "application/x-www-form-urlencoded"


def vonage_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://vonage.example.com",
        "api_key": API_KEY,
        "api_secret": "api-secret",
        "sender": "+15005550006",
        "signature_secret": SIGNATURE_SECRET,
        **changes,
    }


def messages_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://vonage_messages.example.com",
        "application_id": APPLICATION_ID,
        "private_key": rsa_pem(),
        "api_key": API_KEY,
        "sender": "15005550006",
        "signature_secret": SIGNATURE_SECRET,
        **changes,
    }


def signature(fields: Mapping[str, str], method: str = "sha256", secret: str = SIGNATURE_SECRET) -> str:
    """https://developer.vonage.com/en/getting-started/concepts/signing-messages, written down anew."""
    text = ""
    for name in sorted(fields):
        text += "&" + name + "=" + fields[name].replace("&", "_").replace("=", "_")
    if method == "md5hash":
        return hashlib.md5((text + secret).encode()).hexdigest()
    return hmac.new(secret.encode(), text.encode(), method).hexdigest().upper()


def sms_call(*, at: datetime = NOW, content_type: str = "application/json", **fields: str) -> WebhookCall:
    """A signed call with ``fields``, whose underscores stand for Vonage's hyphens."""
    sent = {
        **{name.replace("_", "-"): value for name, value in fields.items()},
        "timestamp": str(int(at.timestamp())),
        "nonce": "ec11dd3e-1e7f-4db5-9467-82b02cd223b9",
    }
    return signed_call({**sent, "sig": signature(sent)}, content_type)


def signed_call(fields: Mapping[str, str], content_type: str = "application/json") -> WebhookCall:
    body = urlencode(fields).encode() if content_type == FORM else json.dumps(fields).encode()
    return WebhookCall("https://notify.example.com/v1/webhooks/vonage", {"content-type": content_type}, body)


def delivery_receipt(**changes: str) -> WebhookCall:
    return sms_call(
        **{
            "msisdn": "15005551234",
            "to": "15005550006",
            "network_code": "12345",
            "messageId": "0A0000001234567B",
            "price": "0.03330000",
            "status": "delivered",
            "scts": "2611221159",
            "err_code": "0",
            "api_key": API_KEY,
            "client_ref": DELIVERY_ID,
            "message_timestamp": "2026-11-22 11:59:58",
            **changes,
        }
    )


def messages_call(
    content: object, *, at: datetime = NOW, secret: str = SIGNATURE_SECRET, alg: str = "HS256", **claims: object
) -> WebhookCall:
    """https://developer.vonage.com/en/messages/concepts/signed-webhooks"""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    payload = {
        "iat": int(at.timestamp()),
        "jti": "c5ba8f24-1a14-4c10-bfdf-3fbe8ce511b5",
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": API_KEY,
        "application_id": APPLICATION_ID,
        **claims,
    }
    signed = f"{_encode({'alg': alg, 'typ': 'JWT'})}.{_encode(payload)}"
    mac = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed.encode(), "sha256")).rstrip(b"=").decode()
    headers = {"authorization": f"Bearer {signed}.{mac}", "content-type": "application/json"}
    return WebhookCall("https://notify.example.com/v1/webhooks/vonage_messages", headers, body)


def _encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def status_content(**changes: object) -> dict[str, Any]:
    return {
        "message_uuid": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab",
        "to": "15005551234",
        "from": "15005550006",
        "timestamp": "2026-11-22T11:59:58.000Z",
        "status": "delivered",
        "channel": "sms",
        "client_ref": DELIVERY_ID,
        "usage": {"currency": "EUR", "price": "0.0333"},
        "sms": {"count_total": "1"},
        **changes,
    }


ACCOUNTS = (
    Account(
        name="vonage",
        make=lambda **changes: VonageAdapter("vonage", vonage_options(**changes)),
        required_options=("base_url", "api_key", "api_secret", "sender"),
        address=lambda number: f"+1500555{number:04}",
        bad_address="+1500\r\n5550006",
        accepted=answer(200, {"message-count": "1", "messages": [{"status": "0", "message-id": "0A0000000123ABCD1"}]}),
        receipt=delivery_receipt(),
        keyless={"signature_secret": ""},
    ),
    Account(
        name="vonage_messages",
        make=lambda **changes: VonageMessagesAdapter("vonage_messages", messages_options(**changes)),
        required_options=("base_url", "application_id", "private_key", "sender"),
        address=lambda number: f"+1500555{number:04}",
        bad_address="+1500\r\n5550006",
        accepted=answer(202, {"message_uuid": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}),
        receipt=messages_call(status_content()),
        keyless={"signature_secret": ""},
    ),
)
