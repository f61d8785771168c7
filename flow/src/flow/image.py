"""Stage 1: a commit becomes one image per service, pushed by digest."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from flow import command
from flow.errors import FlowError

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


@dataclass(frozen=True, slots=True)
class Image:
    """A pushed image; ``revision`` is the commit it was built from, 40 hex digits."""

    app: str
    repository: str
    tag: str
    digest: str
    revision: str

    @property
    def reference(self) -> str:
        """As `release image set` takes it."""
        return f"{self.repository}:{self.tag}@{self.digest}"

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps({**asdict(self), "reference": self.reference})


def build(
    repo: Path,
    app: str,
    *,
    registry: str,
    commit: str = "HEAD",
    base: str = "",
    build_volumes: tuple[str, ...] = (),
    fresh: bool = False,
) -> Image:
    """Build ``app`` from a commit of ``repo`` and push it to ``registry/app``.

    What is not committed is not built. An image of the same content is not built again, unless
    ``fresh``. ``base`` replaces the Dockerfile's PYTHON_IMAGE. FlowError for an unknown app or
    a build that fails.
    """
    revision = command.run("git", "-C", str(repo), "rev-parse", commit).strip()
    known = _apps(repo, revision)
    if app not in known:
        raise FlowError(f"there is no service {app!r} under apps/; name one of: {', '.join(known)}")
    repository, tag = f"{registry}/{app}", revision[:12]
    content = f"content-{_content(repo, revision, app, base)}"
    if not fresh and _plain_http(registry) and (known_digest := _digest(repository, content)):
        return Image(app, repository, tag, known_digest, revision)
    with tempfile.TemporaryDirectory(prefix="slipway-build-") as folder:
        context = Path(folder)
        _export(repo, revision, app, context)
        arguments = [f"--build-arg=APP={app}", f"--build-arg=REVISION={revision}"]
        if base:
            arguments.append(f"--build-arg=PYTHON_IMAGE={base}")
        builder = _buildah if shutil.which("buildah") else _buildx
        digest = builder(context, repository, tag, arguments, build_volumes, fresh=fresh)
    if _plain_http(registry):
        _tag(repository, digest, content)
    return Image(app, repository, tag, digest, revision)


def _apps(repo: Path, revision: str) -> list[str]:
    listing = command.run(
        "git", "-C", str(repo), "ls-tree", "-r", "--name-only", revision, "--", "apps"
    )
    paths = [Path(line) for line in listing.splitlines()]
    return sorted(p.parts[1] for p in paths if len(p.parts) == 3 and p.name == "pyproject.toml")


def _content(repo: Path, revision: str, app: str, base: str) -> str:
    paths = ("Dockerfile", "pyproject.toml", "uv.lock", "apps/kit", f"apps/{app}")
    listing = command.run("git", "-C", str(repo), "ls-tree", "-r", revision, "--", *paths)
    base_id = ""
    if base and shutil.which("buildah"):
        base_id = command.run("buildah", "images", "--quiet", "--no-trunc", base).strip()
    return hashlib.sha256(f"{listing}{base}{base_id}".encode()).hexdigest()[:16]


def _export(repo: Path, revision: str, app: str, context: Path) -> None:
    archive = context / "source.tar"
    command.run(
        *("git", "-C", str(repo), "archive", f"--output={archive}", revision, "--"),
        *("Dockerfile", "pyproject.toml", "uv.lock", "apps/kit", f"apps/{app}"),
    )
    with tarfile.open(archive) as content:
        content.extractall(context, filter="data")
    archive.unlink()


def _buildah(
    context: Path,
    repository: str,
    tag: str,
    arguments: list[str],
    volumes: tuple[str, ...],
    *,
    fresh: bool,
) -> str:
    reference = f"{repository}:{tag}"
    command.run(
        *("buildah", "build", "--quiet", "--isolation=chroot"),
        # Every file gets this time: equal commits give equal digests.
        *("--timestamp=0", "--no-cache" if fresh else "--layers", "--pull=missing"),
        *(f"--volume={volume}" for volume in volumes),
        *arguments,
        f"--tag={reference}",
        str(context),
    )
    digest_file = context / "digest"
    command.run(
        *("buildah", "push", "--quiet", f"--digestfile={digest_file}"),
        *(("--tls-verify=false",) if _plain_http(repository) else ()),
        reference,
    )
    return digest_file.read_text().strip()


def _buildx(
    context: Path,
    repository: str,
    tag: str,
    arguments: list[str],
    _volumes: tuple[str, ...],
    *,
    fresh: bool,
) -> str:
    metadata = context.parent / f"{context.name}.json"
    output = f"type=image,name={repository}:{tag},push=true,rewrite-timestamp=true"
    try:
        command.run(
            *("docker", "buildx", "build", "--provenance=false"),
            *(("--no-cache",) if fresh else ()),
            "--build-arg=SOURCE_DATE_EPOCH=0",
            *arguments,
            f"--output={output}",
            f"--metadata-file={metadata}",
            str(context),
        )
        return str(json.loads(metadata.read_text())["containerimage.digest"])
    finally:
        metadata.unlink(missing_ok=True)


def _plain_http(registry: str) -> bool:
    return registry.partition("/")[0].partition(":")[0] in ("127.0.0.1", "localhost")


def _digest(repository: str, tag: str) -> str:
    host, _, name = repository.partition("/")
    request = urllib.request.Request(
        f"http://{host}/v2/{name}/manifests/{tag}",
        method="HEAD",
        headers={"Accept": MANIFEST_TYPES},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(answer.headers["Docker-Content-Digest"])
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        raise FlowError(
            f"the registry at {host} does not answer ({error.reason}): run `make up`"
        ) from error


def _tag(repository: str, digest: str, tag: str) -> None:
    host, _, name = repository.partition("/")
    manifest = f"http://{host}/v2/{name}/manifests"
    fetch = urllib.request.Request(  # noqa: S310 - loopback only
        f"{manifest}/{digest}", headers={"Accept": MANIFEST_TYPES}
    )
    with urllib.request.urlopen(fetch, timeout=10) as answer:  # noqa: S310
        body, kind = answer.read(), answer.headers["Content-Type"]
    put = urllib.request.Request(  # noqa: S310
        f"{manifest}/{tag}", data=body, method="PUT", headers={"Content-Type": kind}
    )
    urllib.request.urlopen(put, timeout=10).close()  # noqa: S310
