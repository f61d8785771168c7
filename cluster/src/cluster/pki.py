"""Certificates, keys and kubeconfigs of the one-machine cluster."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster import layout

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate to be: file name, authority that signs it, subject and addresses."""

    name: str
    authority: str
    common_name: str
    organization: str = ""
    hosts: tuple[str, ...] = ()


# The subjects are those the API server's RBAC knows; source: Kubernetes, "PKI certificates
# and requirements".
LEAVES = (
    Leaf("etcd-server", "etcd-ca", "etcd", hosts=("localhost", "127.0.0.1")),
    Leaf("etcd-client", "etcd-ca", "kube-apiserver-etcd-client"),
    Leaf(
        "apiserver",
        "ca",
        "kube-apiserver",
        hosts=(
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            layout.API_SERVICE_ADDRESS,
            layout.NODE_ADDRESS,
            "127.0.0.1",
        ),
    ),
    Leaf("apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", "system:masters"),
    Leaf("front-proxy-client", "front-proxy-ca", "front-proxy-client"),
    Leaf("controller-manager", "ca", "system:kube-controller-manager"),
    Leaf("scheduler", "ca", "system:kube-scheduler"),
    Leaf("kube-proxy", "ca", "system:kube-proxy"),
    Leaf("kubelet-client", "ca", f"system:node:{layout.NODE_NAME}", "system:nodes"),
    Leaf("kubelet-server", "ca", layout.NODE_NAME, hosts=(layout.NODE_NAME, layout.NODE_ADDRESS)),
    Leaf("admin", "ca", "kubernetes-admin", "system:masters"),
)
KUBECONFIGS = ("controller-manager", "scheduler", "kube-proxy", "kubelet-client", "admin")


def ensure(folder: Path, *, now: datetime | None = None) -> list[str]:
    """Write what is missing or about to expire into ``folder``; return the names written.

    Authorities are kept as long as they last: what they signed stays valid.
    """
    now = now or datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    written: list[str] = []
    for authority in ("ca", "etcd-ca", "front-proxy-ca"):
        if _expires_soon(folder / f"{authority}.crt", now):
            _write_authority(folder, authority, now)
            written.append(authority)
    if not (folder / "service-account.key").is_file():
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(folder / "service-account.key", key)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / "service-account.pub").write_bytes(public)
        written.append("service-account")
    for leaf in LEAVES:
        if leaf.authority in written or _expires_soon(folder / f"{leaf.name}.crt", now):
            _write_leaf(folder, leaf, now)
            written.append(leaf.name)
    for name in KUBECONFIGS:
        if name in written or not (folder / f"{name}.kubeconfig").is_file():
            _private_write(folder / f"{name}.kubeconfig", kubeconfig(folder, name).encode())
    return written


def kubeconfig(folder: Path, name: str) -> str:
    """A kubeconfig that carries its certificates, so that it can be copied anywhere."""

    def data(path: str) -> str:
        return base64.b64encode((folder / path).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "slipway",
                "cluster": {
                    "server": f"https://{layout.NODE_ADDRESS}:{layout.API_PORT}",
                    "certificate-authority-data": data("ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": data(f"{name}.crt"),
                    "client-key-data": data(f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": "slipway", "context": {"cluster": "slipway", "user": name}}],
        "current-context": "slipway",
    }
    return yaml.safe_dump(document, sort_keys=False)


def _expires_soon(path: Path, now: datetime) -> bool:
    if not path.is_file() or not path.with_suffix(".key").is_file():
        return True
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - now < RENEW_BEFORE


def _write_authority(folder: Path, name: str, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"slipway-{name}", "")
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / f"{name}.key", key)
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_leaf(folder: Path, leaf: Leaf, now: datetime) -> None:
    authority = x509.load_pem_x509_certificate((folder / f"{leaf.authority}.crt").read_bytes())
    authority_key = serialization.load_pem_private_key(
        (folder / f"{leaf.authority}.key").read_bytes(), password=None
    )
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{leaf.authority}.key is no elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(
            _subject(leaf.common_name, leaf.organization),
            authority.subject,
            key.public_key(),
            now,
            LEAF_LIFETIME,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    if leaf.hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(_alternative_names(leaf.hosts)), critical=False
        )
    certificate = builder.sign(authority_key, hashes.SHA256())
    _write_key(folder / f"{leaf.name}.key", key)
    (folder / f"{leaf.name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + lifetime)
    )


def _subject(common_name: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _private_write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _private_write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
