"""Pull requests and comments, against an HTTP server that keeps them as GitHub does."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from release.git.program import Git
from release.git.repository import ManifestRepo
from tests.programs import require
from tests.release.conftest import (
    IDENTITY,
    World,
    application_set,
    digest,
    reference,
    seen_healthy,
)
from tests.release.test_faults import before_first_push, killed_at, steps_of


@dataclass
class Host:
    """Comments and pull requests; ``failures`` are answered 502 first."""

    url: str = ""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    tokens: set[str] = field(default_factory=set)
    remote: Path | None = None
    before_commit: Callable[[], object] = lambda: None


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            state.tokens.add(self.headers["Authorization"])
            if state.failures:
                state.failures -= 1
                return self.send(502, {})
            if self.path == "/graphql":
                return self.send(200, committed(state, body["variables"]["input"]))
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if match := re.fullmatch(r"/repos/o/r/pulls(?:/(\d+))?", url.path):
                return self.pulls(match[1], body, query)
            if re.fullmatch(r"/repos/o/r/issues/7/comments", url.path):
                if self.command == "POST":
                    made = {"id": len(state.comments), "html_url": "c", **body}
                    state.comments.append(made)
                    return self.send(201, made)
                page = int(query["page"][0])
                return self.send(200, state.comments[(page - 1) * 100 : page * 100])
            if match := re.fullmatch(r"/repos/o/r/issues/comments/(\d+)", url.path):
                state.comments[int(match[1])].update(body)
                return self.send(200, state.comments[int(match[1])])
            return self.send(404, {"message": "Not Found"})

        def pulls(self, number: str | None, body: Any, query: dict[str, list[str]]) -> None:
            if number:
                state.pulls[int(number) - 1].update(body)
                return self.send(200, state.pulls[int(number) - 1])
            if self.command == "POST":
                index = len(state.pulls) + 1
                made = {"number": index, "html_url": f"p/{index}", "state": "open", **body}
                state.pulls.append(made)
                return self.send(201, made)
            wanted = [
                pull
                for pull in state.pulls
                if pull["state"] == "open" and f"o:{pull['head']}" == query["head"][0]
            ]
            return self.send(200, wanted)

        def send(self, code: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("GITHUB_API_URL", state.url)
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_TOKEN", "secret-token")
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def committed(state: Host, given: dict[str, Any]) -> dict[str, Any]:
    """createCommitOnBranch, on a real bare repository: refused when the branch has moved."""
    act, state.before_commit = state.before_commit, lambda: None
    act()
    assert state.remote is not None
    folder = Git(state.remote, IDENTITY)
    head = folder.text("rev-parse", "main")
    if head != given["expectedHeadOid"]:
        message = f"Expected branch to point to {given['expectedHeadOid']} but it did not."
        return {"errors": [{"message": message}]}
    edits: dict[str, bytes | None] = {
        one["path"]: base64.b64decode(one["contents"]) for one in given["fileChanges"]["additions"]
    }
    edits |= {one["path"]: None for one in given["fileChanges"]["deletions"]}
    text = f"{given['message']['headline']}\n\n{given['message']['body']}\n"
    commit = ManifestRepo(folder, None, "main", "r").commit(head, edits, text)
    folder.run("update-ref", "refs/heads/main", commit, head)
    return {"data": {"createCommitOnBranch": {"commit": {"oid": commit}}}}


def test_commits_can_be_githubs_own(world: World, host: Host) -> None:
    host.remote = world.remote
    host.before_commit = lambda: world.push({"README.md": "a race\n"})
    answer = world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision",
        world.source(), "--no-check-registry", "--github-api", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.out
    assert (answer.json["attempts"], answer.json["commit"]) == (2, world.head())
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")
    trailers = world.git("log", "-1", "--format=%(trailers:only)", "main", cwd=world.remote)
    assert "Release-Operation: image set" in trailers
    assert world.run("hold", "--env", "dev", "--reason", "x", "--github-api").code == 0
    assert world.run("unhold", "--env", "dev", "--github-api").code == 0
    assert not world.exists("values/dev/hold.yaml")


def promote(world: World, *more: str) -> Any:
    answer = world.run(
        "promote", "--from", "dev", "--to", "stage", "--no-verify", "--pull-request", "--json",
        *more,
    )  # fmt: skip
    assert answer.code == 0, answer.out + answer.err
    return answer.json


def branch(world: World) -> str:
    return world.git("rev-parse", "promote/dev-to-stage", cwd=world.remote)


def test_a_pull_request_is_opened_once_and_renewed(world: World, host: Host) -> None:
    require("helm")
    main = world.head()
    world.deploy("1", world.source())
    seen_healthy(world, "dev")
    first = promote(world)
    assert (first["pull_request"], first["reused"]) == (1, False)
    before = branch(world)
    assert world.git("rev-parse", f"{before}^", cwd=world.remote) == world.head() != main
    assert digest("proxy1").encode() in world.file("values/stage/proxy.image.yaml", before)
    assert b'digest: ""' in world.file("values/stage/proxy.image.yaml")  # main is as it was

    again = promote(world)  # nothing new: the same commit stays
    assert (again["reused"], branch(world)) == (True, before)

    world.deploy("2", world.source())
    seen_healthy(world, "dev")
    renewed = promote(world)
    assert (renewed["pull_request"], renewed["reused"]) == (1, True)
    after = branch(world)
    assert digest("proxy2").encode() in world.file("values/stage/proxy.image.yaml", after)
    # Moved forward, not by force: what was there before is in its history.
    world.git("merge-base", "--is-ancestor", before, after, cwd=world.remote)
    [pull] = host.pulls
    assert pull["title"] == f"stage: Promote proxy, worker at {renewed_revision(world)}"
    assert digest("proxy2") in pull["body"]
    assert len(pull["body"]) <= 65_536


CHART = {
    "charts/service/Chart.yaml": "apiVersion: v2\nname: service\nversion: 1.0.0\n",
    "charts/service/templates/configmap.yaml": (
        "apiVersion: v1\nkind: ConfigMap\n"
        "metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}\n"
        "data: {digest: {{ .Values.image.digest | quote }}}\n"
    ),
}


def test_a_pull_request_tells_what_comes_what_changes_and_what_drifted(
    world: World, host: Host
) -> None:
    """Found: none of the three was proved; the commits of another source were left out."""
    require("helm")
    other = World(world.folder / "other", world.environment)
    other.folder.mkdir()
    world.git("clone", "-q", "--bare", str(world.remote), str(other.remote), cwd=world.folder)
    world.push({**CHART, "argocd/environments/stage.yaml": application_set("stage")}, "A chart")

    def built(seed: str, env: str) -> str:
        revision = other.source()
        answer = world.run(
            "image", "set", "--env", env, "--image", reference("proxy", seed), "--revision",
            revision, "--no-check-registry", "--source", str(other.remote),
        )  # fmt: skip
        assert answer.code == 0, answer.err
        return revision

    old = built("1", "stage")
    between = other.source()
    new = built("2", "dev")
    seen_healthy(world, "dev")
    world.environment["GIT_COMMITTER_DATE"] = "2030-01-01T00:00:00Z"
    world.push({"values/dev/worker.yaml": "replicas: 3\n"}, "More workers")
    promote(world, "--source", str(other.remote))
    [pull] = host.pulls
    listed = f"**proxy** {old[:12]}..{new[:12]}\n"
    assert listed in pull["body"]
    for commit in (new, between):
        assert f"- {commit[:7]} Change the source" in pull["body"]
    assert f"- {old[:7]} " not in pull["body"]
    assert "- worker: dev was configured anew since (" in pull["body"]
    assert "More workers" in pull["body"]
    assert "- proxy: dev was configured" not in pull["body"]
    assert "| stage/proxy | 0 | 1 | 0 |" in pull["body"]
    assert f"+  digest: {digest('proxy2')}" in pull["body"]
    assert f"-  digest: {digest('proxy1')}" in pull["body"]


def test_a_branch_that_moves_meanwhile_is_moved_forward_again(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the push of a pull request's branch was tried once."""
    world.deploy("1", world.source())
    seen_healthy(world, "dev")
    promote(world)
    before = branch(world)
    world.deploy("2", world.source())
    seen_healthy(world, "dev")

    def other() -> None:
        world.git("fetch", "-q", "origin")
        world.git("checkout", "-q", "--detach", before)
        world.git("commit", "-q", "--allow-empty", "-m", "A person's commit")
        world.git("push", "-q", "origin", "HEAD:promote/dev-to-stage")

    before_first_push(monkeypatch, other)
    promote(world)
    log = world.git("log", "--format=%s", branch(world), cwd=world.remote)
    assert "A person's commit" in log
    path = "values/stage/proxy.image.yaml"
    assert digest("proxy2").encode() in world.file(path, branch(world))


