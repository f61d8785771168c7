"""release.describe: every part with its place, and what is not known by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from release.describe.request import _speaking_of as speaking_of
from release.describe.request import in_short
from tests.release.conftest import Answer, World, digest, reference, seen_healthy
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import (
    application,
    container,
    kube,
    labels,
    pod,
)

__all__ = ["kube"]

PODS = "/api/v1/namespaces/dev/pods"


def describe(world: World, kind: str, name: str, *more: str) -> Answer:
    return world.run("describe", kind, name, "--json", *more)


def facts(answer: Answer, title: str) -> dict[str, tuple[str, str]]:
    """A part's facts: value and place by what they say; the last where there are several."""
    assert answer.code == 0, answer.out + answer.err
    (part,) = [one for one in answer.json["parts"] if one["title"] == title]
    return {fact["what"]: (fact["value"], fact["where"]) for fact in part["facts"]}


def gaps(answer: Answer) -> str:
    return "\n".join(answer.json["gaps"])


def line_in(world: World, file: str, start: str) -> int:
    lines = world.file(file).decode().splitlines()
    return next(number for number, one in enumerate(lines, 1) if one.strip().startswith(start))


def test_a_service_with_its_values_its_callers_and_what_runs(world: World) -> None:
    world.push(
        {
            "apps/proxy/pyproject.toml": "[project]\nname = 'slipway-proxy'\n",
            "Dockerfile": "FROM scratch\n",
            "values/services/proxy/service.yaml": "args: [serve]\ncalls: {inference: {}}\n",
            "values/services/inference/service.yaml": "callers:\n  proxy: {}\n",
        }
    )
    revision = world.source()
    world.deploy("1", revision, "proxy")
    seen_healthy(world, "dev")
    answer = describe(world, "service", "proxy")
    assert facts(answer, "source")["package"] == ("1 files", "apps/proxy")
    values = facts(answer, "values of every environment")
    assert values["calls"] == ("{inference: {}}", "values/services/proxy/service.yaml:2")
    neighbours = facts(answer, "calls and callers")
    assert neighbours["may call"] == ("inference", "values/services/inference/service.yaml:2")
    here = facts(answer, "proxy in dev")
    file = "values/dev/proxy.image.yaml"
    assert here["digest"] == (digest("proxy1"), f"{file}:{line_in(world, file, 'digest:')}")
    row = line_in(world, "argocd/environments/dev.yaml", "- {release: proxy")
    assert here["release"] == ("chart service", f"argocd/environments/dev.yaml:{row}")
    assert here["source"] == ("Change the source (Ada)", f"commit {revision}")
    said, commit = here["last change"]
    assert "image set, by Ada" in said
    assert said.endswith("[deployed]")
    assert commit == f"commit {world.head()}"
    worker = facts(answer, "worker in dev")
    assert worker["release"][0] == "chart service, with the image and values of proxy"
    assert "proxy has no tests: tests/proxy is not there" in gaps(answer)
    assert "nothing is deployed of proxy in stage: values/stage/proxy.image.yaml" in gaps(answer)


def test_a_service_that_is_built_elsewhere_and_lives_in_dev_alone(world: World) -> None:
    environment = world.file("argocd/environments/dev.yaml").decode()
    more = "        elements:\n          - {release: ranker, chart: service}\n"
    world.push(
        {
            "argocd/environments/dev.yaml": environment.replace("        elements:\n", more),
            "values/dev/ranker.image.yaml": world.file("values/dev/proxy.image.yaml").decode(),
        }
    )
    answer = describe(world, "service", "ranker")
    assert "apps/ranker is not in this repository" in gaps(answer)
    assert "ranker has no values of its own" in gaps(answer)
    assert "prod has no release of ranker: argocd/environments/prod.yaml" in gaps(answer)
    assert "stage has no release" in gaps(answer)


def test_lines_that_speak_of_a_name_are_found_as_words_and_what_deploys_first(
    world: World,
) -> None:
    world.push(
        {
            "docs/page.md": "The proxy.\nproxy-2 and my_proxy are others.\n",
            "values/dev/proxy.yaml": "replicas: 1\nenv: {A: 'http://proxy:8080'}\n",
        }
    )
    found = describe(world, "service", "proxy").json["mentions"]
    places = [(one["file"], one["line"]) for one in found]
    assert ("docs/page.md", 1) in places
    assert ("docs/page.md", 2) not in places
    assert ("values/dev/proxy.yaml", 2) in places
    folders = [file.split("/")[0] for file, _ in places]
    assert folders[0] == "values"
    assert folders[-1] == "docs"
    short = world.run("describe", "service", "proxy").out
    assert f"{len(found)} lines in" in short


