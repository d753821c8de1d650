"""An Amazon SES account that never existed, and what SES and SNS would say and sign."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from apps.providers.adapters.ses import SesAdapter
from apps.providers.messages import WebhookCall
from tests.providers.accounts import DELIVERY_ID, NOW, Account, answer

TOPIC_ARN = "arn:aws:sns:eu-central-1:123456789012:mail-events"
CERTIFICATE_URL = (
    "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
)
SUBSCRIBE_URL = (
    f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC_ARN}&Token=2336412f37"
)
# https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html
NOTIFICATION_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION_FIELDS = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


def ses_options(**changes: object) -> dict[str, Any]:
    return {
        "base_url": "https://ses.example.com",
        "region": "eu-central-1",
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",  # the example key of Amazon's documentation
        "secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "from_email": "news@example.com",
        "from_name": "News",
        "configuration_set": "events",
        "topic_arns": [TOPIC_ARN],
        **changes,
    }


@dataclass(frozen=True)
class Signer:
    """A key and its certificate, as SNS has them."""

    key: rsa.RSAPrivateKey
    pem: bytes


@cache
def signer(*, expired: bool = False) -> Signer:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    until = NOW - timedelta(days=1) if expired else NOW + timedelta(days=365)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=365))
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    return Signer(key, certificate.public_bytes(serialization.Encoding.PEM))


def envelope(message: object, *, at: datetime = NOW, **changes: str) -> dict[str, str]:
    """An unsigned call; ``changes`` replace fields."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC_ARN,
        "Subject": "Amazon SES Email Event Notification",
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE_URL,
        **changes,
    }


def confirmation(**changes: str) -> dict[str, str]:
    fields = envelope(
        "You have chosen to subscribe to the topic",
        Type="SubscriptionConfirmation",
        Token="2336412f37",
        SubscribeURL=SUBSCRIBE_URL,
    )
    del fields["Subject"]
    return {**fields, **changes}


def signed(fields: Mapping[str, str], by: Signer | None = None) -> dict[str, str]:
    names = NOTIFICATION_FIELDS if fields["Type"] == "Notification" else CONFIRMATION_FIELDS
    text = ""
    for name in names:
        if name in fields:
            text += name + "\n" + fields[name] + "\n"
    algorithm = hashes.SHA1() if fields["SignatureVersion"] == "1" else hashes.SHA256()
    signature = (by or signer()).key.sign(text.encode(), padding.PKCS1v15(), algorithm)
    return {**fields, "Signature": base64.b64encode(signature).decode()}


def sns_call(fields: Mapping[str, str], by: Signer | None = None) -> WebhookCall:
    """What SNS posts, with the certificate that the control plane would have fetched."""
    headers = {"content-type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": fields["Type"]}
    certificates = {CERTIFICATE_URL: signer().pem}
    body = json.dumps(signed(fields, by)).encode()
    return WebhookCall("https://notify.example.com/v1/webhooks/ses", headers, body, certificates)


def event(name: str = "Delivery", **members: object) -> dict[str, Any]:
    """https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html"""
    if name == "Delivery" and not members:
        members = {
            "delivery": {
                "timestamp": "2026-11-22T11:59:58.123Z",
                "processingTimeMillis": 1_200,
                "recipients": ["person@example.com"],
                "smtpResponse": "250 delivered",
                "reportingMTA": "mta.example.com",
            }
        }
    return {
        "eventType": name,
        "mail": {
            "timestamp": "2026-11-22T11:59:57.000Z",
            "source": "News <news@example.com>",
            "messageId": "0107019ab1c20000-00000000-0000-7000-8000-000000000001-000000",
            "destination": ["person@example.com"],
            "tags": {"ses:configuration-set": ["events"], "delivery_id": [DELIVERY_ID]},
        },
        **members,
    }


ACCOUNTS = (
    Account(
        name="ses",
        make=lambda **changes: SesAdapter("ses", ses_options(**changes)),
        required_options=("base_url", "region", "access_key_id", "secret_access_key", "from_email"),
        address=lambda number: f"person{number}@example.com",
        bad_address="person\r\nbcc: other@example.com",
        accepted=answer(200, {"MessageId": "0107019ab1c20000-00000000-0000-7000-8000-000000000001-000000"}),
        receipt=sns_call(envelope(event())),
        keyless={"topic_arns": ""},
        is_signed_in_body=True,
    ),
)
