"""APNs and VAPID accounts that never existed, and a browser's subscription."""

import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from apps.providers import es256
from apps.providers.adapters.apns import ApnsAdapter
from apps.providers.adapters.webpush import WebPushAdapter
from apps.providers.messages import WebhookCall
from tests.providers.accounts import ACK_KEY, DELIVERY_ID, Account, answer, fcm_ack

BROWSER_SECRET = bytes(range(16))


@cache
def p256_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def p256_pem() -> str:
    return pem_of(p256_key())


def pem_of(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return text.decode()


def apns_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://apns.example.com",
        "key": p256_pem(),
        "key_id": "ABC123DEFG",
        "team_id": "DEF123GHIJ",
        "topic": "com.example.app",
        "ack_key": ACK_KEY,
        **changes,
    }


def webpush_options(**changes: object) -> dict[str, Any]:
    return {
        "vapid_private_key": p256_pem(),
        "subject": "mailto:operations@example.com",
        "allowed_hosts": ["webpush.example.com"],
        "ack_key": ACK_KEY,
        **changes,
    }


@cache
def browser_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def subscription_keys(**changes: object) -> dict[str, Any]:
    return {
        "p256dh": es256.encode_base64url(es256.public_point(browser_key())),
        "auth": es256.encode_base64url(BROWSER_SECRET),
        **changes,
    }


def subscription(number: int = 1, **changes: object) -> str:
    """What a browser hands out; its private half is ``browser_key``."""
    fields = {
        "endpoint": f"https://webpush.example.com/p/{number}",
        "expirationTime": None,
        "keys": subscription_keys(),
        **changes,
    }
    return json.dumps(fields, separators=(",", ":"))


def device_ack(alias: str, **changes: object) -> WebhookCall:
    return replace(fcm_ack(**changes), url=f"https://notify.example.com/v1/webhooks/{alias}")


ACCOUNTS = (
    Account(
        name="apns",
        make=lambda **changes: ApnsAdapter("apns", apns_options(**changes)),
        required_options=("base_url", "key", "key_id", "team_id", "topic"),
        address=lambda number: f"{number:064x}",
        bad_address="a token\r\nwith: lines",
        accepted=answer(200, b"", {"apns-id": DELIVERY_ID}),
        receipt=device_ack("apns"),
        keyless={"ack_key": ""},
        is_signed_in_body=True,
    ),
    Account(
        name="webpush",
        make=lambda **changes: WebPushAdapter("webpush", webpush_options(**changes)),
        required_options=("vapid_private_key", "subject", "allowed_hosts"),
        address=subscription,
        bad_address="{a subscription\r\nwith: lines}",
        accepted=answer(201, b"", {"location": "https://webpush.example.com/m/0:1500%e609"}),
        receipt=device_ack("webpush"),
        keyless={"ack_key": ""},
        is_signed_in_body=True,
        ended=frozenset({404, 410}),
    ),
)
