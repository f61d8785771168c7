"""One HTTP request made inside a pod, with its identity and its network, by what its image has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from release.cluster.client import Cluster, Object
from release.errors import NotFoundError, ReleaseError

SECONDS = 10.0
"""How long one request may take."""

# One request, one line of JSON. The standard library alone, and no proxy.
_PYTHON = """
import http.client, json, sys
q = json.loads(sys.argv[1])
try:
    c = http.client.HTTPConnection(q["host"], q["port"], timeout=q["seconds"])
    c.request(q["method"], q["path"], q["body"] or None, q["headers"])
    a = c.getresponse()
    said = {"status": a.status, "headers": {k.lower(): v for k, v in a.getheaders()},
            "body": a.read(4000000).decode("utf-8", "replace")}
except Exception as e:
    said = {"error": str(e) or repr(e)}
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Request:
    """What is asked."""

    host: str
    port: int
    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back. ``error`` stands for no answer at all, ``status`` is 0 then."""

    status: int = 0
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    error: str = ""


def to_container(
    pod: Object, container: str, path: str, method: str = "GET", body: str = ""
) -> Request:
    """A request from inside of a pod to the port named ``http`` of one of its containers, or to
    8080."""
    ports = next(c for c in pod["spec"]["containers"] if c["name"] == container).get("ports", ())
    port = next((one["containerPort"] for one in ports if one.get("name") == "http"), 8080)
    headers = {"content-type": "application/json"} if body else {}
    return Request("127.0.0.1", port, path, method, headers, body)


def ask(cluster: Cluster, namespace: str, pod: str, container: str, request: Request) -> Answer:
    """The answer to a request that python3, or else curl, makes in a container.

    Raises NotFoundError where the image has neither, ForbiddenError where exec is not allowed,
    UnreachableError where the API server is away.
    """
    try:
        text = cluster.run_in_pod(namespace, pod, container, _python(request))
        return Answer(**json.loads(text))
    except NotFoundError:
        pass
    try:
        return _parsed(cluster.run_in_pod(namespace, pod, container, _curl(request)))
    except NotFoundError as error:
        raise NotFoundError(
            f"the image of {container} has neither python3 nor curl to ask with ({error.message})"
        ) from error
    except ReleaseError as error:
        if "curl: (" not in error.message:
            raise
        return Answer(error=error.message.partition("curl: ")[2])


def _python(request: Request) -> list[str]:
    return ["python3", "-c", _PYTHON, json.dumps({**vars(request), "seconds": SECONDS})]


def _curl(request: Request) -> list[str]:
    command = [
        "curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--globoff",
        "--path-as-is", "--max-time", f"{SECONDS:g}", "--request", request.method,
    ]  # fmt: skip
    for name, value in request.headers.items():
        command += ["--header", f"{name}: {value}"]
    if request.body:
        # Without it curl waits for a 100 before a large body.
        command += ["--header", "expect:", "--data-binary", request.body]
    return [*command, f"http://{request.host}:{request.port}{request.path}"]


def _parsed(text: str) -> Answer:
    """An answer as `curl --include` prints it; heads of 1xx before it are passed over."""
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    while head.startswith("HTTP/1.1 1"):
        head, _, body = body.partition("\n\n")
    first, *lines = head.split("\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    return Answer(int(first.split()[1]), body, headers)
