"""The cluster the stages run against: where its registry, S3, Git repo and gateway are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
from mypy_boto3_s3 import S3Client

from cluster import elsewhere, images, layout, manifest_repo
from cluster.kube import Kubectl
from flow.errors import FlowError
from flow.source import PLACEHOLDER_URL
from release.render.helm import environments

ENVIRONMENTS = tuple(environments(Path(__file__).resolve().parents[3]))
"""Those of this checkout, as argocd/environments has them."""
GATEWAY = f"http://127.0.0.1:{layout.GATEWAY_PORT}"


@dataclass(frozen=True, slots=True)
class Site:
    """Addresses as seen from this machine, except ``repo_url``, which is as Argo CD sees it."""

    kubectl: Kubectl
    registry: str
    base_image: str
    build_volumes: tuple[str, ...]
    manifest_repo: str
    repo_url: str
    s3_url: str
    credentials: dict[str, str]

    def aws_environment(self) -> dict[str, str]:
        """What the AWS SDKs need to reach this S3."""
        return {
            **self.credentials,
            "AWS_ENDPOINT_URL_S3": self.s3_url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def s3(self) -> S3Client:
        """A client for this S3."""
        return boto3.client(
            "s3",
            endpoint_url=self.s3_url,
            region_name="us-east-1",
            aws_access_key_id=self.credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.credentials["AWS_SECRET_ACCESS_KEY"],
        )


def find(cluster: str, environment: Mapping[str, str]) -> Site:
    """The cluster that `cluster up` prepared, of the kind that CLUSTER names.

    ``environment`` is looked up for IMAGE_REGISTRY and MANIFEST_REPO, which somebody's own
    cluster needs. FlowError names what is missing.
    """
    if cluster == "machine":
        return one_machine()
    where = layout.default_layout()
    program = shutil.which("kubectl") or where.program("kubectl")
    credentials = where.state / "s3-credentials.json"
    if not credentials.is_file():
        raise FlowError(f"the add-ons are not installed: run `CLUSTER={cluster} make up`")
    if cluster == "kind":
        registry, repo = f"{layout.REGISTRY}/slipway", str(where.manifest_repo)
        repo_url = manifest_repo.url(elsewhere.kind_gateway_address())
    else:
        registry, repo = environment.get("IMAGE_REGISTRY", ""), environment.get("MANIFEST_REPO", "")
        for name, value, example in (
            ("IMAGE_REGISTRY", registry, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/slipway"),
            ("MANIFEST_REPO", repo, PLACEHOLDER_URL),
        ):
            if not value:
                raise FlowError(f"CLUSTER={cluster} needs {name}, for example {name}={example}")
        repo_url = repo
    return Site(
        kubectl=Kubectl(program, None),
        registry=registry,
        base_image="",
        build_volumes=(),
        manifest_repo=repo,
        repo_url=repo_url,
        s3_url=f"http://127.0.0.1:{layout.S3_PORT}",
        credentials=json.loads(credentials.read_text()),
    )


def one_machine() -> Site:
    """The cluster that `cluster up` brought up; FlowError where there is none."""
    where = layout.default_layout()
    credentials = where.state / "s3-credentials.json"
    if not where.kubeconfig.is_file() or not credentials.is_file():
        raise FlowError("there is no cluster on this machine: run `make up`")
    return Site(
        kubectl=Kubectl(where.program("kubectl"), where.kubeconfig),
        registry=f"{layout.REGISTRY}/slipway",
        base_image=images.BASE,
        build_volumes=tuple(
            volume.removeprefix("--volume=") for volume in images.certificate_volumes()
        ),
        manifest_repo=str(where.manifest_repo),
        repo_url=manifest_repo.url(),
        s3_url=f"http://127.0.0.1:{layout.S3_PORT}",
        credentials=json.loads(credentials.read_text()),
    )
