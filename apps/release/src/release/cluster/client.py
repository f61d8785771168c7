"""What the cluster says: plain reads (and the few writes a verdict needs) over the Kubernetes API.

Objects are the API's own JSON; what they mean is decided in `diagnosis`, which is pure.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from release.errors import NotFoundError, ReleaseError, UnreachableError

Object = dict[str, Any]

APPLICATIONS = "/apis/argoproj.io/v1alpha1/namespaces/{namespace}/applications"
ENVIRONMENT = "slipway/environment"
RELEASE = "slipway/release"
REFRESH = "argocd.argoproj.io/refresh"
EXEC_SECONDS = 30.0
_PART_OF = "app.kubernetes.io/part-of=slipway"


class ForbiddenError(ReleaseError):
    """The cluster does not allow this identity to do that."""


@dataclass(frozen=True)
class Observation:
    """An environment as the cluster shows it, at one moment."""

    applications: Mapping[str, Object]
    """By release; releases without an Application are absent."""
    pods: Sequence[Object] = ()
    deployments: Sequence[Object] = ()
    replicasets: Sequence[Object] = ()
    cronjobs: Sequence[Object] = ()
    jobs: Sequence[Object] = ()
    events: Sequence[Object] = ()
    endpointslices: Sequence[Object] = ()


class Cluster:
    """One Kubernetes, reached as kubectl would; ``timeout`` is in seconds per request."""

    def __init__(
        self,
        context: str | None = None,
        kubeconfig: str | None = None,
        *,
        argocd_namespace: str = "argocd",
        timeout: float = 10.0,
    ) -> None:
        # Half a second of import time that commands on Git alone need not pay.
        from kubernetes import client, config  # noqa: PLC0415
        from kubernetes.config import ConfigException  # noqa: PLC0415

        configuration = client.Configuration()
        configuration.retries = False  # the caller polls anyway
        # The library reads KUBECONFIG when it is imported; what counts is what it says now.
        file = kubeconfig or os.environ.get("KUBECONFIG") or None
        try:
            config.load_kube_config(file, context, configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise UnreachableError(
                f"There is no usable kubeconfig: {error}",
                fix="set KUBECONFIG, or pass --kubeconfig and --context",
            ) from error
        self._api = client.ApiClient(configuration)
        self._kinds: dict[str, dict[str, Object]] = {}
        self.argocd_namespace = argocd_namespace
        self.timeout = timeout

    def observe(self, environment: str, releases: Sequence[str]) -> Observation:
        """Everything a verdict on an environment needs, in a handful of lists."""
        prefix = f"{environment}-"
        wanted = {f"{prefix}{release}" for release in releases}
        core = f"/api/v1/namespaces/{environment}"
        lists = {
            "applications": (APPLICATIONS.format(namespace=self.argocd_namespace), "", ""),
            "pods": (f"{core}/pods", _PART_OF, ""),
            "deployments": (_path("apps", environment, "deployments"), _PART_OF, ""),
            "replicasets": (_path("apps", environment, "replicasets"), _PART_OF, ""),
            "cronjobs": (_path("batch", environment, "cronjobs"), _PART_OF, ""),
            "jobs": (_path("batch", environment, "jobs"), "", ""),
            "events": (f"{core}/events", "", "type=Warning"),
            "endpointslices": (
                f"/apis/discovery.k8s.io/v1/namespaces/{environment}/endpointslices",
                "",
                "",
            ),
        }
        # Side by side: what takes time is the way there and back.
        with ThreadPoolExecutor(len(lists)) as pool:
            running = {
                kind: pool.submit(self.list, path, selector=selector, fields=fields)
                for kind, (path, selector, fields) in lists.items()
            }
        found = {kind: future.result() for kind, future in running.items()}
        applications = {
            app["metadata"]["name"].removeprefix(prefix): app
            for app in found.pop("applications")
            if app["metadata"]["name"] in wanted
        }
        return Observation(applications, **found)

    def list(self, path: str, *, selector: str = "", fields: str = "") -> list[Object]:
        """Items of a list; none where the API has no such kind (its CRD is not installed)."""
        query = [("labelSelector", selector)] if selector else []
        query += [("fieldSelector", fields)] if fields else []
        try:
            items: list[Object] = self.request("GET", path, query)["items"]
        except NotFoundError:
            return []
        return items

    def path(self, api_version: str, kind: str, namespace: str | None) -> str:
        """Where objects of a kind lie; asked of the API once per group and version.

        Raises NotFoundError when the API has no such kind.
        """
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if api_version not in self._kinds:
            listed = self.request("GET", root)["resources"]
            resources = [entry for entry in listed if "/" not in entry["name"]]
            self._kinds[api_version] = {entry["kind"]: entry for entry in resources}
        entry = self._kinds[api_version].get(kind)
        if entry is None:
            raise NotFoundError(f"The cluster has no {kind} in {api_version}.")
        scope = f"/namespaces/{namespace}" if entry["namespaced"] and namespace else ""
        return f"{root}{scope}/{entry['name']}"

    def applications(self, environment: str) -> dict[str, Object]:
        """An environment's Applications by release, as its ApplicationSet labels them."""
        path = APPLICATIONS.format(namespace=self.argocd_namespace)
        found = self.list(path, selector=f"{ENVIRONMENT}={environment}")
        return {app["metadata"]["labels"][RELEASE]: app for app in found}

    def patch_application(self, name: str, patch: Object) -> Object:
        """Merge a patch into an Application; what it is then."""
        path = APPLICATIONS.format(namespace=self.argocd_namespace)
        return self.request("PATCH", f"{path}/{name}", body=patch)

    def delete(self, path: str) -> None:
        """Delete an object, its dependents after it; one that is gone already is no error."""
        with contextlib.suppress(NotFoundError):
            self.request("DELETE", path, [("propagationPolicy", "Background")])

    def logs(
        self, namespace: str, pod: str, container: str, *, previous: bool = False, lines: int = 20
    ) -> str:
        """The last lines of a container's log; an empty string when there are none."""
        query = [
            ("container", container),
            ("tailLines", str(lines)),
            ("previous", str(previous).lower()),
        ]
        try:
            answer = self._send("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query)
        except ReleaseError:
            return ""
        return answer.decode(errors="replace")

    def run_in_pod(self, namespace: str, pod: str, container: str, command: Sequence[str]) -> str:
        """What a command in a container printed, as `kubectl exec` does.

        Raises NotFoundError where there is no such pod or program, ForbiddenError where exec is
        not allowed, ReleaseError where the command failed.
        """
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
        from kubernetes.stream import ws_client  # noqa: PLC0415

        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        _, url, headers, _, _ = self._api.param_serialize(
            method="GET",
            resource_path=f"/api/v1/namespaces/{namespace}/pods/{pod}/exec",
            header_params={},
            auth_settings=["BearerToken"],
        )
        try:
            running = ws_client.websocket_call(  # type: ignore[no-untyped-call]
                self._api.configuration,
                "GET",
                f"{self._api.configuration.host}{url}" if url.startswith("/") else url,
                query_params=[*query, *(("command", part) for part in command)],
                headers=headers,
                _preload_content=False,
            )
            running.run_forever(timeout=EXEC_SECONDS)
            ended = not running.is_open()
            printed = str(running.read_channel(ws_client.STDOUT_CHANNEL))
            complaint = str(running.read_channel(ws_client.STDERR_CHANNEL))
            status = str(running.read_channel(ws_client.ERROR_CHANNEL)) if ended else ""
            running.close()
        except (ApiException, OSError) as error:
            reason = str(getattr(error, "reason", "") or error)
            path = f"/namespaces/{namespace}/pods/{pod}/exec"
            found = re.search(r"Handshake status (\d+)", reason)
            raise _mapped("exec", path, int(found[1]) if found else 0, reason) from error
        where = f"{command[0]} in {pod}/{container}"
        if not ended:
            raise ReleaseError(f"{where} did not end in {EXEC_SECONDS:g} s")
        outcome = json.loads(status or "{}")
        if outcome.get("status") == "Success":
            return printed
        message = f"{outcome.get('message', '')} {complaint}".strip()
        if "executable file not found" in message or "no such file" in message.lower():
            raise NotFoundError(f"{where}: there is no such program or file")
        raise ReleaseError(f"{where} failed: {message[:300]}")

    def refresh(self, environment: str, release: str) -> Object:
        """Ask Argo CD to look at Git now rather than at its next poll; the Application."""
        patch = {"metadata": {"annotations": {REFRESH: "normal"}}}
        return self.patch_application(f"{environment}-{release}", patch)

    def terminate(self, environment: str, release: str) -> None:
        """Have Argo CD end an application's running operation, as `argocd app terminate-op`."""
        patch = {"status": {"operationState": {"phase": "Terminating"}}}
        self.patch_application(f"{environment}-{release}", patch)

    def sync(self, application: Object, by: str) -> None:
        """Have Argo CD sync by a person's hand, as `argocd app sync`: that passes a sync window
        which allows it."""
        options = application["spec"].get("syncPolicy", {}).get("syncOptions", [])
        operation = {
            "initiatedBy": {"username": by},
            "sync": {"prune": True, "syncOptions": options, "syncStrategy": {"hook": {}}},
            "retry": {"limit": 5},
        }
        self.patch_application(application["metadata"]["name"], {"operation": operation})

    def create_job(self, namespace: str, job: Object) -> None:
        """Create a Job; one that is there already is left as it is."""
        try:
            self.request("POST", _path("batch", namespace, "jobs"), body=job)
        except ReleaseError as error:
            if "already exists" not in error.message:
                raise

    def delete_job(self, namespace: str, name: str) -> None:
        """Delete a Job and its pods."""
        self.delete(f"{_path('batch', namespace, 'jobs')}/{name}")

    def apply(self, path: str, manifest: Object, *, owner: str = "release") -> None:
        """Server-side apply of one object at its own path, taking over its fields."""
        query = [("fieldManager", owner), ("force", "true")]
        self.request("PATCH", path, query, manifest, content_type="application/apply-patch+yaml")

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "",
    ) -> Object:
        """One call; the answer's JSON.

        Raises NotFoundError, ForbiddenError, UnreachableError, or ReleaseError with the API's
        own message.
        """
        answer: Object = json.loads(self._send(method, path, query, body, content_type))
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "",
    ) -> bytes:
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        default = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content_type or default}
        try:
            _, url, sent, data, form = self._api.param_serialize(
                method=method,
                resource_path=path,
                query_params=list(query),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._api.call_api(
                method, url, sent, data, form, _request_timeout=(self.timeout, self.timeout)
            )
            content: bytes = answer.read()  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise _mapped(method, path, int(error.status or 0), str(error.body)) from error
        except (HTTPError, OSError) as error:
            raise UnreachableError(
                f"The cluster at {self._api.configuration.host} does not answer: {error}",
                fix="check that it runs, and that the kubeconfig's context is the one you mean",
            ) from error
        if answer.status >= 400:
            raise _mapped(method, path, answer.status, content.decode(errors="replace"))
        return content


def _path(group: str, namespace: str, plural: str) -> str:
    return f"/apis/{group}/v1/namespaces/{namespace}/{plural}"


def _mapped(method: str, path: str, status: int, body: str) -> ReleaseError:
    try:
        message = json.loads(body).get("message", body)
    except ValueError:
        message = body
    text = f"{method} {path} was answered {status}: {message}"
    if status == 404:
        return NotFoundError(text)
    if status in (401, 403):
        return ForbiddenError(text, fix="the kubeconfig's identity needs that right")
    if status in (429, 500, 502, 503, 504) or status == 0:
        return UnreachableError(text, fix="wait for the API server, then run the command again")
    return ReleaseError(text)
