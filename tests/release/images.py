"""Images made of nothing but a seed, pushed to a real registry."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"


def push_image(host: str, name: str, seed: str) -> str:
    """Push an image whose config is `seed`; its reference with tag and digest."""
    with httpx.Client(base_url=f"http://{host}") as client:
        config = json.dumps({"architecture": "amd64", "os": "linux", "seed": seed}).encode()
        blob = push_blob(client, name, config)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    **blob,
                },
                "layers": [],
            }
        ).encode()
        answer = client.put(
            f"/v2/{name}/manifests/{seed}",
            content=manifest,
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        )
        answer.raise_for_status()
    return f"{host}/{name}:{seed}@sha256:{hashlib.sha256(manifest).hexdigest()}"


def push_blob(client: httpx.Client, name: str, content: bytes) -> dict[str, object]:
    """Push a blob; what a manifest says of it."""
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    start = client.post(f"/v2/{name}/blobs/uploads/")
    place = httpx.URL(start.headers["Location"]).copy_merge_params({"digest": digest})
    client.put(place, content=content).raise_for_status()
    return {"digest": digest, "size": len(content)}


def sign_image(reference: str, key: bytes, claimed: str = "") -> None:
    """Sign an image as `cosign sign --key` does, with a private key in PEM (ECDSA).

    ``claimed`` is the digest the payload is about; the image's own unless told otherwise.
    """
    place, _, digest = reference.partition("@")
    host, _, rest = place.partition("/")
    name = rest.partition(":")[0]
    payload = json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": f"{host}/{name}"},
                "image": {"docker-manifest-digest": claimed or digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        },
        separators=(",", ":"),
    ).encode()
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signature = private.sign(payload, ec.ECDSA(hashes.SHA256()))
    tag = digest.replace(":", "-") + ".sig"
    with httpx.Client(base_url=f"http://{host}") as client:
        config = push_blob(client, name, b"{}")
        layer = push_blob(client, name, payload)
        before = client.get(
            f"/v2/{name}/manifests/{tag}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        layers = before.json()["layers"] if before.status_code == 200 else []
        made = {
            **layer,
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "annotations": {
                "dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {**config, "mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [*layers, made],
        }
        client.put(
            f"/v2/{name}/manifests/{tag}",
            content=json.dumps(manifest).encode(),
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        ).raise_for_status()


def sign_image_with_a_bundle(
    reference: str, key: bytes, claimed: str = "", predicate: str = SIGN_PREDICATE
) -> None:
    """Sign an image as `cosign sign --key` does from version 3 on: a Sigstore bundle beside it.

    The registry has no referrers API, so the list of them lies at the digest's tag.
    """
    place, _, digest = reference.partition("@")
    host, _, rest = place.partition("/")
    name = rest.partition(":")[0]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": (claimed or digest).removeprefix("sha256:")}}],
        "predicateType": predicate,
        "predicate": {},
    }
    payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = private.sign(signed, ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "none"}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
    with httpx.Client(base_url=f"http://{host}") as client:
        config = push_blob(client, name, b"{}")
        layer = push_blob(client, name, json.dumps(bundle).encode())
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {**config, "mediaType": "application/vnd.oci.empty.v1+json"},
                "layers": [{**layer, "mediaType": BUNDLE}],
                "artifactType": BUNDLE,
            }
        ).encode()
        made = "sha256:" + hashlib.sha256(manifest).hexdigest()
        client.put(
            f"/v2/{name}/manifests/{made}", content=manifest, headers={"Content-Type": MANIFEST}
        ).raise_for_status()
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"mediaType": MANIFEST, "digest": made, "size": len(manifest)}],
        }
        client.put(
            f"/v2/{name}/manifests/{digest.replace(':', '-')}",
            content=json.dumps(index).encode(),
            headers={"Content-Type": INDEX},
        ).raise_for_status()


def key_pair() -> tuple[bytes, bytes]:
    """A private and a public key in PEM, as cosign makes them (but for the password)."""
    private = ec.generate_private_key(ec.SECP256R1())
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def main() -> None:
    """`images.py push HOST REPOSITORY TAG` prints the reference, as `make image` does;
    `images.py sign REFERENCE KEY` signs with the private key in that file, as `make sign` does.
    """
    if sys.argv[1] == "sign":
        sign_image(sys.argv[2], Path(sys.argv[3]).read_bytes())
        return
    host, name, seed = sys.argv[2:]
    sys.stdout.write(push_image(host, name, seed) + "\n")


if __name__ == "__main__":
    main()
