"""`--require-signature`: who signed it, asked of a real registry; and ECR's own API, by moto."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from release.errors import NotFoundError, ReleaseError
from release.registry.client import Registry
from release.registry.signatures import Identity, Key, signer
from release.values.references import Image
from tests.release.conftest import Answer, World, digest
from tests.release.images import key_pair, push_image, sign_image, sign_image_with_a_bundle


@pytest.fixture
def keys(tmp_path: Path) -> tuple[bytes, Path]:
    """A private key, and the file of its public one."""
    private, public = key_pair()
    (tmp_path / "signer.pub").write_bytes(public)
    return private, tmp_path / "signer.pub"


def image_set(world: World, reference: str, *more: str) -> Answer:
    return world.run(
        "image", "set", "--env", "dev", "--image", f"proxy={reference}", "--require-signature",
        "--revision", world.head(), "--json", *more,
    )  # fmt: skip


def test_an_unsigned_image_is_not_deployed(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    reference = push_image(registry, "slipway/proxy", "unsigned")
    answer = image_set(world, reference, "--signature-key", str(keys[1]))
    assert answer.code == 8
    assert "no signature" in answer.json["message"]


def test_the_signers_image_is_deployed(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    reference = push_image(registry, "slipway/proxy", "signed")
    sign_image(reference, keys[0])
    answer = image_set(world, reference, "--signature-key", str(keys[1]))
    assert answer.code == 0, answer.out


def test_one_of_several_signatures_is_enough(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    reference = push_image(registry, "slipway/proxy", "signed-twice")
    sign_image(reference, key_pair()[0])
    sign_image(reference, keys[0])
    assert image_set(world, reference, "--signature-key", str(keys[1])).code == 0


def test_somebody_elses_signature_is_none(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    """A signature of just anybody once was enough."""
    reference = push_image(registry, "slipway/proxy", "signed-by-mallory")
    sign_image(reference, key_pair()[0])
    answer = image_set(world, reference, "--signature-key", str(keys[1]))
    assert answer.code == 1
    assert "None of the 1 signatures" in answer.json["message"]


def test_a_signature_of_another_image_is_refused(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    reference = push_image(registry, "slipway/proxy", "bad")
    sign_image(reference, keys[0], claimed=digest("good"))
    answer = image_set(world, reference, "--signature-key", str(keys[1]))
    assert answer.code == 1
    assert "moved a signature" in answer.json["fix"]


def test_a_bundle_signs_like_a_payload(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    """cosign writes bundles from version 3 on; found: nothing it signed was accepted."""
    reference = push_image(registry, "slipway/proxy", "bundled")
    sign_image_with_a_bundle(reference, keys[0])
    assert image_set(world, reference, "--signature-key", str(keys[1])).code == 0


def test_a_bundle_of_somebody_else_another_image_or_another_claim_is_refused(
    world: World, registry: str, keys: tuple[bytes, Path]
) -> None:
    digest = "sha256:" + "1" * 64
    made: list[tuple[str, bytes, dict[str, str], str]] = [
        ("by-mallory", key_pair()[0], {}, "None of the 1 signatures"),
        ("moved", keys[0], {"claimed": digest}, digest),
        ("about", keys[0], {"predicate": "https://slsa.dev/provenance/v1"}, "no signature"),
    ]
    for seed, key, claim, says in made:
        reference = push_image(registry, "slipway/proxy", f"bundle-{seed}")
        sign_image_with_a_bundle(reference, key, **claim)
        answer = image_set(world, reference, "--signature-key", str(keys[1]))
        assert answer.code != 0, seed
        assert says in answer.json["message"], answer.json


def test_a_signature_counts_only_when_it_is_said_whose(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="whose"):
        signer(None, "", "")
    with pytest.raises(ReleaseError, match="Both"):
        signer(tmp_path, "me", "")
    assert signer(None, "me", "you") == Identity("me", "you")
    with pytest.raises(ReleaseError, match="no public key"):
        Key(tmp_path / "none").require(Registry(), Image("127.0.0.1:1/x", "1", digest("1")))


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Image]:
    """An image in ECR, as moto keeps it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("ecr", region_name="eu-central-1")
        made = client.create_repository(repositoryName="slipway/proxy")["repository"]
        manifest = (
            '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", '
            '"config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, '
            f'"digest": "{digest("config")}"}}, "layers": []}}'
        )
        put = client.put_image(
            repositoryName="slipway/proxy", imageManifest=manifest, imageTag="1"
        )["image"]
        yield Image(made["repositoryUri"], "1", put["imageId"]["imageDigest"], "a" * 40)


def test_ecr_is_asked_for_the_digest(ecr: Image) -> None:
    Registry().require(ecr)
    with pytest.raises(NotFoundError, match="has no"):
        Registry().require(Image(ecr.repository, "1", digest("never pushed"), "a" * 40))
    with pytest.raises(NotFoundError, match="has no"):
        Registry().require(Image(ecr.repository + "-other", "1", ecr.digest, "a" * 40))


def test_a_deployment_from_ecr_goes_through(world: World, ecr: Image) -> None:
    answer = world.run(
        "image", "set", "--env", "dev", "--image",
        f"proxy={ecr.repository}:1@{ecr.digest}", "--revision", world.head(), "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.out
    assert ecr.repository.encode() in world.file("values/dev/proxy.image.yaml")


def cosign(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["cosign", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "COSIGN_PASSWORD": "", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not shutil.which("cosign") and "GITHUB_ACTIONS" not in os.environ,
    reason="cosign is not installed; the ci workflow brings it",
)
def test_what_cosign_itself_signed_is_accepted(world: World, registry: str, tmp_path: Path) -> None:
    cosign(tmp_path, "generate-key-pair")
    reference = push_image(registry, "slipway/proxy", "by-cosign")
    assert image_set(world, reference, "--signature-key", str(tmp_path / "cosign.pub")).code == 8
    cosign(
        tmp_path, "sign", "--key", "cosign.key", "--use-signing-config=false",
        "--tlog-upload=false", "--yes", reference,
    )  # fmt: skip
    answer = image_set(world, reference, "--signature-key", str(tmp_path / "cosign.pub"))
    assert answer.code == 0, answer.out
