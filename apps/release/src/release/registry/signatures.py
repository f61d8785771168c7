"""Who signed an image: cosign's signatures, by a key of one's own or by a keyless identity.

A key is checked here, over what the registry keeps beside the digest: a Sigstore bundle, as
cosign writes it from version 3 on, or a "simple signing" payload, as it did before. Keyless
signatures need Sigstore's roots and log, which is cosign's own trade: it is run for them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from release import programs
from release.errors import NotFoundError, ReleaseError, UnreachableError
from release.registry.client import Registry, scheme, split
from release.values.references import Image

_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_BUNDLE = re.compile(r"application/vnd\.dev\.sigstore\.bundle\.v0\.3\+json")
# What cosign says of a subject that it signs, beside what else an attestation may say.
_SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_UNREACHABLE = re.compile(r"connection refused|no such host|i/o timeout|deadline exceeded", re.I)
_NONE = re.compile(r"no signatures found|no matching attestations", re.I)


class SignatureError(ReleaseError):
    """An image is signed, but not by whom it must be, or not this image."""


class Signer(Protocol):
    """Whose signature counts."""

    def require(self, registry: Registry, image: Image) -> None:
        """Refuse an image this signer has not signed.

        Raises NotFoundError without any signature, SignatureError with others' only,
        UnreachableError when nobody answers.
        """
        ...


@dataclass(frozen=True)
class Key:
    """The holder of a private key, known by the public one (a PEM file, as cosign writes it)."""

    file: Path

    def require(self, registry: Registry, image: Image) -> None:
        """See `Signer`."""
        key = self._public()
        signatures = [*_bundles(registry, image), *_payloads(registry, image)]
        if not signatures:
            raise unsigned(image)
        named = [one.digest for one in signatures if _signed(key, one.signature, one.content)]
        if not named:
            raise SignatureError(
                f"None of the {len(signatures)} signatures of {image.reference} is by the key in "
                f"{self.file}.",
                fix="sign it with that key, or name the key it was signed with",
            )
        if image.digest not in named:
            raise SignatureError(
                f"What the key in {self.file} signed beside {image.reference} is "
                f"{', '.join(named)}.",
                fix="somebody moved a signature; do not deploy this image",
            )

    def _public(self) -> Any:
        try:
            return serialization.load_pem_public_key(self.file.read_bytes())
        except (OSError, ValueError) as error:
            raise ReleaseError(
                f"{self.file} is no public key that can be read: {error}",
                fix="pass the PEM file that `cosign generate-key-pair` wrote",
            ) from error


@dataclass(frozen=True)
class Identity:
    """Who had a certificate of Sigstore's: a workflow, by its exact name, and who vouched."""

    name: str
    issuer: str

    def require(self, registry: Registry, image: Image) -> None:
        """See `Signer`."""
        host, _ = split(image.repository)
        command = [
            *(programs.find("cosign"), "verify", "--output", "json"),
            *("--certificate-identity", self.name, "--certificate-oidc-issuer", self.issuer),
            *(["--allow-http-registry"] if scheme(host) == "http" else []),
            image.reference,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False,
                timeout=registry.timeout * registry.attempts,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"cosign did not finish in {error.timeout:g} seconds for {image.reference}.",
                fix="check that the registry and Sigstore can be reached",
            ) from error
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split())[-400:]
        if _NONE.search(said):
            raise unsigned(image)
        if _UNREACHABLE.search(said):
            raise UnreachableError(
                f"cosign cannot check {image.reference}: {said}",
                fix="check that the registry and Sigstore can be reached",
            )
        raise SignatureError(
            f"{image.reference} is not signed by {self.name} ({self.issuer}): {said}",
            fix="deploy what the build workflow of main has built and signed",
        )


