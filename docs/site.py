"""The pages of docs/ as a site with search: `make docs` builds it into build/docs.

The site generator reads one folder, but pages link to files of the whole repository. So the pages
are copied first, README.md as the front page, and their links are checked and rewritten: to
another page, or to the repository on GitHub. `docs/site.yaml` is the generator's configuration; it
orders the pages. Pages in docs/services, which `release new service` writes, are added to it.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "docs/site.yaml"
# Pages outside of docs/ that are part of the site, and their place in it.
OTHERS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
SERVICES = "services/"
_CODE = re.compile(r"(^```.*?^```[ ]*$|`[^`\n]+`|<!--.*?-->)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)\s#]*)(#[^)\s]*)?(?=\))")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


def pages(root: Path) -> dict[str, str]:
    """Each page's path in the repository, with its path in the site."""
    found = {path: place for path, place in OTHERS.items() if (root / path).exists()}
    for path in sorted((root / "docs").rglob("*.md")):
        found[path.relative_to(root).as_posix()] = path.relative_to(root / "docs").as_posix()
    for path in sorted((root / "bench/results").glob("*.md")):
        found[path.relative_to(root).as_posix()] = f"measurements/{path.name}"
    return found


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings that GitHub and the site's generator both make."""
    headings = _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    plain = [re.sub(r"`|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    github = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}
    ascii_only = [unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode()
                  for one in plain]  # fmt: skip
    generator = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip()) for one in ascii_only}
    return github & generator


def prose(text: str) -> Iterator[tuple[int, str, bool]]:
    """A page in pieces: the line on which one begins, its text, and whether it is code."""
    line = 1
    for number, piece in enumerate(_CODE.split(text)):
        yield line, piece, number % 2 == 1
        line += piece.count("\n")


def rewritten(root: Path, page: str, places: dict[str, str], repository: str) -> str:
    """A page's text with the links that hold in the site.

    Raises ValueError that names each link that leads nowhere, with its line.
    """
    faults: list[str] = []
    here = places[page]

    def link(start: int, piece: str, found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        at = f"{page}:{start + piece[: found.start()].count(chr(10))}"
        if target.startswith("..") or not (root / target).exists():
            faults.append(f"{at}: {found[0]} does not exist")
        elif target in places:
            if anchor and anchor[1:] not in anchors((root / target).read_text(encoding="utf-8")):
                faults.append(f"{at}: {found[0]}: {target} has no such heading")
            return posixpath.relpath(places[target], posixpath.dirname(here) or ".") + anchor
        elif target.startswith("docs/") and (root / target).is_file():
            return posixpath.relpath(target[5:], posixpath.dirname(here) or ".")
        kind = "tree" if (root / target).is_dir() else "blob"
        return f"{repository}/{kind}/main/{target}{anchor}"

    result = ""
    for start, piece, code in prose((root / page).read_text(encoding="utf-8")):
        if not code:
            result += _LINK.sub(functools.partial(link, start, piece), piece)
        elif not piece.startswith("<!--"):
            result += piece
    if faults:
        raise ValueError("\n".join(faults))
    return result


def listed(nav: Any) -> Iterator[str]:
    """Every page that a navigation lists."""
    if isinstance(nav, str):
        yield nav
    for one in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from listed(one)


def navigation(nav: list[Any], places: dict[str, str]) -> list[Any]:
    """The navigation with the pages of services of one's own.

    Raises ValueError that names pages which it lists twice, leaves out, or makes up.
    """
    own = sorted(place for place in places.values() if place.startswith(SERVICES))
    there, count = set(places.values()) - set(own), Counter(listed(nav))
    faults = [
        *(f"{page} is listed twice" for page, times in sorted(count.items()) if times > 1),
        *(f"{page} is listed and does not exist" for page in sorted(set(count) - there)),
        *(f"{page} is not listed: give it its place" for page in sorted(there - set(count))),
    ]
    if faults:
        raise ValueError("\n".join(f"docs/site.yaml: nav: {fault}" for fault in faults))
    return [*nav, {"Your services": own}] if own else nav


def stage(root: Path, to: Path) -> Path:
    """Copy the pages to a folder and write its configuration; the path of that.

    Raises ValueError with everything that is wrong with links and navigation.
    """
    configuration = yaml.safe_load((root / "docs/site.yaml").read_text(encoding="utf-8"))
    places, faults = pages(root), []
    shutil.rmtree(to, ignore_errors=True)
    for page, place in places.items():
        (to / "pages" / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            text = rewritten(root, page, places, configuration["repo_url"])
            (to / "pages" / place).write_text(text, encoding="utf-8")
        except ValueError as error:
            faults.append(str(error))
    for path in (root / "docs").rglob("*"):
        if path.suffix in {".css", ".json", ".png"}:
            copy = to / "pages" / path.relative_to(root / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    try:
        configuration["nav"] = navigation(configuration["nav"], places)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    configuration |= {"docs_dir": "pages", "site_dir": "site"}
    written = to / "mkdocs.yml"
    written.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    return written


def main() -> int:
    """Build the site; 1 and what is wrong where a link or the navigation is."""
    to = ROOT / "build/docs"
    try:
        configuration = stage(ROOT, to)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Where colours are switched on, each sign of a faulty line has its own.
    environment = os.environ | {"NO_COLOR": "1"}
    command = ["zensical", "build", "--strict", "--clean", "--config-file", str(configuration)]
    code = subprocess.run(command, env=environment, check=False).returncode
    if code == 0:
        sys.stdout.write(f"Read it with: python -m http.server --directory {to}/site 8000\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
