"""Amazon SNS as the carrier of receipts: what it signs, and where its certificates may lie. Pure.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html
"""

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from apps.providers.adapters import answers
from apps.providers.errors import ForgedReceipt

NOTIFICATION = "Notification"
CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
# A delivery policy may go on for an hour: https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html
SIGNATURE_TOLERANCE_S = 2 * 3_600
CLOCK_SKEW_S = 300
TOPIC_ARN = re.compile(r"arn:aws(?:-cn|-us-gov)?:sns:([a-z]{2}(?:-[a-z]+){1,2}-\d):\d{12}:[A-Za-z0-9_-]{1,256}")
_CERTIFICATE_PATH = re.compile(r"(?:/[a-z]+)?/SimpleNotificationService-[0-9a-f]{16,64}\.pem")
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    **dict.fromkeys(CONFIRMATIONS, ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 (SNS's older one)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe: the topics we subscribed to, and hosts (with port) beside SNS's own, for a local stand-in."""

    topic_arns: Collection[str]
    extra_hosts: Collection[str] = ()


def read_envelope(body: bytes) -> Mapping[str, str]:
    """The text fields of a call; empty for what is no JSON object."""
    return {name: value for name, value in answers.read_object(body).items() if isinstance(value, str)}


def find_certificate_url(envelope: Mapping[str, str], trust: Trust) -> str | None:
    """Where the certificate lies, if the topic is ours and the place SNS's in the topic's region."""
    url = envelope.get("SigningCertURL", "")
    path = _path_if_pinned(url, envelope, trust)
    return url if path is not None and _CERTIFICATE_PATH.fullmatch(path) and "?" not in url else None


def find_subscribe_url(envelope: Mapping[str, str], trust: Trust) -> str | None:
    """What to GET to confirm the subscription that a verified call offers."""
    url = envelope.get("SubscribeURL", "")
    if envelope.get("Type") != "SubscriptionConfirmation" or _path_if_pinned(url, envelope, trust) is None:
        return None
    query = parse_qs(urlsplit(url).query)
    wanted = {"Action": ["ConfirmSubscription"], "TopicArn": [envelope["TopicArn"]]}
    return url if all(query.get(name) == value for name, value in wanted.items()) else None


def verify(envelope: Mapping[str, str], certificate: bytes, now: datetime) -> None:
    """Raises ``ForgedReceipt`` unless the key of ``certificate`` (PEM) signed the call, not long ago."""
    names = _SIGNED.get(envelope.get("Type", ""))
    if names is None or any(name not in envelope for name in names if name != "Subject"):
        raise ForgedReceipt("the call lacks fields that SNS signs")
    algorithm = _HASHES.get(envelope.get("SignatureVersion", ""))
    if algorithm is None:
        raise ForgedReceipt("SignatureVersion is neither 1 nor 2")
    text = "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)
    try:
        key = _load_key(certificate, now)
        signature = base64.b64decode(envelope.get("Signature", ""), validate=True)
        key.verify(signature, text.encode(errors="replace"), padding.PKCS1v15(), algorithm)
    except (binascii.Error, ValueError, InvalidSignature, UnsupportedAlgorithm):
        raise ForgedReceipt("the signature is missing or wrong") from None
    if not _is_fresh(envelope["Timestamp"], now):
        raise ForgedReceipt("the call is too old, or one of our clocks is wrong")


def _load_key(certificate: bytes, now: datetime) -> rsa.RSAPublicKey:
    loaded = x509.load_pem_x509_certificate(certificate)
    key = loaded.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not loaded.not_valid_before_utc <= now <= loaded.not_valid_after_utc:
        raise ValueError("not a valid RSA certificate")
    return key


def _is_fresh(timestamp: str, now: datetime) -> bool:
    moment = answers.as_iso_moment(timestamp, now + timedelta(days=1))
    return moment is not None and -CLOCK_SKEW_S <= (now - moment).total_seconds() <= SIGNATURE_TOLERANCE_S


def _path_if_pinned(url: str, envelope: Mapping[str, str], trust: Trust) -> str | None:
    """The path of ``url`` if it leads, over https, to SNS in the region of one of our topics."""
    topic_arn = envelope.get("TopicArn", "")
    match = TOPIC_ARN.fullmatch(topic_arn)
    if match is None or topic_arn not in trust.topic_arns or not answers.is_clean(url) or " " in url:
        return None
    host = f"sns.{match[1]}.amazonaws.com" + (".cn" if match[1].startswith("cn-") else "")
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    is_pinned = parts.scheme == "https" and parts.netloc in {host, *trust.extra_hosts}
    return parts.path if is_pinned and not parts.fragment else None
