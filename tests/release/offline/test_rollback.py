"""`rollback --offline` and `reconcile` against a real Kubernetes API; the test plays Argo CD.

`test_offline_cluster.py` does it with Argo CD itself.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from release.cluster import client, offline_mark, snapshots
from release.cluster.client import Cluster
from release.cluster.snapshots import MANAGER, Snapshot
from release.git.program import Git
from release.offline.rollback import OfflineRollback
from tests.release import forked
from tests.release.conftest import Answer, World, digest
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import (
    DEPLOYMENTS,
    PODS,
    application,
    deployment,
    image,
    labels,
    pod,
    run_later,
    verify,
)
from tests.waits import until

CONFIGMAPS = "/api/v1/namespaces/dev/configmaps"
SERVICES = "/api/v1/namespaces/dev/services"
SECRETS = "/api/v1/namespaces/argocd/secrets"
BROKEN = "git://127.0.0.1:9/nowhere.git"
EVERY_STEP = os.environ.get("SLIPWAY_FAULTS") == "all"


@pytest.fixture
def kube(api: Kubernetes, world: World) -> Kubernetes:
    api.empty()
    for name in ("proxy", "extra"):
        api.client.delete(f"{SERVICES}/{name}")
    world.environment["KUBECONFIG"] = str(api.kubeconfig)
    return api


def tracked(kind: str, group: str = "") -> dict[str, str]:
    return {"argocd.argoproj.io/tracking-id": f"dev-proxy:{group}/{kind}:dev/proxy"}


def manifests(seed: str, **environment: str) -> list[dict[str, Any]]:
    """What the chart might render for proxy: its configuration, a Service and a Deployment."""
    env = [{"name": name, "value": value} for name, value in environment.items()]
    template = {
        "metadata": {"labels": labels("proxy")},
        "spec": {
            "containers": [
                {
                    "name": "proxy",
                    "image": image("proxy", seed),
                    "args": ["serve", "--fast"],
                    "env": env,
                    "ports": [{"containerPort": 8080, "name": "http"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }

    def item(version: str, kind: str, **rest: Any) -> dict[str, Any]:
        metadata = {"name": "proxy", "namespace": "dev", "labels": labels("proxy")}
        metadata["annotations"] = tracked(kind, version.rpartition("/")[0])  # type: ignore[assignment]
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    return [
        item("v1", "ConfigMap", data={"seed": seed}),
        item(
            "v1", "Service",
            spec={
                "selector": labels("proxy"),
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        ),
        item(
            "apps/v1", "Deployment",
            spec={"selector": {"matchLabels": labels("proxy")}, "template": template},
        ),
    ]  # fmt: skip


class Argo:
    """Applies manifests as Argo CD does, and says so in the Applications."""

    def __init__(self, kube: Kubernetes, world: World) -> None:
        self.kube, self.world = kube, world
        self.cluster = Cluster(kubeconfig=str(kube.kubeconfig))
        self.last: dict[tuple[str, str], dict[str, Any]] = {}

    def sync(self, seed: str, *more: dict[str, Any], **environment: str) -> None:
        wanted = [*manifests(seed, **environment), *more]
        for item in wanted:
            path = self.cluster.path(item["apiVersion"], item["kind"], "dev")
            self.cluster.apply(f"{path}/{item['metadata']['name']}", item, owner=MANAGER)
        revision = self.world.head()
        for release in ("environment", "inference", "proxy", "unzip", "worker"):
            app = application(release, revision)
            app["metadata"]["labels"] = {"slipway/environment": "dev", "slipway/release": release}
            app["status"]["resources"] = [
                {
                    "group": item["apiVersion"].rpartition("/")[0],
                    "version": item["apiVersion"].rpartition("/")[2],
                    "kind": item["kind"],
                    "namespace": "dev",
                    "name": item["metadata"]["name"],
                    "status": "Synced",
                }
                for item in (wanted if release == "proxy" else ())
            ]
            self.kube.put(APPLICATIONS, app, subresource=False)
        self.rolled_out(seed)

    def rolled_out(self, seed: str) -> None:
        """What the Deployment's controller and the kubelet would do."""
        live = self.kube.client.get(f"{DEPLOYMENTS}/proxy").json()
        live["status"] = {
            "observedGeneration": live["metadata"]["generation"], "replicas": 1,
            "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1,
        }  # fmt: skip
        self.kube.send("PUT", f"{DEPLOYMENTS}/proxy/status", live)
        for old in self.kube.client.get(PODS).json()["items"]:
            self.kube.client.delete(
                f"{PODS}/{old['metadata']['name']}", params={"gracePeriodSeconds": "0"}
            )
        self.kube.put(PODS, pod("proxy", seed))
        self.kube.put(DEPLOYMENTS, deployment("worker", seed))
        self.kube.put(PODS, pod("worker", seed))

    def deploy(self, seed: str, *more: dict[str, Any], verdict: bool = True, **env: str) -> str:
        assert self.world.deploy(seed, self.world.source(), "proxy").code == 0
        self.sync(seed, *more, **env)
        if verdict:
            answer = verify(self.world)
            assert answer.code == 0, answer.out
            assert "not kept" not in answer.err
        return self.world.head()

    def live(self) -> list[dict[str, Any]]:
        return snapshots.captured(self.cluster, self.cluster.applications("dev"))["proxy"]


