"""A digest: which releases are to run it, which ran it, and what it was built from."""

from __future__ import annotations

import re

from release.cluster.client import Cluster, Object
from release.describe import mentions
from release.describe.deployed import Known, add_source
from release.describe.facts import Description, Part, place_in
from release.diagnosis.jobs import INSTANCE, digest_of
from release.errors import BadReferenceError, NotFoundError, ReleaseError
from release.git import message as msg
from release.values import tree
from release.values.references import Image

_FORM = re.compile(r"(?:sha256:)?([0-9a-f]{7,64})")


def describe(known: Known, text: str, cluster: Cluster | None) -> Description:
    """Where an image's digest stands in Git, and the pods that run it.

    ``text`` is the digest or its first digits, at least seven, as tables show them. Without a
    cluster the pods are a gap. Raises BadReferenceError for what is no digest, NotFoundError where
    Git never named it.
    """
    digest = _full(known, text)
    found = Description("digest", digest)
    part = found.part("wanted by")
    image = Image()
    for environment in tree.environments(known.at):
        for release in tree.image_releases(known.at, environment):
            one = tree.read_image(known.at, environment, release)
            if one.digest == digest:
                image = one
                file = tree.image_file(environment, release)
                place = place_in(known.at, file, ("image", "digest"))
                part.add(f"{environment}/{release}", f"{one.repository}:{one.tag}", place)
    if not image.deployed:
        found.gaps.append("no release is to run it now")
    _add_history(found, known, digest)
    if image.deployed:
        found.gaps += add_source(found.part("source"), known, image)
    found.gaps += _add_pods(found.part("pods"), known, digest, cluster)
    found.gaps.append(
        "whether it is signed is not looked up here: `release promote` checks it, and docs/"
        "operations/security.md says how to ask cosign"
    )
    found.mentions = mentions.find(known.at.git, known.at.commit, {digest.removeprefix("sha256:")})
    return found


def _full(known: Known, text: str) -> str:
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadReferenceError(
            f"{text!r} is no digest.",
            fix="write sha256: and its hexadecimal digits, at least the first seven",
        )
    start = f"sha256:{match[1]}"
    if len(match[1]) == 64:
        return start
    git = known.at.git
    log = git.text("log", "-p", "-U0", f"-Gdigest: .?{start}", "--format=", known.at.commit,
                   "--", "values")  # fmt: skip
    digests = set(re.findall(rf"{start}[0-9a-f]*", log))
    full = {one for one in digests if len(one) == 71}
    if len(full) > 1:
        raise BadReferenceError(
            f"{text!r} begins {len(full)} digests: {', '.join(sorted(full))}.",
            fix="write more of its digits",
        )
    if not full:
        raise _never(text)
    return str(full.pop())


def _never(text: str) -> NotFoundError:
    return NotFoundError(
        f"No values file ever named the digest {text}.",
        fix="see `release history --env ENV`, and fetch all of the history of a shallow clone",
    )


def _add_history(found: Description, known: Known, digest: str) -> None:
    git, part = known.at.git, found.part("commits that named it or took it away")
    shown = git.run(
        "log", f"--format={msg.LOG_FORMAT}", f"-S{digest}", known.at.commit, "--", "values"
    )
    entries = msg.parse_log(shown.decode(errors="replace"))
    if not entries:
        raise _never(digest)
    for entry in entries:
        environment = entry.first(msg.ENVIRONMENT)
        verdict = known.verdict(environment, entry.commit)
        said = f"{entry.subject} (by {entry.author}) [{verdict}]"
        part.add(environment or "values", said, f"commit {entry.commit}")


def _add_pods(part: Part, known: Known, digest: str, cluster: Cluster | None) -> list[str]:
    if cluster is None:
        return ["the cluster was not asked which pods run it"]
    gaps = []
    for environment in tree.environments(known.at):
        try:
            pods = cluster.list(f"/api/v1/namespaces/{environment}/pods")
        except ReleaseError as error:
            gaps.append(f"the pods of {environment} are not known: {error.message}")
            continue
        for pod in pods:
            if digest in map(digest_of, _images(pod)):
                metadata = pod["metadata"]
                release = metadata.get("labels", {}).get(INSTANCE, "-")
                phase = pod.get("status", {}).get("phase", "Unknown")
                part.add(f"{environment}/{release}", phase, f"pod {metadata['name']}")
    if not part.facts and not gaps:
        part.add("pods", "none runs it")
    return gaps


def _images(pod: Object) -> list[str]:
    spec = pod["spec"]
    return [one["image"] for one in (*spec.get("initContainers", ()), *spec["containers"])]
