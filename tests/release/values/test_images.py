"""Which image a release runs: by its row, whatever its name looks like."""

from __future__ import annotations

import pytest

from tests.release.conftest import EMPTY_IMAGE, World, application_set_of, row

PROJECT = '[project]\nname = "slipway-{}"\nversion = "0"\ndependencies = []\n'


def listed(world: World, *rows: str) -> None:
    """dev has these rows and an empty image file for each."""
    names = [one.split("release: ")[1].split(",")[0] for one in rows]
    files: dict[str, str | None] = {f"values/dev/{name}.image.yaml": EMPTY_IMAGE for name in names}
    world.push({**files, "argocd/environments/dev.yaml": application_set_of("dev", *rows)})


@pytest.mark.parametrize("name", ["fraud-scorer", "proxy-of-others", "a1"])
def test_a_name_with_dashes_is_built_and_deployed_the_first_time(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: it was cut at the dash; the first deployment was refused, and nothing was built."""
    listed(world, row(name))
    world.push({f"apps/{name}/pyproject.toml": PROJECT.format(name)}, "A service")
    revision = world.git("rev-parse", "main", cwd=world.remote)
    monkeypatch.chdir(world.clone)
    answer = world.run("affected", "--env", "dev", "--revision", revision, "--json")
    assert answer.code == 0, answer.err
    assert [one["name"] for one in answer.json["images"]] == [name], answer.out
    answer = world.deploy("1", revision, name)
    assert answer.code == 0, answer.err
    assert {change["release"] for change in answer.json["changes"]} == {name}


def test_a_variant_runs_the_image_that_its_row_names(world: World) -> None:
    """Also where its own name says something else: `iris` is a model server."""
    rows = [row("inference"), "{release: iris, chart: service, of: inference}", row("iris-page")]
    listed(world, *rows)
    answer = world.deploy("1", world.source(), "inference")
    assert {change["release"] for change in answer.json["changes"]} == {"inference", "iris"}
    answer = world.deploy("2", world.source(), "iris-page")
    assert {change["release"] for change in answer.json["changes"]} == {"iris-page"}