def test_a_remote_that_is_gone_ends_a_proposal_as_it_ends_the_rest(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: its exit code was that of a conflict."""
    world.deploy("1", world.source())
    seen_healthy(world, "dev")
    before_first_push(monkeypatch, lambda: world.remote.rename(world.folder / "elsewhere.git"))
    answer = world.run(
        "promote", "--from", "dev", "--to", "stage", "--no-verify", "--pull-request", "--json"
    )
    assert answer.code == 9, answer.out
    assert host.pulls == []


def test_killed_on_the_way_a_rerun_opens_the_one_pull_request(world: World, host: Host) -> None:
    world.deploy("1", world.source())
    seen_healthy(world, "dev")
    main = world.head()
    asked = ["promote", "--from", "dev", "--to", "stage", "--no-verify", "--pull-request"]
    begun = world.folder / "begun.git"
    shutil.copytree(world.remote, begun)
    total = steps_of(world, asked)
    for step in (total // 3, 2 * total // 3, total):
        shutil.rmtree(world.remote)
        shutil.copytree(begun, world.remote)
        host.pulls.clear()
        assert killed_at(world, step, step % 2 == 0, *asked)
        assert world.run(*asked).code == 0
        assert len(host.pulls) == 1
        assert world.head() == main
        path = "values/stage/proxy.image.yaml"
        assert digest("proxy1").encode() in world.file(path, branch(world))


def renewed_revision(world: World) -> str:
    text = world.file("values/dev/proxy.image.yaml").decode()
    return text.split('revision: "')[1][:12]


def test_a_comment_is_replaced_and_a_hiccup_is_survived(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.comments += [{"id": n, "body": "people talk", "html_url": "x"} for n in range(150)]
    file = world.folder / "diff.md"
    for text in ("one", "two"):
        host.failures = 1
        file.write_text(f"<!-- release diff -->\n{text}\n")
        answer = world.run("comment", "--pull-request", "7", "--file", str(file))
        assert answer.code == 0, answer.err
    ours = [c for c in host.comments if "release diff" in c["body"]]
    assert [c["body"].strip().endswith("two") for c in ours] == [True]
    assert host.tokens == {"Bearer secret-token"}


def test_a_comment_can_be_looked_at_first(world: World, host: Host) -> None:
    """Found: a file that is not there was a traceback, and there was no dry run."""
    file = world.folder / "diff.md"
    answer = world.run("comment", "--pull-request", "7", "--file", str(file), "--json")
    assert answer.code == 8
    assert str(file) in answer.json["message"]
    file.write_text("# what changes\n")
    answer = world.run("comment", "--pull-request", "7", "--file", str(file), "--dry-run")
    assert (answer.code, answer.out) == (0, "# what changes\n\n")
    assert host.comments == []


def test_a_pull_request_by_the_api_is_refused(world: World, host: Host) -> None:
    """Found: with --pull-request the option --github-api was dropped without a word."""
    answer = world.run(
        "promote", "--from", "dev", "--to", "stage", "--pull-request", "--github-api", "--json"
    )
    assert answer.code == 1
    assert "--github-api" in answer.json["message"]


def test_a_refusal_never_shows_the_token(world: World, host: Host) -> None:
    file = world.folder / "diff.md"
    file.write_text("x")
    answer = world.run("comment", "--pull-request", "8", "--file", str(file), "--json")
    assert answer.code == 1
    assert "404" in answer.json["message"]
    assert "secret-token" not in answer.out + answer.err