def test_names_with_signs_of_patterns_find_themselves_alone(world: World) -> None:
    world.push({"docs/page.md": "a.b\naxb\n"})
    entry = '  "a.b":\n    version: "1"\n    uri: "s3://m/a"\n    sha256: "' + "0" * 64 + '"\n'
    world.push({"values/dev/inference.models.yaml": "models:\n" + entry})
    found = describe(world, "model", "a.b").json["mentions"]
    assert [one["line"] for one in found if one["file"] == "docs/page.md"] == [1]


def test_a_model_with_the_releases_that_serve_it(world: World) -> None:
    entry = 'version: "3"\n    uri: "s3://models/digits/3"\n    sha256: "' + "ab" * 32 + '"\n'
    content = f"models:\n  digits:\n    {entry}  iris:\n    {entry}"
    world.push({"values/dev/inference.models.yaml": content})
    answer = describe(world, "model", "digits")
    found = facts(answer, "versions")
    assert found["dev/inference"] == (
        "version 3, beside iris",
        "values/dev/inference.models.yaml:2",
    )
    assert found["files"][0] == "s3://models/digits/3"
    assert found["release"][0] == "a server that others share"
    assert "prod does not serve digits" in gaps(answer)
    unknown = describe(world, "model", "digit")
    assert unknown.code == 8
    assert "did you mean 'digits'?" in unknown.json["fix"]


def test_an_environment_with_its_rules_and_what_nobody_deploys(world: World) -> None:
    project = (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n  annotations:\n"
        "    slipway/hosts: shop.example.org\n---\nkind: AppProject\nmetadata: {name: p-prod}\n"
    )
    world.push(
        {
            "argocd/projects/prod.yaml": project,
            "values/promotion.yaml": "prod:\n  from: [stage]\n  soak: 30m\n",
            "values/prod/ghost.yaml": "replicas: 1\n",
        }
    )
    answer = describe(world, "environment", "prod")
    where = "argocd/projects/prod.yaml"
    found = facts(answer, "namespace and project")
    assert found["hosts"] == ("shop.example.org", where)
    assert found["project"] == ("p-prod", where)
    rules = facts(answer, "rules")
    assert rules["promotion into it"] == ("from stage", "values/promotion.yaml:1")
    assert rules["soak before it"] == ("0:30:00", "values/promotion.yaml:3")
    assert "values/prod/ghost.* has no row" in gaps(answer)
    assert "argocd/projects/dev.yaml is missing" in gaps(describe(world, "environment", "dev"))
    assert facts(describe(world, "environment", "stage"), "rules")["promoted to"] == (
        "prod",
        "values/promotion.yaml:2",
    )
    assert describe(world, "environment", "moon").code == 8


@pytest.mark.parametrize("short", [False, True])
def test_a_digest_with_the_commits_that_named_it(
    kube: Kubernetes, world: World, short: bool
) -> None:
    first, second = world.source(), world.source()
    world.deploy("1", first, "proxy")
    seen_healthy(world, "dev")
    named = world.head()
    kube.put(PODS, pod("proxy", "1"))
    text = digest("proxy1")[7:19] if short else digest("proxy1")
    answer = describe(world, "digest", text)
    found = facts(answer, "wanted by")
    assert found["dev/proxy"][1] == "values/dev/proxy.image.yaml:5"
    assert facts(answer, "source")["source"][1] == f"commit {first}"
    assert facts(answer, "pods") == {"dev/proxy": ("Running", "pod proxy-1")}
    assert facts(answer, "commits that named it or took it away")["dev"][1] == f"commit {named}"
    world.deploy("2", second, "proxy")
    before = describe(world, "digest", digest("proxy1"))
    assert "no release is to run it now" in gaps(before)
    commits = [one for one in before.json["parts"] if one["title"].startswith("commits")]
    assert len(commits[0]["facts"]) == 2


