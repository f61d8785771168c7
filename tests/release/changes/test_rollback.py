"""`release rollback`."""

from __future__ import annotations

from tests.release.conftest import Answer, World, application_set, digest


def rollback(world: World, *more: str, env: str = "dev") -> Answer:
    return world.run("rollback", "--env", env, "--json", *more)


def running(world: World, release: str = "proxy") -> str:
    text = world.file(f"values/dev/{release}.image.yaml").decode()
    return next(line.split('"')[1] for line in text.splitlines() if "digest" in line)


def deployed(world: World, *seeds: str) -> list[str]:
    commits = []
    for seed in seeds:
        world.deploy(seed, world.source())
        commits.append(world.head())
    return commits


def test_it_restores_image_model_and_configuration_in_one_commit(world: World) -> None:
    world.deploy("1", world.source(), "proxy", "inference")
    world.run(
        "model", "set", "--env", "dev", "--name", "digits", "--version", "1",
        "--uri", "s3://models/digits/1", "--sha256", "1" * 64,
    )  # fmt: skip
    good = world.head()
    files = {path: world.file(path) for path in world.git("ls-files", "values/dev").split()}
    world.push({"values/dev/proxy.yaml": "replicas: 7\n"}, "Scale")
    world.deploy("2", world.source(), "proxy", "inference")
    before = world.head()
    answer = rollback(world, "--to", good)
    assert answer.code == 0, answer.out
    assert world.git("rev-parse", "main^", cwd=world.remote) == before
    assert {path: world.file(path) for path in files} == files
    trailers = world.git("log", "-1", "--format=%(trailers:only)", "main", cwd=world.remote)
    assert f"Release-Restores: {good}" in trailers
    assert f"Release-Replaces: {before}" in trailers or "Release-Replaces:" in trailers


def test_without_a_commit_it_takes_the_state_before(world: World) -> None:
    deployed(world, "1", "2")
    assert rollback(world).code == 0
    assert running(world) == digest("proxy1")


def test_it_holds_so_that_nothing_redeploys_the_bad_version(world: World) -> None:
    deployed(world, "1", "2")
    rollback(world, "--reason", "errors at checkout")
    answer = world.deploy("3", world.source())
    assert answer.code == 4
    assert "errors at checkout" in answer.json["message"]
    assert world.run("unhold", "--env", "dev").code == 0
    assert not world.exists("values/dev/hold.yaml")
    assert world.deploy("3", world.source()).code == 0


def test_a_second_rollback_changes_nothing(world: World) -> None:
    deployed(world, "1", "2", "3")
    rollback(world)
    head = world.head()
    answer = rollback(world)
    assert (answer.code, answer.json["changed"]) == (0, False)
    assert "rolled back already" in answer.json["notes"][0]
    assert world.head() == head


def test_rolling_back_again_goes_further_back_and_never_forward_to_the_fault(world: World) -> None:
    deployed(world, "1", "2", "3")
    rollback(world)
    world.run("unhold", "--env", "dev")
    assert rollback(world).code == 0
    assert running(world) == digest("proxy1")


def test_after_a_new_fault_it_returns_to_what_the_first_rollback_restored(world: World) -> None:
    deployed(world, "1", "2")
    rollback(world)
    world.run("unhold", "--env", "dev")
    deployed(world, "3")
    assert rollback(world).code == 0
    assert running(world) == digest("proxy1")


def test_only_the_named_service_goes_back(world: World) -> None:
    world.deploy("1", world.source(), "proxy", "unzip")
    world.deploy("2", world.source(), "proxy", "unzip")
    assert rollback(world, "--service", "unzip").code == 0
    assert running(world, "unzip") == digest("unzip1")
    assert running(world, "proxy") == digest("proxy2")
    assert world.deploy("3", world.source(), "proxy").code == 0
    assert world.deploy("3", world.source(), "unzip").code == 4


def test_the_first_deployment_has_nothing_before_it(world: World) -> None:
    deployed(world, "1")
    assert rollback(world).code == 8


def test_what_all_environments_share_is_named_and_left(world: World) -> None:
    deployed(world, "1")
    world.push({"values/services/proxy/service.yaml": "replicas: 9\n"}, "Scale everywhere")
    deployed(world, "2")
    answer = rollback(world)
    assert world.file("values/services/proxy/service.yaml") == b"replicas: 9\n"
    assert any("values/services" in note for note in answer.json["notes"])


def test_an_unknown_commit_or_service_is_refused(world: World) -> None:
    deployed(world, "1", "2")
    assert rollback(world, "--to", "f" * 40).code == 8
    assert rollback(world, "--service", "nope").code == 8


def test_a_hold_does_not_make_a_new_fault_pass_for_rolled_back(world: World) -> None:
    """Found: while a rollback's hold stood, whatever was pushed past it counted as rolled back."""
    deployed(world, "1", "2")
    rollback(world)
    good = world.file("values/dev/proxy.yaml")
    world.push({"values/dev/proxy.yaml": "replicas: 0\n"}, "Scale by hand")
    answer = rollback(world, "--reason", "scaled to nothing")
    assert (answer.code, answer.json["changed"]) == (0, True), answer.out
    assert world.file("values/dev/proxy.yaml") == good
    assert running(world) == digest("proxy1")
    assert rollback(world).json["changed"] is False