@pytest.fixture
def argo(kube: Kubernetes, world: World) -> Argo:
    return Argo(kube, world)


def offline(world: World, *more: str) -> Answer:
    """With a repository that cannot be reached: nothing may ask it."""
    return world.run("rollback", "--env", "dev", "--offline", "--json", *more, MANIFEST_REPO=BROKEN)


def reconcile(world: World, *more: str) -> Answer:
    return world.run("reconcile", "--env", "dev", "--no-verify", "--json", *more)


def annotations(kube: Kubernetes, release: str = "proxy") -> dict[str, str]:
    app = kube.client.get(f"{APPLICATIONS}/dev-{release}").json()
    found: dict[str, str] = app["metadata"].get("annotations", {})
    return found


def container(kube: Kubernetes) -> dict[str, Any]:
    live = kube.client.get(f"{DEPLOYMENTS}/proxy").json()
    found: dict[str, Any] = live["spec"]["template"]["spec"]["containers"][0]
    return found


def test_what_argo_cd_applied_is_read_back_whole(argo: Argo, kube: Kubernetes) -> None:
    """Applying what was read back changes nothing, not even who owns which field."""
    argo.sync("1", LEVEL="info", MODE="safe")
    read = {item["kind"]: item for item in argo.live()}
    for wanted in manifests("1", LEVEL="info", MODE="safe"):
        assert read[wanted["kind"]] == wanted
    before = kube.client.get(f"{DEPLOYMENTS}/proxy").json()
    argo.cluster.apply(f"{DEPLOYMENTS}/proxy", read["Deployment"], owner=MANAGER)
    after = kube.client.get(f"{DEPLOYMENTS}/proxy").json()
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_others_fields_are_not_taken_for_argo_cds(argo: Argo, kube: Kubernetes) -> None:
    argo.sync("1")
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 7}}
    argo.cluster.apply(f"{DEPLOYMENTS}/proxy", scaled, owner="autoscaler")
    assert "replicas" not in next(i for i in argo.live() if i["kind"] == "Deployment")["spec"]


