"""A private certificate authority and a server certificate for the loopback names, renewed before they expire."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apps.providers.sandbox.files import write_private, write_public

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=397)  # CA/Browser Forum ballot SC22: some clients refuse longer ones
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(hours=1)  # tolerates a peer whose clock is a little behind
DNS_NAMES = ("localhost", "sandbox")
IP_ADDRESSES = ("127.0.0.1", "::1")


def ensure_certificates(data_dir: Path, *, now: datetime | None = None) -> None:
    """Leaves ``ca.pem``, ``server.pem`` and ``server-key.pem`` in ``data_dir``, valid for at least 30 more days.

    What is still good is kept, so that clients which already trust the authority go on doing so.
    """
    moment = now or datetime.now(UTC)
    authority = _load_pair(data_dir / "ca.pem", data_dir / "ca-key.pem", moment)
    if authority is None:
        authority = _create_authority(moment)
        _store_pair(data_dir / "ca.pem", data_dir / "ca-key.pem", *authority)
    server = _load_pair(data_dir / "server.pem", data_dir / "server-key.pem", moment)
    if server is None or not _is_issued_by(server[0], authority[0]):
        _store_pair(data_dir / "server.pem", data_dir / "server-key.pem", *_create_server(authority, moment))


Pair = tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]


def _load_pair(certificate_path: Path, key_path: Path, now: datetime) -> Pair | None:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE:
        return None
    return certificate, key


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # the library raises several unrelated types; all of them mean "no"
        return False
    return True


def _store_pair(
    certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes
) -> None:
    write_public(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
    write_private(
        key_path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _builder(subject: str, issuer: x509.Name | None, now: datetime, lifetime: timedelta) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _create_authority(now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("Notify sandbox CA", None, now, CA_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _create_server(authority: Pair, now: datetime) -> Pair:
    ca_certificate, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in DNS_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in IP_ADDRESSES]
    certificate = (
        _builder("localhost", ca_certificate.subject, now, SERVER_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key
