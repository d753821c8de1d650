"""The account the sandbox plays: keys and secrets on both sides of the wire, and the env lines the product reads."""

import base64
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.providers.sandbox.certificates import ensure_certificates
from apps.providers.sandbox.files import write_private
from apps.providers.sandbox.sns import SigningKey, ensure_signing_key

PROJECT_ID = "demo-project"
TWILIO_FROM = "+15005550006"  # https://www.twilio.com/docs/iam/test-credentials: the number that may send
FROM_EMAIL = "notify@example.com"
FROM_NAME = "Notify"
SECRETS_FILE = "secrets.json"
APNS_KEY_ID = "SANDBOXKEY"
APNS_TEAM_ID = "SANDBOX123"
APNS_TOPIC = "com.example.app"
WEBPUSH_SUBJECT = f"mailto:{FROM_EMAIL}"
VONAGE_FROM = "15005550006"
VONAGE_APPLICATION_ID = "5a5b0a1e-0000-4000-8000-000000000001"
SES_REGION = "us-east-1"
SES_CONFIGURATION_SET = "sandbox-events"
SES_TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:sandbox-mail-events"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # NIST SP 800-186, 3.2.1.3
SERVICE_ACCOUNT_FILE = "fcm-service-account.json"
APNS_KEY_FILE = "apns-key.p8"
VONAGE_KEY_FILE = "vonage-private-key.pem"
SNS_KEY_FILE = "sns-signing-key.pem"
ENV_FILE = "credentials.env"
SMTP_USER = "sandbox"
TELNYX_FROM = "+15005550006"

_SECRET_SHAPES = {
    "twilio_account_sid": r"AC[0-9a-f]{32}",
    "twilio_auth_token": r"[0-9a-f]{32}",
    "sendgrid_api_key": r"SG\.[\w-]{22}\.[\w-]{43}",
    "fcm_token_key": r"[0-9a-f]{64}",
    "webpush_secret": r"[0-9a-f]{64}",
    "webpush_vapid_key": r"[\w-]{43}",
    "vonage_api_key": r"[0-9a-f]{8}",
    "vonage_api_secret": r"[0-9a-f]{16}",
    "vonage_signature_secret": r"[0-9a-f]{50}",
    "ses_access_key_id": r"AKIA[0-9A-F]{16}",
    "ses_secret_access_key": r"[\w-]{40}",
    "smtp_password": r"[\w-]{32}",
    "telnyx_api_key": r"KEY[0-9A-F]{32}",
    "telnyx_signing_key": r"[0-9a-f]{64}",
}


class UnusableDataDirectoryError(Exception):
    """The data directory lacks what ``serve`` needs; the text says how to mend it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything secret, loaded. ``fcm_token_key`` signs the access tokens, so that they outlive a restart, and from
    ``webpush_secret`` follow the browsers' keys. ``base_url`` is where the providers are, without a last slash."""

    base_url: str
    client_email: str
    fcm_public_key: rsa.RSAPublicKey
    fcm_token_uri: str
    fcm_token_key: bytes
    apns_public_key: ec.EllipticCurvePublicKey
    twilio_account_sid: str
    twilio_auth_token: str
    sendgrid_api_key: str
    sendgrid_webhook_key: ec.EllipticCurvePrivateKey
    webpush_public_key: ec.EllipticCurvePublicKey
    webpush_secret: bytes
    vonage_api_key: str
    vonage_api_secret: str
    vonage_signature_secret: str
    vonage_public_key: rsa.RSAPublicKey
    ses_access_key_id: str
    ses_secret_access_key: str
    sns_signing_key: SigningKey
    smtp_user: str
    smtp_password: str
    telnyx_api_key: str
    telnyx_signing_key: Ed25519PrivateKey
    webhook_base: str