def test_it_restores_the_last_verified_manifests_without_git(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    good = argo.deploy("1", LEVEL="info")
    extra = manifests("2")[1]
    extra["metadata"] = {**extra["metadata"], "name": "extra"}
    bad = argo.deploy("2", extra, LEVEL="debug", BAD="yes", verdict=False)
    answer = offline(world, "--reason", "errors at checkout")
    assert answer.code == 0, answer.out
    assert answer.json["commit"] == good
    assert answer.json["deleted"] == ["Service extra"]
    # What the bad version brought is gone, to the last field.
    assert container(kube)["image"] == image("proxy", "1")
    assert container(kube)["env"] == [{"name": "LEVEL", "value": "info"}]
    assert kube.client.get(f"{CONFIGMAPS}/proxy").json()["data"] == {"seed": "1"}
    assert kube.client.get(f"{SERVICES}/extra").status_code == 404
    for release in ("proxy", "worker", "inference"):
        assert annotations(kube, release)[offline_mark.SKIP] == "true"
    mark = offline_mark.read(kube.client.get(f"{APPLICATIONS}/dev-proxy").json())
    assert mark is not None
    assert (mark.commit, mark.replaces, mark.reason) == (good, (bad,), "errors at checkout")


def test_status_and_verify_tell_that_git_is_not_followed(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1")
    argo.deploy("2", verdict=False)
    assert offline(world, "--reason", "night").code == 0
    status = world.run("status", "--env", "dev", "--json")
    causes = [cause for line in status.json["releases"] for cause in line["causes"]]
    assert any(c["kind"] == "offline" and "night" in c["text"] for c in causes)
    answer = verify(world)
    assert answer.code == 4
    assert "release reconcile --env dev" in answer.json["fix"]


def test_a_fault_that_had_a_verdict_is_gone_back_from(argo: Argo, world: World) -> None:
    good = argo.deploy("1")
    argo.deploy("2")  # healthy, and wrong all the same
    answer = offline(world)
    assert (answer.code, answer.json["commit"]) == (0, good)


def test_it_never_goes_forward_to_what_was_rolled_back_from(argo: Argo, world: World) -> None:
    first = argo.deploy("1")
    argo.deploy("2")
    argo.deploy("3")
    assert world.run("rollback", "--env", "dev").code == 0
    argo.sync("2")
    assert verify(world).code == 0  # forgets the fault
    answer = offline(world)
    assert (answer.code, answer.json["commit"]) == (0, first)


def test_reconcile_writes_it_to_git_and_lets_argo_cd_go_on(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1", LEVEL="info")
    argo.deploy("2", LEVEL="debug", verdict=False)
    assert offline(world, "--reason", "errors at checkout").code == 0
    answer = reconcile(world)
    assert answer.code == 0, answer.out
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")
    assert b"errors at checkout" in world.file("values/dev/hold.yaml")
    assert answer.json["commits"] == [world.head()]
    found = annotations(kube)
    assert offline_mark.SKIP not in found and offline_mark.MARK not in found
    assert found["argocd.argoproj.io/refresh"] == "normal"
    assert reconcile(world).json["commits"] == []
    argo.sync("1", LEVEL="info")
    assert verify(world).code == 0


def test_what_git_says_meanwhile_is_a_persons_choice(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1")
    argo.deploy("2", verdict=False)
    assert offline(world).code == 0
    world.deploy("3", world.source(), "proxy")  # the fix, while the cluster was on its own
    head = world.head()
    answer = reconcile(world)
    assert answer.code == 5
    assert "--discard" in answer.json["fix"]
    assert (world.head(), offline_mark.SKIP in annotations(kube)) == (head, True)
    assert reconcile(world, "--discard").code == 0
    assert (world.head(), offline_mark.SKIP in annotations(kube)) == (head, False)


def test_a_second_one_finishes_the_first_and_goes_no_further(argo: Argo, world: World) -> None:
    argo.deploy("1")
    good = argo.deploy("2")
    argo.deploy("3", verdict=False)
    assert offline(world).json["commit"] == good
    assert offline(world).json["commit"] == good


def test_of_those_kept_in_one_second_the_later_is_the_newer(argo: Argo) -> None:
    """The API server dates them to the second, and names sort by chance."""
    commits = [character * 40 for character in "9f3b71d5"]
    for commit in commits:
        snapshots.keep(argo.cluster, Snapshot("dev", commit, "ada", {}))
    kept = [one.commit for one in snapshots.kept(argo.cluster, "dev")]
    assert kept == commits[::-1]


def test_two_at_once_make_one(argo: Argo, kube: Kubernetes, world: World) -> None:
    good = argo.deploy("1", LEVEL="info")
    argo.deploy("2", LEVEL="debug", verdict=False)
    processes = [
        world.spawn("rollback", "--env", "dev", "--offline", "--json", MANIFEST_REPO=BROKEN)
        for _ in range(2)
    ]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    mark = offline_mark.read(kube.client.get(f"{APPLICATIONS}/dev-proxy").json())
    assert mark is not None and mark.commit == good
    assert container(kube)["env"] == [{"name": "LEVEL", "value": "info"}]
    assert reconcile(world).code == 0


def test_going_further_back_is_said_by_name(argo: Argo, kube: Kubernetes, world: World) -> None:
    first = argo.deploy("1")
    argo.deploy("2")
    bad = argo.deploy("3", verdict=False)
    offline(world)
    assert offline(world, "--service", "proxy").code == 5  # the whole is rolled back already
    assert offline(world, "--to", first[:10]).json["commit"] == first
    mark = offline_mark.read(kube.client.get(f"{APPLICATIONS}/dev-proxy").json())
    assert mark is not None and mark.replaces == (bad,)
    assert reconcile(world).code == 0
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")


def test_one_service_alone_goes_back(argo: Argo, kube: Kubernetes, world: World) -> None:
    argo.deploy("1")
    argo.deploy("2", verdict=False)
    assert offline(world, "--service", "proxy").code == 0
    assert offline_mark.SKIP in annotations(kube)
    assert offline_mark.SKIP not in annotations(kube, "worker")
    assert reconcile(world).code == 0
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")
    assert digest("proxy2").encode() in world.file("values/dev/worker.image.yaml")


def test_a_dry_run_touches_nothing(argo: Argo, kube: Kubernetes, world: World) -> None:
    good = argo.deploy("1")
    argo.deploy("2", verdict=False)
    answer = offline(world, "--dry-run")
    assert (answer.code, answer.json["commit"], answer.json["deleted"]) == (0, good, [])
    assert container(kube)["image"] == image("proxy", "2")
    assert offline_mark.SKIP not in annotations(kube)


def test_without_anything_kept_it_says_so(argo: Argo, world: World) -> None:
    argo.deploy("1", verdict=False)
    answer = offline(world)
    assert answer.code == 8
    assert "release verify" in answer.json["fix"]


def test_a_job_that_has_run_and_is_gone_makes_no_other_deployment(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    """The state with the fault once looked like another one, and was gone back to."""
    good = argo.deploy("1")
    spec = {
        "template": {
            "metadata": {"labels": labels("proxy")},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "migrate", "image": image("proxy", "2")}],
            },
        }
    }
    job = {**manifests("2")[0], "apiVersion": "batch/v1", "kind": "Job", "spec": spec}
    del job["data"]
    job["metadata"] = {**job["metadata"], "name": "migrate"}
    argo.deploy("2", job)
    api = "/apis/batch/v1/namespaces/dev/jobs/migrate"
    kube.client.delete(api, params={"propagationPolicy": "Background"})
    answer = offline(world)
    assert (answer.code, answer.json["commit"]) == (0, good)


def test_a_deployment_that_cannot_be_read_is_no_way_back_and_in_nobodys_way(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    good = argo.deploy("1")
    argo.deploy("2", verdict=False)
    secret = {
        "metadata": {"name": "release-dev-broken", "labels": {"slipway/deployment-of": "dev"}},
        "stringData": {"deployment": "not packed"},
    }
    kube.put(SECRETS, secret, subresource=False)
    assert offline(world).json["commit"] == good


def test_what_must_not_be_pruned_stays(argo: Argo, kube: Kubernetes, world: World) -> None:
    argo.deploy("1")
    extra = manifests("2")[1]
    kept = {**extra["metadata"]["annotations"], "argocd.argoproj.io/sync-options": "Prune=false"}
    extra["metadata"] = {**extra["metadata"], "name": "extra", "annotations": kept}
    argo.deploy("2", extra, verdict=False)
    assert offline(world).json["deleted"] == []
    assert kube.client.get(f"{SERVICES}/extra").status_code == 200


def test_it_waits_for_the_pods_and_names_what_is_wrong(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1")
    argo.deploy("2", verdict=False)
    answer = offline(world, "--verify", "--timeout", "0.1")
    assert answer.code == 7  # no controller runs here: the pods stay as they are
    argo.rolled_out("1")
    assert offline(world, "--verify").code == 0


def test_an_operation_under_way_is_ended_and_not_taken_up_again(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1")
    argo.deploy("2", verdict=False)
    running = application("proxy", world.head())["status"]["operationState"]
    patch = {
        "operation": {"sync": {"revision": world.head()}},
        "status": {"operationState": {**running, "phase": "Running"}},
    }
    argo.cluster.patch_application("dev-proxy", patch)
    assert offline(world).code == 0
    app = kube.client.get(f"{APPLICATIONS}/dev-proxy").json()
    assert "operation" not in app
    assert app["status"]["operationState"]["phase"] == "Terminating"


def test_what_lands_on_top_is_applied_again(
    argo: Argo, kube: Kubernetes, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argo CD may have been in the middle of a sync when it was told to stop."""
    argo.deploy("1", LEVEL="info")
    argo.deploy("2", LEVEL="debug", verdict=False)
    original = snapshots.captured
    looks = 0

    def late(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:  # after the first round
            item = manifests("2", LEVEL="debug")[2]
            argo.cluster.apply(f"{DEPLOYMENTS}/proxy", item, owner=MANAGER)
        return original(*arguments)

    monkeypatch.setattr(snapshots, "captured", late)
    answer = offline(world)
    assert answer.code == 0, answer.out
    assert container(kube)["env"] == [{"name": "LEVEL", "value": "info"}]
    assert any("applied again" in note for note in answer.json["notes"])


def test_a_sync_that_begins_after_the_mark_is_ended_and_applied_over(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    """Found: what Argo CD was looking at when it was marked was synced seconds afterwards."""
    argo.deploy("1", LEVEL="info")
    argo.deploy("2", LEVEL="debug", verdict=False)
    at = "2026-11-20T12:00:00Z"
    going = OfflineRollback(argo.cluster, "dev", "ada", at, timeout=30, poll=0.05, quiet=0.5)
    done = going.run()
    late = {
        "operation": {"sync": {"revision": world.head()}},
        "status": {"operationState": {"phase": "Running"}},
    }
    argo.cluster.patch_application("dev-proxy", late)
    argo.cluster.apply(f"{DEPLOYMENTS}/proxy", manifests("2", LEVEL="debug")[2], owner=MANAGER)

    restored = [{"name": "LEVEL", "value": "info"}]

    def pods_follow() -> None:
        until(lambda: container(kube)["env"] == restored, "the variables of before")
        argo.rolled_out("1")

    thread = run_later(pods_follow)
    going.wait(going.target(done.mark.commit), ["proxy"])
    thread.join()
    assert container(kube)["env"] == restored
    app = kube.client.get(f"{APPLICATIONS}/dev-proxy").json()
    assert "operation" not in app
    assert app["status"]["operationState"]["phase"] == "Terminating"


def killed_at(world: World, step: int, *arguments: str, **environment: str) -> bool:
    """Run `release` in a process that dies before its n-th write; whether it died."""
    code = forked.exit_code(_dying, world, step, arguments, environment)
    assert code in (0, 77), code
    return code == 77


def _dying(world: World, step: int, arguments: tuple[str, ...], environment: dict[str, str]) -> int:
    calls = 0
    original, attempt = Cluster.request, Git.attempt

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            os._exit(77)

    def request(self: Cluster, method: str, *rest: Any, **more: Any) -> Any:
        if method != "GET":
            count()
        return original(self, method, *rest, **more)

    def git(self: Git, *rest: str, **more: Any) -> Any:
        if rest[0] in ("commit-tree", "push"):
            count()
        return attempt(self, *rest, **more)

    client.Cluster.request = request  # type: ignore[method-assign]
    Git.attempt = git  # type: ignore[method-assign]
    return world.run(*arguments, **environment).code


def test_killed_at_any_write_a_rerun_finishes_it(
    argo: Argo, kube: Kubernetes, world: World
) -> None:
    argo.deploy("1", LEVEL="info")
    going = ("rollback", "--env", "dev", "--offline")
    back = ("reconcile", "--env", "dev", "--no-verify")
    step = 0
    while True:
        step += 1 if EVERY_STEP else 3
        argo.deploy("2", LEVEL="debug", verdict=False)
        killed = killed_at(world, step, *going, MANIFEST_REPO=BROKEN)
        assert offline(world).code == 0
        assert container(kube)["env"] == [{"name": "LEVEL", "value": "info"}]
        before = world.head()
        killed_at(world, step, *back)
        assert reconcile(world).code == 0
        assert world.git("rev-list", "--count", f"{before}..main", cwd=world.remote) == "1"
        assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")
        for release in ("proxy", "worker"):
            assert offline_mark.SKIP not in annotations(kube, release)
        assert world.run("unhold", "--env", "dev").code == 0
        if not killed:
            break
    assert step > 5
