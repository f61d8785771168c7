"""The little of GitHub's API that a release needs: one comment, one pull request, no more."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import stamina

from release import tls
from release.errors import ReleaseError, UnreachableError


class GitHubRefusedError(ReleaseError):
    """GitHub answered, with an error: ``status`` is HTTP's."""

    def __init__(self, message: str, *, status: int = 0, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status = status


class _Passing(Exception):  # noqa: N818 - never leaves this module
    """An answer that a second try may better."""


@dataclass
class GitHub:
    """A repository on GitHub. ``token`` is never part of an error."""

    repository: str
    token: str = field(repr=False)
    url: str = "https://api.github.com"
    timeout: float = 20.0

    @classmethod
    def from_environment(cls) -> GitHub:
        """As the variables of a workflow say: GITHUB_REPOSITORY, GITHUB_TOKEN, GITHUB_API_URL.

        Raises ReleaseError naming the one that is missing.
        """
        token = os.environ.get("MANIFEST_TOKEN") or os.environ.get("GITHUB_TOKEN", "")
        values = {"GITHUB_REPOSITORY": os.environ.get("GITHUB_REPOSITORY"), "GITHUB_TOKEN": token}
        for name, value in values.items():
            if not value:
                raise ReleaseError(f"{name} is not set.", fix="run this in a workflow, or set it")
        url = os.environ.get("GITHUB_API_URL", cls.url)
        return cls(values["GITHUB_REPOSITORY"] or "", token, url)

    def read(self, path: str, params: dict[str, Any] | None = None) -> Any:
        """What GitHub has at a path of its API.

        Raises GitHubRefusedError for what is not there or not shown, UnreachableError without an
        answer.
        """
        return self._call("GET", path, params=params)

    def read_all(
        self, path: str, key: str | None, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Every entry of a list at a path, page after page; ``key`` holds it in each answer."""
        found: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = self.read(path, {**(params or {}), "per_page": 100, "page": page})
            entries = answer if key is None else answer[key]
            found += entries
            if len(entries) < 100:
                return found
            page += 1

    def comment(self, number: int, text: str, marker: str) -> str:
        """Write a comment on an issue or pull request, in place of the one with ``marker``.

        Returns its address.
        """
        path = f"/repos/{self.repository}/issues/{number}/comments"
        page = 1
        while comments := self._call("GET", path, params={"per_page": 100, "page": page}):
            for comment in comments:
                if marker in comment["body"]:
                    target = f"/repos/{self.repository}/issues/comments/{comment['id']}"
                    return str(self._call("PATCH", target, {"body": text})["html_url"])
            page += 1
        return str(self._call("POST", path, {"body": text})["html_url"])

    def pull_request(self, head: str, base: str, title: str, body: str) -> tuple[int, str, bool]:
        """The open pull request of a branch, made if there is none: number, address, reused."""
        owner = self.repository.split("/")[0]
        path = f"/repos/{self.repository}/pulls"
        found = self._call(
            "GET", path, params={"state": "open", "head": f"{owner}:{head}", "base": base}
        )
        if found:
            number = int(found[0]["number"])
            made = self._call("PATCH", f"{path}/{number}", {"title": title, "body": body})
            return number, str(made["html_url"]), True
        made = self._call("POST", path, {"title": title, "body": body, "head": head, "base": base})
        return int(made["number"]), str(made["html_url"]), False

    def commit(
        self, branch: str, parent: str, edits: Mapping[str, bytes | None], message: str
    ) -> str:
        """Commit on a branch that still stands at ``parent``; GitHub signs it as the App's.

        Returns the commit's id. Raises ReleaseError with GitHub's words when it refuses, also
        when the branch has moved: nothing is committed then.
        """
        headline, _, rest = message.partition("\n")
        query = (
            "mutation ($input: CreateCommitOnBranchInput!) "
            "{ createCommitOnBranch(input: $input) { commit { oid } } }"
        )
        additions = [
            {"path": path, "contents": base64.b64encode(content).decode()}
            for path, content in edits.items()
            if content is not None
        ]
        deletions = [{"path": path} for path, content in edits.items() if content is None]
        variables = {
            "input": {
                "branch": {"repositoryNameWithOwner": self.repository, "branchName": branch},
                "expectedHeadOid": parent,
                "message": {"headline": headline, "body": rest.strip()},
                "fileChanges": {"additions": additions, "deletions": deletions},
            }
        }
        # Not through _call: a commit whose answer was lost must be looked for, not repeated.
        try:
            answer = self._once("POST", "/graphql", {"query": query, "variables": variables}, None)
        except (_Passing, httpx.TransportError) as error:
            raise UnreachableError(
                f"GitHub does not answer: {error}", fix="run it again"
            ) from error
        if answer.get("errors"):
            raise ReleaseError(f"GitHub refuses the commit: {answer['errors'][0]['message']}")
        return str(answer["data"]["createCommitOnBranch"]["commit"]["oid"])

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> Any:
        try:
            for attempt in stamina.retry_context(
                on=(_Passing, httpx.TransportError), attempts=4, wait_initial=0.5, wait_max=5
            ):
                with attempt:
                    return self._once(method, path, body, params)
        except (_Passing, httpx.TransportError) as error:
            raise UnreachableError(
                f"GitHub does not answer {method} {path}: {error}", fix="run the command again"
            ) from error

    def _once(
        self, method: str, path: str, body: dict[str, Any] | None, params: dict[str, Any] | None
    ) -> Any:
        answer = httpx.request(
            method,
            f"{self.url}{path}",
            json=body,
            params=params,
            timeout=self.timeout,
            verify=tls.authorities(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        if answer.status_code in (429, 500, 502, 503, 504):
            raise _Passing(f"it answered {answer.status_code}")
        if answer.is_error:
            needed = "may read this" if method == "GET" else "has pull-requests: write"
            raise GitHubRefusedError(
                f"GitHub answered {answer.status_code} to {method} {path}: {answer.text[:300]}",
                status=answer.status_code,
                fix=f"use a token that {needed}",
            )
        return answer.json()
