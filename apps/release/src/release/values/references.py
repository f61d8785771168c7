"""Names of images, digests, revisions and models, read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from release.errors import BadReferenceError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")
# host[:port]/path, after the distribution project's reference grammar
_REPOSITORY = re.compile(
    r"(?:(?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)


@dataclass(frozen=True, order=True)
class Image:
    """What a machine-owned image file says; ``Image()`` is "not deployed yet"."""

    repository: str = ""
    tag: str = ""
    digest: str = ""
    revision: str = ""

    @property
    def deployed(self) -> bool:
        """Whether the file names an image."""
        return bool(self.digest)

    @property
    def reference(self) -> str:
        """``repository@digest``, what the pods run."""
        return f"{self.repository}@{self.digest}" if self.deployed else ""

    @property
    def short(self) -> str:
        """For tables: ``tag@1234567``."""
        return f"{self.tag}@{self.digest[7:14]}" if self.deployed else "-"


@dataclass(frozen=True, order=True)
class Model:
    """An entry of a release's map of models; ``Model()`` is "not there"."""

    name: str = ""
    version: str = ""
    uri: str = ""
    sha256: str = ""

    @property
    def deployed(self) -> bool:
        """Whether there is such a model."""
        return bool(self.name)

    @property
    def short(self) -> str:
        """For tables: ``digits/3``."""
        return f"{self.name}/{self.version}" if self.deployed else "-"


def revision(text: str) -> str:
    """A full commit id, checked."""
    if _REVISION.fullmatch(text):
        return text
    raise BadReferenceError(
        f"The revision {text!r} is not a full commit id (40 hexadecimal digits).",
        fix="pass `git rev-parse HEAD`",
    )


def image(text: str, source_revision: str) -> tuple[str, Image]:
    """``proxy=host/repository:tag@sha256:…`` as the image's name and what to write.

    Raises BadReferenceError naming the part that is missing or malformed.
    """
    name, equals, reference = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise BadReferenceError(
            f"The image {text!r} has no name.", fix="write it as NAME=REPOSITORY:TAG@sha256:DIGEST"
        )
    tagged, _, digest = reference.partition("@")
    if not _DIGEST.fullmatch(digest):
        raise BadReferenceError(
            f"The image {text!r} has no digest (sha256: and 64 hexadecimal digits).",
            fix="digests decide what runs: append the @sha256:… the registry answered at the push",
        )
    repository, colon, tag = tagged.rpartition(":")
    if not colon or "/" in tag or not _TAG.fullmatch(tag):
        raise BadReferenceError(
            f"The image {text!r} has no tag.", fix="write it as NAME=REPOSITORY:TAG@sha256:DIGEST"
        )
    if not _REPOSITORY.fullmatch(repository):
        raise BadReferenceError(f"The image {text!r} has no valid repository ({repository!r}).")
    return name, Image(repository, tag, digest, revision(source_revision))


def model(name: str, version: str, uri: str, sha256: str) -> Model:
    """A model, each part checked."""
    if not _NAME.fullmatch(name):
        raise BadReferenceError(f"The model name {name!r} is not a lower-case name.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", version):
        raise BadReferenceError(f"The model version {version!r} is not a version.")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", uri):
        raise BadReferenceError(
            f"The model uri {uri!r} is not a URI.", fix="write it like s3://models/digits/1"
        )
    if not _SHA256.fullmatch(sha256):
        raise BadReferenceError(
            f"The sha256 {sha256!r} is not 64 hexadecimal digits.",
            fix="pass the sha256 of the version's model.json, as `trainer publish` prints it",
        )
    return Model(name, version, uri, sha256)
