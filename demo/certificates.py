"""A certificate for a stand-in on loopback, which whoever is told of it may trust."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def self_signed(common_name: str, *addresses: str, days: int) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A key and a certificate that it signed itself, good for so many days, and for TLS at these addresses."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if addresses:
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return private, builder.sign(private, hashes.SHA256())


def certificate_with_key(folder: Path, address: str = "127.0.0.1", *, days: int = 30) -> tuple[Path, Path]:
    """Make a certificate that signs itself. Files: certificate and key, for who serves; the certificate alone, for who trusts."""
    private, certificate = self_signed("Replay’s demo", address, days=days)
    public = certificate.public_bytes(serialization.Encoding.PEM)
    key = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both, alone = folder / "datahub.pem", folder / "datahub-ca.pem"
    both.touch(mode=0o600)
    both.write_bytes(public + key)
    alone.write_bytes(public)
    return both, alone
