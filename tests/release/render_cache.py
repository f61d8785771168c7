"""Renders of one session by what they are made of: most tests change one file of one release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from release.render.helm import Release, Rendered

Render = Callable[[str, Path, Release, bool], Rendered]


def remembering(render: Render) -> Render:
    """``render`` that starts Helm once for each program, chart, name, namespace and values."""
    known: dict[str, Rendered] = {}

    def remembered(helm: str, root: Path, release: Release, placeholders: bool) -> Rendered:
        key = made_of(helm, root, release, placeholders)
        if key not in known:
            known[key] = render(helm, root, release, placeholders)
        return replace(known[key], release=release)

    return remembered


def made_of(helm: str, root: Path, release: Release, placeholders: bool) -> str:
    """A digest of all that Helm reads, paths and contents."""
    digest = hashlib.sha256()
    said = (helm, release.name, release.namespace, release.folder, placeholders)
    digest.update(repr(said).encode())
    chart = sorted(path for path in (root / release.folder).rglob("*") if path.is_file())
    for path in (*chart, *(root / name for name in release.files)):
        content = path.read_bytes() if path.is_file() else b"none"
        digest.update(f"\0{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
