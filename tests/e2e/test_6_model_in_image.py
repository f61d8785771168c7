"""The model in the image: built as docs/patterns/model-in-image.md says, and served by a pod."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flow import site as sites
from tests.inference import small_models

DOCKERFILE = Path(__file__).parents[2] / "apps/inference/Dockerfile.model"
NAMESPACE = "test-model-in-image"


def run(*arguments: str, given: str | None = None) -> str:
    """A command's output; its error is the test's."""
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def server_image(site: sites.Site) -> str:
    """The model server that dev runs, by digest."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not here: the image is built with another engine")
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    return run("kubectl", "-n", "dev", "get", "deployment", "inference", "-o", path)


Build = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(server_image: str) -> Iterator[tuple[Build, str]]:
    """Builds an image from a context with a folder ``models``; the image's name."""
    reference = f"{server_image.partition('/')[0]}/test/model-in-image:latest"

    def build(context: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["buildah", "build", "--isolation=chroot", "--tls-verify=false",
             f"--file={DOCKERFILE}", f"--build-arg=INFERENCE_IMAGE={server_image}",
             "--build-arg=MODEL=models", f"--tag={reference}", str(context)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    yield build, reference
    subprocess.run(["buildah", "rmi", "--force", reference], capture_output=True, check=False)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace as strict as those of the environments."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    document = {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": labels},
    }  # fmt: skip
    run("kubectl", "apply", "-f", "-", given=json.dumps(document))
    yield NAMESPACE
    run("kubectl", "delete", "namespace", NAMESPACE, "--wait=false")


def pod(image: str) -> dict[str, object]:
    """A pod that has nothing but its image: no volume, no fetching, no credentials."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "model"},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "inference",
                    "image": image,
                    "args": ["serve"],
                    "readinessProbe": {
                        "httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1,
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }  # fmt: skip


def test_a_pod_needs_nothing_but_its_image(
    build: tuple[Build, str], namespace: str, tmp_path: Path
) -> None:
    make, reference = build
    small_models.put(tmp_path / "models", "affine", "1", small_models.affine())
    built = make(tmp_path)
    assert built.returncode == 0, built.stderr
    digest = tmp_path / "digest"
    run("buildah", "push", "--tls-verify=false", f"--digestfile={digest}", reference)
    image = f"{reference.rpartition(':')[0]}@{digest.read_text().strip()}"
    kubectl = ("kubectl", "-n", namespace)
    run(*kubectl, "apply", "-f", "-", given=json.dumps(pod(image)))
    run(*kubectl, "wait", "--for=condition=Ready", "pod/model", "--timeout=120s")
    address = run(*kubectl, "get", "pod", "model", "-o", "jsonpath={.status.podIP}")
    row = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    answer = httpx.post(
        f"http://{address}:8080/v2/models/affine/infer", json={"inputs": [row]}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [3, 5]


def test_a_model_that_is_not_the_one_it_says_never_becomes_an_image(
    build: tuple[Build, str], tmp_path: Path
) -> None:
    make, _ = build
    small_models.put(tmp_path / "models", "affine", "1", small_models.affine(), sha256="0" * 64)
    built = make(tmp_path)
    assert built.returncode != 0
    assert "sha256" in built.stdout + built.stderr
