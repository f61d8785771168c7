"""Images made of nothing but a seed, pushed to a real registry."""

from __future__ import annotations

import hashlib
import json
import sys

import httpx


def push_image(host: str, name: str, seed: str) -> str:
    """Push an image whose config is `seed`; its reference with tag and digest."""
    with httpx.Client(base_url=f"http://{host}") as client:
        config = json.dumps({"architecture": "amd64", "os": "linux", "seed": seed}).encode()
        blob = "sha256:" + hashlib.sha256(config).hexdigest()
        start = client.post(f"/v2/{name}/blobs/uploads/")
        place = httpx.URL(start.headers["Location"]).copy_merge_params({"digest": blob})
        client.put(place, content=config).raise_for_status()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": blob,
                    "size": len(config),
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


def main() -> None:
    """`images.py HOST REPOSITORY TAG` prints the reference, as `make image` does."""
    host, name, seed = sys.argv[1:]
    sys.stdout.write(push_image(host, name, seed) + "\n")


if __name__ == "__main__":
    main()