def test_the_rollback_of_another_service_does_not_count(world: World) -> None:
    """Found: as above, with a later rollback of another release between the two."""
    for seed in ("1", "2"):
        world.deploy(seed, world.source(), "proxy", "unzip")
    rollback(world, "--service", "proxy")
    world.push({"values/dev/proxy.yaml": "replicas: 0\n"}, "Scale by hand")
    rollback(world, "--service", "unzip")
    assert rollback(world, "--service", "proxy").json["changed"] is True
    assert world.file("values/dev/proxy.yaml") == b"# what differs here\nreplicas: 1\n"


def test_a_file_that_was_deleted_comes_back(world: World) -> None:
    """Found: a commit that only deleted a file was "as at … already", and no hold was set."""
    deployed(world, "1")
    gone = ("inference.models.yaml", "proxy.image.yaml", "proxy.yaml")
    before = {name: world.file(f"values/dev/{name}") for name in gone}
    world.push({f"values/dev/{name}": None for name in gone}, "Tidy up")
    answer = rollback(world)
    assert (answer.code, answer.json["changed"]) == (0, True), answer.out
    assert {name: world.file(f"values/dev/{name}") for name in gone} == before
    assert world.exists("values/dev/hold.yaml")


def test_a_service_whose_files_were_deleted_can_be_named(world: World) -> None:
    """Found: without its image file the release was unknown."""
    deployed(world, "1")
    world.push({"values/dev/proxy.image.yaml": None, "values/dev/proxy.yaml": None}, "Tidy up")
    assert rollback(world, "--service", "proxy").code == 0
    assert running(world) == digest("proxy1")
    assert world.run("unhold", "--env", "dev", "--service", "proxy").code == 0


def test_a_file_that_was_added_is_deleted(world: World) -> None:
    """Found: a commit that only added a file of a release was "as at … already"."""
    deployed(world, "1")
    model = world.file("values/dev/inference.models.yaml").decode()
    world.push({"values/dev/proxy.models.yaml": model}, "A model for the proxy")
    answer = rollback(world)
    assert (answer.code, answer.json["changed"]) == (0, True), answer.out
    assert not world.exists("values/dev/proxy.models.yaml")


def test_a_release_that_did_not_exist_then_is_left(world: World) -> None:
    [first] = deployed(world, "1")
    added = {"values/dev/extra.yaml": "replicas: 1\n"}
    world.push(
        {**added, "argocd/environments/dev.yaml": application_set("dev", "extra")}, "A new release"
    )
    deployed(world, "2")
    answer = rollback(world, "--to", first)
    assert running(world) == digest("proxy1")
    assert world.exists("values/dev/extra.yaml")
    assert any("extra.yaml is newer" in note for note in answer.json["notes"])


def test_an_image_file_that_cannot_be_read_is_restored(world: World) -> None:
    """Found: the fault itself, when it was a broken file, kept the rollback from being made."""
    deployed(world, "1")
    world.push({"values/dev/proxy.image.yaml": "image: [\n"}, "Edit by hand")
    assert rollback(world).code == 0
    assert running(world) == digest("proxy1")


def test_holds_that_cannot_be_read_can_be_ended(world: World) -> None:
    """Found: a rollback that they refused advised `unhold`, which read the same file."""
    deployed(world, "1", "2")
    for text in ("holds: [{reason: x}]\n", "holds: [\n"):
        world.push({"values/dev/hold.yaml": text}, "Edit by hand")
        answer = rollback(world)
        assert answer.code == 1
        assert "release unhold --env dev" in answer.json["fix"]
        assert world.run("unhold", "--env", "dev").code == 0
        assert not world.exists("values/dev/hold.yaml")
    assert rollback(world).code == 0


def test_a_new_release_alone_cannot_be_rolled_back(world: World) -> None:
    """Found: it was "as at … already", with exit code 0, while the new release was the fault."""
    deployed(world, "1")
    added = {"values/dev/extra.yaml": "replicas: 1\n"}
    world.push(
        {**added, "argocd/environments/dev.yaml": application_set("dev", "extra")}, "A new release"
    )
    answer = rollback(world)
    assert answer.code == 5
    assert "extra.yaml is newer" in answer.json["message"]


def test_a_hold_that_has_expired_does_not_count_as_rolled_back(world: World) -> None:
    for seed in ("1", "2", "3"):
        world.deploy(seed, world.source(), "proxy", "unzip")
    rollback(world, "--service", "proxy")
    held = world.file("values/dev/hold.yaml").decode()
    assert held.count('until: ""') == 1
    ended = held.replace('until: ""', 'until: "2026-01-01T00:00:00Z"')
    world.push({"values/dev/hold.yaml": ended}, "End the hold by hand")
    rollback(world, "--service", "unzip")  # a rollback's commit with the expired hold in it
    answer = rollback(world, "--service", "proxy")
    assert (answer.code, answer.json["changed"]) == (0, True), answer.out
    assert running(world) == digest("proxy1")


def test_a_release_that_was_removed_since_stays_removed(world: World) -> None:
    world.deploy("1", world.source(), "proxy", "unzip")
    then = world.head()
    gone = [path for path in world.git("ls-files", "values/dev").split() if "/unzip." in path]
    rows = [
        line for line in application_set("dev").splitlines(True) if "release: unzip" not in line
    ]
    assert gone
    world.push(
        {**dict.fromkeys(gone), "argocd/environments/dev.yaml": "".join(rows)}, "No unzip any more"
    )
    deployed(world, "2")
    answer = rollback(world, "--to", then)
    assert answer.code == 0, answer.out
    assert running(world) == digest("proxy1")
    assert not any(world.exists(path) for path in gone)
    assert any("unzip.image.yaml was removed since" in note for note in answer.json["notes"])