def signer(key: Path | None, identity: str, issuer: str) -> Signer:
    """Whose signature is asked for.

    Raises ReleaseError when that is nobody, or two.
    """
    if (key is None) == (not identity):
        raise ReleaseError(
            "A signature counts for something only when it is said whose."
            if key is None
            else "Both a key and an identity are named.",
            fix="pass --signature-key FILE, or --signature-identity (and --signature-issuer)",
        )
    return Key(key) if key is not None else Identity(identity, issuer)


def unsigned(image: Image) -> NotFoundError:
    """The error for an image without a signature."""
    return NotFoundError(
        f"{image.reference} carries no signature.", fix="sign it: `make sign IMAGE=…`"
    )


@dataclass(frozen=True)
class _Signature:
    """What was signed, by which signature, and the digest that it names ("" when it names none)."""

    content: bytes
    signature: bytes
    digest: str


def _payloads(registry: Registry, image: Image) -> Iterator[_Signature]:
    """Every simple signing payload at cosign's tag for the digest."""
    answer = registry.manifest(image.repository, image.digest.replace(":", "-") + ".sig")
    if answer.status_code != httpx.codes.OK:
        return
    for layer in answer.json().get("layers", []):
        signature = layer.get("annotations", {}).get(_SIGNATURE, "")
        if layer.get("mediaType") != _PAYLOAD or not signature:
            continue
        blob = _blob(registry, image, layer["digest"])
        if blob is not None:
            yield _Signature(blob, base64.b64decode(signature), _digest(blob))


def _bundles(registry: Registry, image: Image) -> Iterator[_Signature]:
    """Every signature in a Sigstore bundle that refers to the digest.

    Source: https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md and the protocol of
    https://github.com/secure-systems-lab/dsse.
    """
    for manifest in _referrers(registry, image):
        for layer in manifest.get("layers", []):
            if not _BUNDLE.fullmatch(layer.get("mediaType", "")):
                continue
            blob = _blob(registry, image, layer["digest"])
            if blob is not None:
                yield from _of_bundle(blob)


def _referrers(registry: Registry, image: Image) -> Iterator[dict[str, Any]]:
    """The manifests of bundles that refer to the image.

    A registry without the referrers API keeps the list at a tag made of the digest.
    Source: https://github.com/opencontainers/distribution-spec, "Listing Referrers".
    """
    answer = registry.manifest(image.repository, image.digest, kind="referrers")
    if answer.status_code != httpx.codes.OK:
        answer = registry.manifest(image.repository, image.digest.replace(":", "-"))
    if answer.status_code != httpx.codes.OK:
        return
    for entry in answer.json().get("manifests", []):
        found = registry.manifest(image.repository, entry["digest"])
        if found.status_code == httpx.codes.OK:
            yield found.json()


def _of_bundle(blob: bytes) -> Iterator[_Signature]:
    try:
        envelope = json.loads(blob)["dsseEnvelope"]
        kind = envelope["payloadType"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
        statement = json.loads(payload)
    except (ValueError, KeyError, TypeError):
        return  # a bundle of another kind signs no image
    if statement.get("predicateType") != _SIGN_PREDICATE:
        return
    content = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    for subject in statement.get("subject", []):
        digest = "sha256:" + subject.get("digest", {}).get("sha256", "")
        for signature in signatures:
            yield _Signature(content, signature, digest)


def _blob(registry: Registry, image: Image, digest: str) -> bytes | None:
    """A blob whose content has its digest; None for any other."""
    blob = registry.manifest(image.repository, digest, kind="blobs").content
    return blob if "sha256:" + hashlib.sha256(blob).hexdigest() == digest else None


def _signed(key: Any, signature: bytes, text: bytes) -> bool:
    """Whether a signature is by a key; SHA-256 throughout, as cosign does."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
        else:
            raise ReleaseError(
                f"A {type(key).__name__} signs no images.", fix="use ECDSA, RSA or Ed25519"
            )
    except InvalidSignature:
        return False
    return True


def _digest(text: bytes) -> str:
    """The digest that a payload is about; empty when it is no payload of cosign's."""
    try:
        return str(json.loads(text)["critical"]["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError):
        return ""
