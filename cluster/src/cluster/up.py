"""Brings the one-machine cluster up, whatever state it is in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster import (
    addons,
    build,
    configuration,
    images,
    layout,
    manifest_repo,
    network,
    parts,
    pki,
    preflight,
    teardown,
)
from cluster.errors import ClusterError
from cluster.graph import Step
from cluster.kube import Kubectl
from cluster.layout import Layout
from cluster.process import Supervisor

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """What the steps below stand on: programs by name, the modules' files, image references."""

    programs: Mapping[str, Path]
    shared: Path
    images: Mapping[str, str]


def install_missing(where: Layout, missing: tuple[str, ...], report: Report) -> bool:
    """Install Debian packages where root may; return whether none is missing any more."""
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        log = where.logs / "apt.log"
        report(f"installing Debian packages: {' '.join(missing)}; log: {log}")
        preflight.install_packages(missing, log)
        return True
    return not missing


def check_machine(where: Layout, supervisor: Supervisor, report: Report) -> None:
    """Raise ClusterError with every failure and its fix; install packages where root may."""
    install_missing(where, preflight.missing_packages(), report)
    alive = [name for name in supervisor.names() if supervisor.alive(name)]
    built = any(where.builds.glob("platform-*"))
    found = preflight.failures(preflight.gather(where, alive, built=built))
    if found:
        raise ClusterError(
            "this machine is not ready:\n"
            + "\n".join(f"- {failure.cause}; fix: {failure.fix}" for failure in found)
        )


def prepare(where: Layout, report: Report) -> Built:
    """Programs and image references; builds what the cache lacks."""
    programs = build.ensure(where, build.ALL, report)
    shared = build.ensure_shared(where)
    return Built(programs, shared, images.references(programs, shared))


def recover(where: Layout, supervisor: Supervisor) -> None:
    """Clear away what a killed cluster left, as after a reboot.

    Where only containerd died, its shims still mind their pods and it takes them up again.
    """
    if not supervisor.alive("containerd") and not teardown.shims(where.containerd_socket):
        supervisor.stop("kubelet")
        teardown.clean(where)


def site(where: Layout, built: Built) -> addons.Site:
    """The one-machine cluster as the add-ons see it."""
    return addons.Site(
        images=built.images,
        data_folder=where.state / "data",
        cni_bin=str(where.state / "cni" / "bin"),
        cni_configuration=str(where.state / "cni" / "net.d"),
        cni_namespaces=str(
            where.run / "containerd" / "state" / "io.containerd.grpc.v1.cri" / "netns"
        ),
    )


def steps(where: Layout, supervisor: Supervisor, built: Built, report: Report) -> list[Step]:
    """Every step of a boot with the steps it waits for."""
    kubectl = Kubectl(where.program("kubectl"), where.kubeconfig)
    here = site(where, built)
    helm = where.program("helm")

    def certificates() -> str:
        written = pki.ensure(where.pki)
        shutil.copy(where.pki / "admin.kubeconfig", where.kubeconfig)
        where.kubeconfig.chmod(0o600)
        return f"wrote {len(written)}" if written else "kept"

    def write_configuration() -> str:
        configuration.write_all(where, built.images["pause"])
        configuration.write_runtime_spec(where)
        network.write_cni(where)
        teardown.make_cgroups()
        for name, owner in (("s3", 65532), ("redis", 65532)):
            folder = where.state / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, owner, owner)
        return "written"

    def image(wanted: images.Image) -> Step:
        needs = ("registry", "image:tools") if wanted.base else ("registry",)
        return Step(
            f"image:{wanted.name}",
            needs,
            lambda: images.ensure(
                where, wanted, built.images[wanted.name], built.programs, built.shared
            ),
        )

    def tools() -> str:
        needed = [i for i in images.IMAGES if i.base]
        if all(images.in_registry(built.images[i.name]) for i in needed):
            return "kept"
        return images.ensure_tools(where)

    begin = datetime.now(UTC)

    def start_kubelet() -> str:
        word = supervisor.ensure(parts.kubelet(where))
        if word != "kept":
            # What the API server knows of the pods is from before: the kubelet tells it anew.
            kubectl.wait_for_heartbeat(layout.NODE_NAME, begin, timeout=60)
        return word

    def node() -> str:
        kubectl.run("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s")
        return "kept"

    def addon(name: str, needs: tuple[str, ...], make: Callable[[], addons.Addon]) -> Step:
        return Step(name, needs, lambda: addons.ensure(kubectl, make()))

    daemon = supervisor.ensure
    return [
        Step("certificates", (), certificates),
        Step("configuration", (), write_configuration),
        Step("bridge", (), lambda: network.ensure_bridge(where.state)),
        Step("registry", ("configuration",), lambda: daemon(parts.registry(where))),
        Step("image:python", (), lambda: images.ensure_base(where, report)),
        Step("image:tools", ("registry", "image:python"), tools),
        *(image(wanted) for wanted in images.IMAGES),
        Step("etcd", ("certificates",), lambda: daemon(parts.etcd(where))),
        Step("kube-apiserver", ("etcd", "bridge"), lambda: daemon(parts.kube_apiserver(where))),
        Step(
            "kube-controller-manager",
            ("kube-apiserver",),
            lambda: daemon(parts.kube_controller_manager(where)),
        ),
        Step("kube-scheduler", ("kube-apiserver",), lambda: daemon(parts.kube_scheduler(where))),
        Step("containerd", ("configuration",), lambda: daemon(parts.containerd(where))),
        Step(
            "kubelet",
            ("kube-apiserver", "containerd", "image:pause"),
            start_kubelet,
        ),
        Step("kube-proxy", ("kube-apiserver",), lambda: daemon(parts.kube_proxy(where))),
        Step("node", ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler"), node),
        Step("manifest-repo", (), lambda: manifest_repo.ensure(where)),
        Step("git", ("manifest-repo", "bridge"), lambda: daemon(parts.git_daemon(where))),
        Step("namespaces", ("kube-apiserver",), lambda: addons.ensure_namespaces(kubectl)),
        addon("coredns", ("node", "image:coredns", "namespaces"), lambda: addons.coredns(here)),
        addon(
            "metrics-server",
            ("node", "image:metrics-server", "namespaces"),
            lambda: addons.metrics_server(here),
        ),
        addon(
            "stores",
            ("node", "image:s3", "image:redis", "namespaces"),
            lambda: addons.stores(here, addons.s3_credentials(where.state / "s3-credentials.json")),
        ),
        addon("istio-base", ("namespaces",), lambda: addons.istio_base(helm, built.shared)),
        addon(
            "gateway-api",
            ("namespaces",),
            lambda: addons.gateway_api(built.shared / "gateway-api"),
        ),
        addon(
            "istiod",
            ("istio-base", "gateway-api", "node", "coredns", "image:istiod"),
            lambda: addons.istiod(helm, built.shared, here),
        ),
        addon(
            "istio-cni",
            ("istio-base", "node", "image:istio-cni"),
            lambda: addons.istio_cni(helm, built.shared, here),
        ),
        addon(
            "gateway",
            ("istiod", "istio-cni", "image:istio-proxy"),
            lambda: addons.gateway(helm, built.shared, here),
        ),
        addon(
            "argocd",
            ("node", "coredns", "image:argocd", "image:redis", "git"),
            lambda: addons.argocd(built.shared / "argocd-install.yaml", here),
        ),
    ]
