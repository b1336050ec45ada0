"""The certificates by which the parts of a cluster know each other. They live as long as the test run."""

import base64
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=2)


@dataclass(frozen=True)
class Identity:
    """A private key, and the certificate that says whose it is; both as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """Signs all other certificates of one cluster."""

    private: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> Self:
        private = ec.generate_private_key(ec.SECP256R1())
        name = _name("authority of a test cluster")
        usage = x509.KeyUsage(
            key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            _builder(name, name, private.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(private, builder.sign(private, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, name: str, *, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> Identity:
        """For a program that answers at those names and addresses."""
        known: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
        known += [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
        return self._issue(_name(name), ExtendedKeyUsageOID.SERVER_AUTH, known)

    def client(self, user: str, group: str | None = None) -> Identity:
        """For one who asks; Kubernetes takes the certificate's names for the user's and the group's."""
        return self._issue(_name(user, group), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(self, name: x509.Name, purpose: x509.ObjectIdentifier, known: list[x509.GeneralName]) -> Identity:
        private = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name, self.certificate.subject, private.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if known:
            builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
        signed = builder.sign(self.private, hashes.SHA256())
        return Identity(signed.public_bytes(serialization.Encoding.PEM), private_pem(private))


def private_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    """As Kubernetes reads it."""
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def signing_key() -> Identity:
    """The key by which tokens of service accounts are signed; in the certificate's place its public half."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Identity(public, private_pem(private))


def kubeconfig(server: str, authority: Authority, who: Identity) -> str:
    """A file for clients that names no other file. It is JSON, which is YAML too."""

    def text(content: bytes) -> str:
        return base64.b64encode(content).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "tests", "cluster": {"server": server, "certificate-authority-data": text(authority.pem)}}
            ],
            "users": [
                {
                    "name": "user",
                    "user": {"client-certificate-data": text(who.certificate), "client-key-data": text(who.key)},
                }
            ],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
            "current-context": "tests",
        }
    )


def _name(name: str, group: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if group is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(attributes)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
    )
