"""Does the registry have this digest? Asked over the distribution API, ECR's own API for ECR."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import stamina

from release import tls
from release.errors import BadReferenceError, NotFoundError, ReleaseError, UnreachableError
from release.values.references import Image

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
)
# Tags that stay what they are, and a scan of every image: what a repository in ECR is made with.
REPOSITORY_SETTINGS: Final = {
    "imageTagMutability": "IMMUTABLE",
    "imageScanningConfiguration": {"scanOnPush": True},
}
_ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class _Passing(Exception):  # noqa: N818 - never leaves this module
    """A failure that a second try may mend."""


@dataclass(frozen=True)
class Registry:
    """Asks registries; ``timeout`` is in seconds per request, ``attempts`` are tries in all."""

    timeout: float = 10.0
    attempts: int = 4

    def require(self, image: Image) -> None:
        """Refuse an image whose digest the registry does not have.

        Raises NotFoundError when it has not, UnreachableError when it does not answer.
        """
        host, _ = split(image.repository)
        ecr = _ECR.fullmatch(host)
        found = self._in_ecr(image, ecr) if ecr else self._in_registry(image)
        if not found:
            raise NotFoundError(
                f"The registry has no {image.reference}.",
                fix="push the image first, and pass the digest the push printed",
            )

    def manifest(
        self, repository: str, reference: str, *, kind: str = "manifests"
    ) -> httpx.Response:
        """GET a manifest by tag or digest, or a blob (``kind``); the answer may be a 404.

        Raises UnreachableError when the registry does not answer, after ``attempts`` tries.
        """
        host, name = split(repository)
        url = f"{scheme(host)}://{host}/v2/{name}/{kind}/{reference}"
        try:
            for attempt in stamina.retry_context(
                on=(_Passing, httpx.TransportError),
                attempts=self.attempts,
                wait_initial=0.2,
                wait_max=2.0,
            ):
                with attempt:
                    return self._get(url, host)
        except (_Passing, httpx.TransportError) as error:
            raise UnreachableError(
                f"The registry {host} does not answer: {error}",
                fix="check that it runs and that this machine may reach it",
            ) from error
        raise AssertionError("unreachable")  # pragma: no cover

    def _get(self, url: str, host: str) -> httpx.Response:
        with httpx.Client(
            timeout=self.timeout, follow_redirects=True, verify=tls.authorities()
        ) as client:
            headers = {"Accept": _ACCEPTED}
            answer = client.get(url, headers=headers)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                headers["Authorization"] = _authorization(client, answer, host)
                answer = client.get(url, headers=headers)
        if answer.status_code in (429, 500, 502, 503, 504):
            raise _Passing(f"{url} answered {answer.status_code}")
        return answer

    def _in_registry(self, image: Image) -> bool:
        answer = self.manifest(image.repository, image.digest)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        if answer.status_code == httpx.codes.OK:
            return True
        raise ReleaseError(
            f"The registry answered {answer.status_code} for {image.reference}.",
            fix="log in with `docker login` (its config.json is read), or check the repository",
        )

    def _in_ecr(self, image: Image, host: re.Match[str]) -> bool:
        import boto3  # a second of import time that only ECR needs  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        client: ECRClient = boto3.Session().client("ecr", region_name=host["region"])
        try:
            answer = client.batch_get_image(
                registryId=host["account"],
                repositoryName=split(image.repository)[1],
                imageIds=[{"imageDigest": image.digest}],
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "RepositoryNotFoundException":
                return False
            raise ReleaseError(
                f"ECR refuses to show {image.reference}: {error}",
                fix="the role needs ecr:BatchGetImage on the repository",
            ) from error
        except BotoCoreError as error:
            raise UnreachableError(
                f"ECR does not answer for {image.reference}: {error}",
                fix="check the AWS credentials and the region",
            ) from error
        return bool(answer["images"])


def ecr_host(host: str) -> re.Match[str] | None:
    """A registry's host as one of ECR's, with ``account`` and ``region``; None for any other."""
    return _ECR.fullmatch(host)


Made = Literal["created", "changed", "kept"]


def make_repository(repository: str, *, dry_run: bool) -> Made:
    """Have a repository in ECR for images, with immutable tags that are scanned on push.

    Raises ReleaseError for a registry that is not ECR's, and where AWS refuses.
    """
    import boto3  # a second of import time that only ECR needs  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    host, name = split(repository)
    if (ecr := ecr_host(host)) is None:
        raise ReleaseError(
            f"{host} is no registry of ECR's.",
            fix="make its repositories as that registry wants it; most make them on push",
        )
    client: ECRClient = boto3.Session().client("ecr", region_name=ecr["region"])
    try:
        return _make(client, ecr["account"], name, dry_run=dry_run)
    except (ClientError, BotoCoreError) as error:
        raise ReleaseError(
            f"ECR refuses to make {name}: {error}",
            fix="log in as somebody who may ecr:CreateRepository, ecr:DescribeRepositories, "
            "ecr:PutImageTagMutability and ecr:PutImageScanningConfiguration",
        ) from error


def _make(client: ECRClient, account: str, name: str, *, dry_run: bool) -> Made:
    try:
        answer = client.describe_repositories(registryId=account, repositoryNames=[name])
    except client.exceptions.RepositoryNotFoundException:
        if not dry_run:
            client.create_repository(
                registryId=account,
                repositoryName=name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
            )
        return "created"
    [found] = answer["repositories"]
    if all(found.get(key) == value for key, value in REPOSITORY_SETTINGS.items()):
        return "kept"
    if not dry_run:
        client.put_image_tag_mutability(
            registryId=account, repositoryName=name, imageTagMutability="IMMUTABLE"
        )
        client.put_image_scanning_configuration(
            registryId=account,
            repositoryName=name,
            imageScanningConfiguration={"scanOnPush": True},
        )
    return "changed"


def split(repository: str) -> tuple[str, str]:
    """Host (with port) and name of a repository.

    Raises BadReferenceError when it names no host: none is guessed.
    """
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    raise BadReferenceError(
        f"The repository {repository!r} names no registry.", fix="write it as HOST/NAME"
    )


def scheme(host: str) -> str:
    """``http`` for this machine, ``https`` for every other."""
    name = urlsplit(f"//{host}").hostname or ""
    local = name == "localhost" or name.endswith(".localhost") or name.startswith("127.")
    return "http" if local or name == "::1" else "https"


def _authorization(client: httpx.Client, answer: httpx.Response, host: str) -> str:
    """The header a registry's challenge asks for: Basic, or a Bearer token it names a place for."""
    challenge = answer.headers.get("WWW-Authenticate", "")
    kind, _, rest = challenge.partition(" ")
    credentials = docker_credentials(host)
    if kind.lower() != "bearer":
        return f"Basic {credentials}" if credentials else ""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = parameters.pop("realm", "")
    if not realm.startswith(("https://", f"{scheme(host)}://")):
        raise ReleaseError(f"The registry {host} sends its tokens' realm to {realm!r}.")
    headers = {"Authorization": f"Basic {credentials}"} if credentials else {}
    token = client.get(realm, params=parameters, headers=headers)
    if token.status_code != httpx.codes.OK:
        return ""
    body: dict[str, Any] = token.json()
    return f"Bearer {body.get('token') or body.get('access_token')}"


def docker_credentials(host: str) -> str:
    """``user:password`` in base64 from Docker's config.json, or an empty string."""
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    entry = config.get("auths", {}).get(host, {})
    if entry.get("auth"):
        return str(entry["auth"])
    if entry.get("username"):
        return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    return ""
