"""A model: which releases serve which version of it, and who put it there."""

from __future__ import annotations

import difflib

from release.changes import own_release
from release.describe import mentions
from release.describe.deployed import Known, describe_releases
from release.describe.facts import Description, place_in
from release.errors import NotFoundError
from release.values import model_map, tree


def describe(known: Known, name: str) -> Description:
    """Where a model is served.

    Raises NotFoundError, with the nearest name, when no release has such a model.
    """
    at = known.at
    found = Description("model", name)
    served: list[tuple[str, str]] = []
    every: set[str] = set()
    environments = tree.environments(at)
    part = found.part("versions")
    for environment in environments:
        for release in tree.model_releases(at, environment):
            models = model_map.read(at, environment, release)
            every |= models.keys()
            if name not in models:
                continue
            served.append((environment, release))
            model = models[name]
            own = own_release.is_own(at, environment, release)
            others = sorted(models.keys() - {name})
            shared = f", beside {', '.join(others)}" if others else ""
            place = place_in(at, tree.models_file(environment, release), ("models", name))
            part.add(f"{environment}/{release}", f"version {model.version}{shared}", place)
            part.add("files", model.uri)
            part.add("sha256 of model.json", model.sha256)
            part.add("release", "of the model's own" if own else "a server that others share")
    if not served:
        near = difflib.get_close_matches(name, sorted(every), n=1)
        options = ", ".join(sorted(every)) or "(none is deployed)"
        raise NotFoundError(
            f"No environment serves a model {name!r}.",
            fix=f"did you mean {near[0]!r}?" if near else f"use one of {options}",
        )
    for environment in environments:
        if environment not in {one for one, _ in served}:
            found.gaps.append(f"{environment} does not serve {name}")
    found.gaps.append(
        "what the files hold and which run and data they come from is not in Git: "
        "`inference describe` reads model.json"
    )
    describe_releases(found, known, served)
    found.mentions = mentions.find(at.git, at.commit, {name})
    return found