def test_a_digest_without_a_cluster_and_one_that_never_was(world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    answer = world.run("describe", "digest", digest("proxy1"), "--json", KUBECONFIG="/nowhere")
    assert answer.code == 0, answer.err
    assert "the cluster was not asked which pods run it" in gaps(answer)
    assert "There is no usable kubeconfig" in gaps(answer)
    assert describe(world, "digest", digest("other")).code == 8
    assert describe(world, "digest", "abcdef0").code == 8
    bad = describe(world, "digest", "latest")
    assert bad.code == 1
    assert "'latest' is no digest" in bad.json["message"]


def test_a_pod_beside_what_git_wants_of_it(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    app = application("proxy", world.head())
    app["metadata"]["labels"] = {"slipway/environment": "dev", "slipway/release": "proxy"}
    kube.put(APPLICATIONS, app, subresource=False)
    kube.put(PODS, pod("proxy", "1"))
    answer = describe(world, "pod", "proxy-1")
    assert facts(answer, "pod proxy-1")["state"][0] == "Running, ready"
    assert digest("proxy1") in facts(answer, "containers")["proxy"][0]
    wanted = facts(answer, "what Git wants of proxy in dev")
    assert wanted["digest"] == (digest("proxy1"), "values/dev/proxy.image.yaml:5")
    applied, name = facts(answer, "Argo CD")["applied"]
    assert (applied.split("(")[1], name) == ("the newest of the branch)", "dev-proxy")
    assert gaps(answer) == ""


def test_a_pod_that_git_does_not_want_so(kube: Kubernetes, world: World) -> None:
    world.deploy("2", world.source(), "proxy")
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    ended = {"terminated": {"exitCode": 1, "message": "no Redis at redis:6379"}}
    status = container("proxy", state=waiting, lastState=ended, restartCount=7)
    old = pod("proxy", "1", ready=False, containerStatuses=[status])
    kube.put(PODS, old)
    answer = describe(world, "pod", "proxy-1", "--env", "dev")
    assert "waiting (CrashLoopBackOff), 7 restarts" in facts(answer, "containers")["proxy"][0]
    assert f"container proxy runs {digest('proxy1')[:19]}, Git wants" in gaps(answer)
    assert "Argo CD has no Application for proxy in dev" in gaps(answer)
    trouble, _ = facts(answer, "pod proxy-1")["trouble"]
    assert "exit code 1, 7 restarts: no Redis at redis:6379" in trouble
    assert "; fix: " in trouble


def test_pods_that_git_does_not_make(kube: Kubernetes, world: World) -> None:
    foreign: dict[str, Any] = {
        "metadata": {"name": "by-hand", "labels": labels("nobody")},
        "spec": {"containers": [{"name": "c", "image": "busybox:latest"}]},
    }
    kube.put(PODS, foreign)
    answer = describe(world, "pod", "by-hand")
    assert "no release of dev is nobody: Git does not make this pod" in gaps(answer)
    assert "container c runs a tag" in gaps(answer)
    gone = describe(world, "pod", "gone")
    assert gone.code == 8
    assert "no pod 'gone' in dev, prod, stage" in gone.json["message"]


def test_a_request_that_no_log_speaks_of(kube: Kubernetes, world: World) -> None:
    answer = describe(world, "request-id", "abc", "--env", "dev")
    assert answer.code == 8
    assert "No log of a pod that runs speaks of the request 'abc'" in answer.json["message"]


def test_log_lines_are_found_in_json_and_in_text() -> None:
    entry = {"message": "refused", "request_id": "r-1", "status": 429, "model": "", "path": "/x"}
    log = "\n".join(
        (
            json.dumps(entry),
            json.dumps({**entry, "request_id": "r-2"}),
            "plain r-1 line",
            json.dumps(["r-1"]),
        )
    )
    assert [in_short(one) for one in speaking_of(log, "r-1")] == [
        "message=refused path=/x status=429",
        "message=plain r-1 line",
    ]


def test_people_read_each_part_with_its_place(world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    answer = world.run("describe", "service", "proxy")
    assert answer.code == 0
    assert f"digest       {digest('proxy1')}  values/dev/proxy.image.yaml:5" in answer.out
    assert "not known, or missing" in answer.out
    assert reference("proxy", "1").partition("@")[0].removeprefix("proxy=") in answer.out