def initialise(data_dir: Path, *, port: int, webhook_base: str, smtp_port: int = 0) -> None:
    """Fills ``data_dir`` with certificates, keys and ``credentials.env``. Safe to repeat: keys are kept. Without
    ``smtp_port`` there is no mail server."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_certificates(data_dir)
    base_url = f"https://127.0.0.1:{port}"
    service_account = _ensure_service_account(data_dir / SERVICE_ACCOUNT_FILE, f"{base_url}/fcm/token")
    _ensure_apns_key(data_dir / APNS_KEY_FILE)
    _ensure_vonage_key(data_dir / VONAGE_KEY_FILE)
    ensure_signing_key(data_dir / SNS_KEY_FILE)
    values = _ensure_secrets(data_dir / SECRETS_FILE, webhook_base)
    env = _render_env(data_dir.resolve(), base_url, service_account, values)
    write_private(data_dir / ENV_FILE, env + (_render_smtp_env(smtp_port, values) if smtp_port else b""))


def load_credentials(data_dir: Path, *, webhook_base: str = "") -> Credentials:
    """What ``initialise`` left in ``data_dir``, with another ``webhook_base`` if given.

    Raises ``UnusableDataDirectoryError``."""
    try:
        account = json.loads((data_dir / SERVICE_ACCOUNT_FILE).read_bytes())
        values = json.loads((data_dir / SECRETS_FILE).read_bytes())
        return Credentials(
            base_url=account["token_uri"].removesuffix("/fcm/token"),
            client_email=account["client_email"],
            fcm_public_key=_load_rsa(account["private_key"]).public_key(),
            fcm_token_uri=account["token_uri"],
            fcm_token_key=bytes.fromhex(values["fcm_token_key"]),
            apns_public_key=_load_ec((data_dir / APNS_KEY_FILE).read_text()).public_key(),
            twilio_account_sid=values["twilio_account_sid"],
            twilio_auth_token=values["twilio_auth_token"],
            sendgrid_api_key=values["sendgrid_api_key"],
            sendgrid_webhook_key=_load_ec(values["sendgrid_webhook_key"]),
            webpush_public_key=_load_vapid_key(values["webpush_vapid_key"]).public_key(),
            webpush_secret=bytes.fromhex(values["webpush_secret"]),
            vonage_api_key=values["vonage_api_key"],
            vonage_api_secret=values["vonage_api_secret"],
            vonage_signature_secret=values["vonage_signature_secret"],
            vonage_public_key=_load_rsa((data_dir / VONAGE_KEY_FILE).read_text()).public_key(),
            ses_access_key_id=values["ses_access_key_id"],
            ses_secret_access_key=values["ses_secret_access_key"],
            sns_signing_key=SigningKey((data_dir / SNS_KEY_FILE).read_bytes()),
            smtp_user=SMTP_USER,
            smtp_password=values["smtp_password"],
            telnyx_api_key=values["telnyx_api_key"],
            telnyx_signing_key=_load_ed25519(values["telnyx_signing_key"]),
            webhook_base=webhook_base.rstrip("/") or values["webhook_base"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableDataDirectoryError(
            f"{data_dir} holds no usable sandbox credentials: run `python -m apps.providers.sandbox init` first"
        ) from error


def _ensure_service_account(path: Path, token_uri: str) -> dict[str, Any]:
    """The service-account file as the Firebase console hands it out, with our own token endpoint."""
    account = _read_json(path)
    try:
        _load_rsa(account["private_key"])
    except (KeyError, ValueError, TypeError):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {"private_key_id": secrets.token_hex(20), "private_key": _pem(key)}
    account |= {
        "type": "service_account",
        "project_id": PROJECT_ID,
        "client_email": f"sandbox@{PROJECT_ID}.iam.gserviceaccount.com",
        "client_id": "100000000000000000001",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    }
    write_private(path, json.dumps(account, indent=2).encode())
    return account


def _ensure_apns_key(path: Path) -> None:
    """The key as the developer account hands it out."""
    try:
        _load_ec(path.read_text())
    except (OSError, ValueError, TypeError):
        write_private(path, _pem(ec.generate_private_key(ec.SECP256R1())).encode())


def _ensure_vonage_key(path: Path) -> None:
    """The key of an application as the dashboard hands it out."""
    try:
        _load_rsa(path.read_text())
    except (OSError, ValueError, TypeError):
        write_private(path, _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).encode())


def _ensure_secrets(path: Path, webhook_base: str) -> dict[str, str]:
    values = _read_json(path)
    fresh = {
        "twilio_account_sid": f"AC{secrets.token_hex(16)}",
        "twilio_auth_token": secrets.token_hex(16),
        "sendgrid_api_key": f"SG.{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}",
        "fcm_token_key": secrets.token_hex(32),
        "webpush_secret": secrets.token_hex(32),
        "webpush_vapid_key": _make_vapid_key(),
        "vonage_api_key": secrets.token_hex(4),
        "vonage_api_secret": secrets.token_hex(8),
        "vonage_signature_secret": secrets.token_hex(25),
        "ses_access_key_id": f"AKIA{secrets.token_hex(8).upper()}",
        "ses_secret_access_key": secrets.token_urlsafe(30),
        "smtp_password": secrets.token_urlsafe(24),
        "telnyx_api_key": f"KEY{secrets.token_hex(16).upper()}",
        "telnyx_signing_key": secrets.token_hex(32),
    }
    kept = {
        name: values[name]
        for name, shape in _SECRET_SHAPES.items()
        if isinstance(values.get(name), str) and re.fullmatch(shape, values[name])
    }
    webhook_key = values.get("sendgrid_webhook_key", "")
    try:
        _load_ec(webhook_key)
    except (ValueError, TypeError, AttributeError):
        webhook_key = _pem(ec.generate_private_key(ec.SECP256R1()))
    values = {**fresh, **kept, "sendgrid_webhook_key": webhook_key, "webhook_base": webhook_base.rstrip("/")}
    write_private(path, json.dumps(values, indent=2).encode())
    return values


def _render_env(data_dir: Path, base_url: str, account: dict[str, Any], values: dict[str, str]) -> bytes:
    # SendGrid's console shows the verification key as base64 of the DER public key.
    public_key = _load_ec(values["sendgrid_webhook_key"]).public_key()
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    lines = {
        "PROVIDER_CA_FILE": data_dir / "ca.pem",
        "FCM_BASE_URL": f"{base_url}/fcm",
        "FCM_SERVICE_ACCOUNT_FILE": data_dir / SERVICE_ACCOUNT_FILE,
        "APNS_BASE_URL": f"{base_url}/apns",
        "APNS_KEY_FILE": data_dir / APNS_KEY_FILE,
        "APNS_KEY_ID": APNS_KEY_ID,
        "APNS_TEAM_ID": APNS_TEAM_ID,
        "APNS_TOPIC": APNS_TOPIC,
        "TWILIO_BASE_URL": f"{base_url}/twilio",
        "TWILIO_ACCOUNT_SID": values["twilio_account_sid"],
        "TWILIO_AUTH_TOKEN": values["twilio_auth_token"],
        "TWILIO_FROM": TWILIO_FROM,
        "SENDGRID_BASE_URL": f"{base_url}/sendgrid",
        "SENDGRID_API_KEY": values["sendgrid_api_key"],
        "SENDGRID_FROM_EMAIL": FROM_EMAIL,
        "SENDGRID_FROM_NAME": FROM_NAME,
        "SENDGRID_WEBHOOK_PUBLIC_KEY": base64.b64encode(der).decode(),
        "WEBPUSH_VAPID_PRIVATE_KEY": values["webpush_vapid_key"],
        "WEBPUSH_SUBJECT": WEBPUSH_SUBJECT,
        "WEBPUSH_ALLOWED_HOSTS": base_url.removeprefix("https://"),
        "VONAGE_BASE_URL": f"{base_url}/vonage",
        "VONAGE_MESSAGES_BASE_URL": f"{base_url}/vonage_messages",
        "VONAGE_API_KEY": values["vonage_api_key"],
        "VONAGE_API_SECRET": values["vonage_api_secret"],
        "VONAGE_SIGNATURE_SECRET": values["vonage_signature_secret"],
        "VONAGE_FROM": VONAGE_FROM,
        "VONAGE_APPLICATION_ID": VONAGE_APPLICATION_ID,
        "VONAGE_PRIVATE_KEY_FILE": data_dir / VONAGE_KEY_FILE,
        "TELNYX_BASE_URL": f"{base_url}/telnyx",
        "TELNYX_API_KEY": values["telnyx_api_key"],
        "TELNYX_FROM": TELNYX_FROM,
        "TELNYX_PUBLIC_KEY": base64.b64encode(
            _load_ed25519(values["telnyx_signing_key"]).public_key().public_bytes_raw()
        ).decode(),
        "SES_BASE_URL": f"{base_url}/ses",
        "SES_REGION": SES_REGION,
        "SES_ACCESS_KEY_ID": values["ses_access_key_id"],
        "SES_SECRET_ACCESS_KEY": values["ses_secret_access_key"],
        "SES_FROM_EMAIL": FROM_EMAIL,
        "SES_FROM_NAME": FROM_NAME,
        "SES_CONFIGURATION_SET": SES_CONFIGURATION_SET,
        "SES_SNS_TOPIC_ARNS": SES_TOPIC_ARN,
        "SES_SNS_CERT_HOSTS": base_url.removeprefix("https://"),
    }
    return _render(lines)


def _render_smtp_env(port: int, values: dict[str, str]) -> bytes:
    return _render(
        {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": port,
            "SMTP_TLS": "starttls",
            "SMTP_USER": SMTP_USER,
            "SMTP_PASSWORD": values["smtp_password"],
            "SMTP_FROM_EMAIL": FROM_EMAIL,
            "SMTP_FROM_NAME": FROM_NAME,
        }
    )


def _render(lines: Mapping[str, object]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in lines.items()).encode()


def encode_base64url(raw: bytes) -> str:
    """Without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _make_vapid_key() -> str:
    """A private key as the usual tools write it: 32 bytes as base64url."""
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return encode_base64url(number.to_bytes(32, "big"))


def _load_vapid_key(text: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(base64.urlsafe_b64decode(f"{text}="), "big"), ec.SECP256R1())


def _load_ed25519(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _load_rsa(pem: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA private key")
    return key


def _load_ec(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC private key")
    return key
