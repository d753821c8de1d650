"""Amazon SNS: signs what it posts, shows its certificate, and waits for subscriptions to be confirmed.

https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
"""

import base64
import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from apps.providers.sandbox.files import write_private
from apps.providers.sandbox.posting import Call

CERTIFICATE_LIFETIME = timedelta(days=3_650)
RENEW_BEFORE = timedelta(days=30)
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


class SigningKey:
    """A key and its certificate, both in one PEM file."""

    def __init__(self, pem: bytes) -> None:
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("not an RSA private key")
        self.key = key
        self.certificate = x509.load_pem_x509_certificate(pem)
        self.certificate_pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        digest = hashlib.sha256(self.certificate_pem).hexdigest()[:32]
        self.certificate_name = f"SimpleNotificationService-{digest}.pem"


def ensure_signing_key(path: Path) -> None:
    """Leaves a key in ``path`` whose certificate is valid for at least 30 more days."""
    now = datetime.now(UTC)
    try:
        if SigningKey(path.read_bytes()).certificate.not_valid_after_utc - RENEW_BEFORE > now:
            return
    except (OSError, ValueError):
        pass
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + CERTIFICATE_LIFETIME)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, private + certificate.public_bytes(serialization.Encoding.PEM))


class Topic:
    """One topic with one subscription, confirmed from the start. ``base_url`` is where SNS itself is reached."""

    def __init__(self, arn: str, signing_key: SigningKey, base_url: str) -> None:
        self.arn = arn
        self.is_confirmed = True
        self._token = ""
        self._signing_key = signing_key
        self._base_url = base_url

    def read_certificate(self, name: str) -> bytes | None:
        return self._signing_key.certificate_pem if name == self._signing_key.certificate_name else None

    def ask_for_confirmation(self) -> dict[str, Any]:
        """Takes the subscription back; the fields of the call that offers it anew."""
        self.is_confirmed = False
        self._token = uuid.uuid4().hex * 4
        query = urlencode({"Action": "ConfirmSubscription", "TopicArn": self.arn, "Token": self._token})
        return {
            "Type": "SubscriptionConfirmation",
            "Token": self._token,
            "Message": f"You have chosen to subscribe to the topic {self.arn}.\n"
            "To confirm the subscription, visit the SubscribeURL included in this message.",
            "SubscribeURL": f"{self._base_url}/?{query}",
        }

    def confirm(self, query: Mapping[str, str]) -> bytes | None:
        """The answer to ``ConfirmSubscription``; ``None`` for a wrong token."""
        if not self._token or query.get("Token") != self._token or query.get("TopicArn") != self.arn:
            return None
        self.is_confirmed = True
        return (
            '<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>'
            f"<SubscriptionArn>{self.arn}:{uuid.uuid4()}</SubscriptionArn></ConfirmSubscriptionResult>"
            f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></ConfirmSubscriptionResponse>"
        ).encode()

    def build_call(self, fields: Mapping[str, str], message_id: str, url: str, *, is_forged: bool) -> Call:
        """The signed POST of ``fields`` to ``url``."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        envelope = {**fields, "MessageId": message_id, "TopicArn": self.arn, "Timestamp": moment}
        names = _NOTIFICATION if envelope["Type"] == "Notification" else _CONFIRMATION
        text = "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)
        if is_forged:
            text += "forged"
        signature = self._signing_key.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        envelope |= {
            "SignatureVersion": "2",
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": f"{self._base_url}/{self._signing_key.certificate_name}",
        }
        headers = (
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("x-amz-sns-message-type", envelope["Type"]),
            ("x-amz-sns-message-id", message_id),
            ("x-amz-sns-topic-arn", self.arn),
        )
        return Call(url, headers, orjson.dumps(envelope))
