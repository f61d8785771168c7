"""release.values.model_map: entries of a machine-written map are added, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.errors import BadValuesError
from release.values import model_map
from release.values.references import Model
from tests.release.conftest import World

PATH = "values/dev/inference.models.yaml"
FORMER = "values/dev/inference.model.yaml"
# Also names that YAML would not read as text without quotes.
NAMES = st.from_regex(
    r"[a-z0-9]{1,4}(?:[._-][a-z0-9]{1,3}){0,2}", fullmatch=True
) | st.sampled_from(["on", "null", "1.5", "1e3", "true", "digits", "digits-2", "0x1"])


class Files:
    """One commit's files."""

    commit = "0" * 40

    def __init__(self, files: Mapping[str, bytes | None]) -> None:
        self.content = {path: data for path, data in files.items() if data is not None}

    def read(self, path: str) -> bytes | None:
        return self.content.get(path)

    def files(self, folder: str) -> list[str]:
        return sorted(path for path in self.content if path.startswith(folder))


def model(name: str, version: str = "1") -> Model:
    return Model(name, version, f"s3://models/{name}/{version}", "a" * 64)


def named(*models: Model) -> dict[str, Model]:
    return {one.name: one for one in models}


@given(st.lists(st.dictionaries(NAMES, st.sampled_from(["1", "2", "1.10", "on"]), max_size=5)))
def test_what_is_written_is_read_again(steps: list[dict[str, str]]) -> None:
    at = Files({PATH: model_map.EMPTY.encode()})
    for step in steps:
        wanted = {name: model(name, version) for name, version in step.items()}
        at = Files(at.content | model_map.write(at, "dev", "inference", wanted))
        assert model_map.read(at, "dev", "inference") == wanted
        text = at.content[PATH].decode()
        assert text.startswith(model_map.HEADER)
        assert list(model_map.read(at, "dev", "inference")) == sorted(wanted), text
    at = Files(at.content | model_map.write(at, "dev", "inference", {}))
    assert at.content[PATH].decode() == model_map.EMPTY


def test_an_entry_is_inserted_and_every_other_byte_stays() -> None:
    text = model_map.HEADER + (
        "models:\n"
        "  ant:\n    version: '1' # first\n    uri: s3://m/ant/1\n    sha256: "
        f"{'a' * 64}\n\n  # of the bees\n"
        f'  cat: {{version: "3", uri: s3://m/cat/3, sha256: "{"c" * 64}"}}\n'
    )
    at = Files({PATH: text.encode()})
    there = model_map.read(at, "dev", "inference")
    after = model_map.write(at, "dev", "inference", there | named(model("bee")))[PATH]
    assert after is not None
    block = f'  bee:\n    version: "1"\n    uri: "s3://models/bee/1"\n    sha256: "{"a" * 64}"\n'
    assert after.decode().replace(block, "") == text
    at = Files({PATH: after})
    back = model_map.write(at, "dev", "inference", there)[PATH]
    assert back == text.encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: none\n", "holds no map `models`"),
        ("[]\n", "holds no map `models`"),
        ("models: {}\nimage: {}\n", "holds no map `models` and nothing else"),
        ("models: {a: {version: 1, uri: s3://m/a/1, sha256: b}}\n", "version is no text"),
        ("models: {a: {version: '1'}}\n", "uri, sha256 is no text"),
        ("models: {a: }\n", "version, uri, sha256 is no text"),
    ],
)
def test_a_file_that_release_did_not_write_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadValuesError, match=said):
        model_map.read(Files({PATH: text.encode()}), "dev", "inference")


def former(name: str, version: str, sha256: str) -> str:
    uri = f"s3://models/{name}/{version}"
    return (
        f'# Written by `release`; do not edit.\nmodel:\n  name: "{name}"\n  version: "{version}"\n'
        f'  uri: "{uri}"\n  sha256: "{sha256}"\n'
    )


def set_model(world: World, name: str, version: str, sha256: str) -> int:
    return world.run(
        "model", "set", "--env", "dev", "--name", name, "--version", version,
        "--uri", f"s3://models/{name}/{version}", "--sha256", sha256,
    ).code  # fmt: skip


def test_the_file_of_one_model_becomes_a_map_with_the_next_command(world: World) -> None:
    world.push({FORMER: former("digits", "1", "1" * 64), PATH: None}, "As it was before")
    assert set_model(world, "iris", "1", "2" * 64) == 0
    assert not world.exists(FORMER)
    text = world.file(PATH).decode()
    assert "  digits:\n" in text
    assert "  iris:\n" in text


def test_a_rollback_to_before_the_map_writes_the_map_that_charts_read(world: World) -> None:
    """The same version keeps the sha256 that it is pinned by now: that of model.json."""
    world.push({FORMER: former("digits", "1", "1" * 64), PATH: None}, "As it was before")
    world.deploy("1", world.source(), "inference")
    good = world.head()
    assert set_model(world, "digits", "1", "2" * 64) == 0
    assert set_model(world, "iris", "1", "3" * 64) == 0
    world.deploy("2", world.source(), "inference")
    answer = world.run("rollback", "--env", "dev", "--to", good)
    assert answer.code == 0, answer.out
    assert not world.exists(FORMER)
    text = world.file(PATH).decode()
    assert "2" * 64 in text
    assert "iris" not in text


def test_promotion_adds_and_changes_models_and_says_which_it_left(world: World) -> None:
    world.deploy("1", world.source(), "inference")
    assert set_model(world, "digits", "2", "2" * 64) == 0
    assert set_model(world, "iris", "1", "3" * 64) == 0
    there = model_map.write(
        Files({}), "stage", "inference", named(model("digits"), model("old"))
    )  # fmt: skip
    world.push({path: (data or b"").decode() for path, data in there.items()}, "Models of stage")
    answer = world.run(
        "promote", "--from", "dev", "--to", "stage", "--override", "a test", "--no-verify"
    )
    assert answer.code == 0, answer.out
    text = world.file("values/stage/inference.models.yaml").decode()
    assert text.index("  digits:\n") < text.index("  iris:\n") < text.index("  old:\n")
    assert 'version: "2"' in text
    assert "Left alone: inference in stage serves old" in answer.out
    trailers = world.git("log", "-1", "--format=%(trailers:only)", "main", cwd=world.remote)
    assert "Release-Model: inference none -> iris/1@sha256:" in trailers
