"""`release new`: what it writes is whole, and nothing else has to be touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from release import validate
from release.cli import app
from release.create import rows
from release.create.environment import NO_MODELS, NewEnvironment, own_stores
from release.create.environment import planned as planned_environment
from release.create.service import NewService, planned, write
from release.errors import BadReferenceError, BadValuesError, ConflictError
from release.render import helm
from release.values import layout
from release.values.model_map import OF_ONE_MODEL
from tests.documented import block
from tests.programs import require

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("charts", "values", "argocd", "docs/reference", "cluster/manifests", ".github"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "apps").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "name", [pytest.param("ranker", marks=pytest.mark.conformance), "fraud-scorer"]
)
def test_a_new_service_is_valid_and_reachable_at_once(root: Path, name: str) -> None:
    """Found: a name with a dash was cut at it, and could not be deployed the first time."""
    for program in ("helm", "kubeconform"):
        require(program)
    write(root, planned(root, NewService(name)))
    assert [str(one) for one in validate.validate(root).findings] == []
    for environment in helm.environments(root):
        [own] = [one for one in helm.releases(root, environment) if one.name == name]
        assert own.service == name
        [public] = helm.render_all(
            root, [one for one in helm.releases(root, environment) if one.chart == "routing"]
        )
        routes = next(
            one
            for one in public.manifests
            if one["kind"] == "VirtualService" and "public" in one["spec"]["gateways"]
        )
        matches = [rule["match"] for rule in routes["spec"]["http"] if "match" in rule]
        assert any(f"/{name}" in str(match) for match in matches), matches


@pytest.mark.parametrize(
    "name", ["fraud-scorer", pytest.param("ranker", marks=pytest.mark.conformance)]
)
def test_a_new_service_s_own_tests_and_checks_pass(root: Path, name: str) -> None:
    """Its package is clean under this repository's rules, and its tests pass."""
    module = name.replace("-", "_")
    write(root, planned(root, NewService(name, "/v1/score")))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "apps/kit").symlink_to(ROOT / "apps/kit")
    (root / "tests/__init__.py").touch()
    package, tests = root / f"apps/{name}/src", root / f"tests/{module}"
    paths = os.pathsep.join([str(package), str(ROOT / "apps/kit/src")])
    environment = {**os.environ, "PYTHONPATH": paths, "MYPYPATH": paths}
    for command in (
        ["ruff", "check", package, tests],
        ["ruff", "format", "--check", package, tests],
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--explicit-package-bases",
         package / module],
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        [sys.executable, "-c", f"from {module}.cli import main; main()", "settings"],
    ):  # fmt: skip
        done = subprocess.run(
            [*map(str, command)], cwd=root, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_may_live_in_one_environment_alone(root: Path) -> None:
    files = planned(root, NewService("ranker", environments=("dev",)))
    assert [path for path in files if path.startswith("argocd/")] == [
        layout.environment_file("dev")
    ]
    assert "values/dev/ranker.image.yaml" in files
    assert "values/prod/ranker.image.yaml" not in files


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("Ranker", "", "no name of a service"),
        ("ranker-", "", "no name of a service"),
        ("a" * 41, "", "no name of a service"),
        ("ranker", "rank", "no prefix of a URL"),
        ("ranker", "/", "no prefix of a URL"),
        ("json", "", "a module of Python's"),
        ("services", "", "a meaning of its own"),
        ("gateway", "", "a meaning of its own"),
        ("hold", "", "a meaning of its own"),
        ("no", "", "a meaning of its own"),
        ("class", "", "a word of Python's own"),
        ("numpy", "", "an installed package's"),
        ("fastapi", "", "an installed package's"),
        ("prometheus-client", "", "an installed package's"),
        ("charts", "", "a meaning of its own"),
        ("docs", "", "a folder at the top"),
        ("bash", "", "is a program's, "),
        ("python", "", "a meaning of its own"),
    ],
)
def test_a_name_that_cannot_be_is_refused(root: Path, name: str, path: str, words: str) -> None:
    with pytest.raises(BadReferenceError, match=words):
        planned(root, NewService(name, path))


def test_what_is_there_is_never_written_over(root: Path) -> None:
    options = ["--root", str(root), "--json"]
    (root / "uv.lock").write_text("")
    first = CliRunner().invoke(app, ["new", "service", "ranker", *options, "--dry-run"])
    assert first.exit_code == 0, first.output
    assert not (root / "apps/ranker").exists()
    write(root, planned(root, NewService("ranker")))
    for name in ("ranker", "proxy"):
        answer = CliRunner().invoke(app, ["new", "service", name, *options])
        assert answer.exit_code != 0
        assert "already" in json.loads(answer.stdout)["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [("/v1", "/v1/predict"), ("/docs", "/docs"), ("/metrics", "/metrics"), ("/rank", "/rank/fast")],
)
def test_a_path_takes_no_other_service_s_requests(root: Path, path: str, said: str) -> None:
    """Found: `release new service v1` took every prediction away from the proxy."""
    write(root, planned(root, NewService("other", "/rank/fast")))
    with pytest.raises(ConflictError, match=said):
        planned(root, NewService("ranker", path))
    assert planned(root, NewService("ranker", "/rank/slow"))


def test_a_package_that_services_use_is_no_name_even_where_it_is_not_installed(root: Path) -> None:
    (root / "uv.lock").write_text('[[package]]\nname = "mlflow"\nversion = "3.0.0"\n')
    with pytest.raises(BadReferenceError, match="an installed package's"):
        planned(root, NewService("mlflow"))


def test_nothing_is_half_written(root: Path) -> None:
    """Found: files that were written before one that could not be written stayed."""
    (root / "docs/services").write_text("a file where a folder should be")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    folders = {path for path in root.rglob("*") if path.is_dir()}
    with pytest.raises(BadValuesError, match="nothing was changed"):
        write(root, planned(root, NewService("ranker")))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert {path for path in root.rglob("*") if path.is_dir()} == folders


def _reformatted() -> dict[str, str]:
    """The ApplicationSet of dev as strangers write it."""
    text = (ROOT / layout.environment_file("dev")).read_text()
    document = yaml.safe_load(text)
    spec = document["spec"]
    rows_last = {key: spec[key] for key in sorted(spec, key=lambda key: key == "generators")}
    elements = spec["generators"][0]["list"]["elements"]
    several = [{"list": {"elements": elements[:2]}}, {"list": {"elements": elements[2:]}}]
    return {
        "blocks": re.sub(
            r"- \{release: (\w+), chart: (\w+)(?:, (\w+): (\w+))?\}",
            lambda row: (
                f'- release: "{row[1]}" # why\n            chart: {row[2]}'
                + (f"\n            {row[3]}: {row[4]}" if row[3] else "")
                + "\n"
            ),
            text,
        ),
        "comments": re.sub(r"(- \{release.*\})", r"\1  # it's {fine}", text),
        "another order": re.sub(
            r"\{release: (\w+), chart: (\w+)", r"{chart: '\2', release: \1", text
        ),
        "line ends": text.replace("\n", "\r\n"),
        "dumped": yaml.safe_dump(document),
        "one line": yaml.safe_dump(document, default_flow_style=True, width=100_000),
        "no line end": yaml.safe_dump({**document, "spec": rows_last}, sort_keys=False).rstrip(),
        "several generators": yaml.safe_dump(
            {**document, "spec": {**spec, "generators": several}}, sort_keys=False
        ),
    }


@pytest.mark.parametrize("form", list(_reformatted()))
def test_rows_are_added_however_the_file_is_written(form: str) -> None:
    """Found: only `- {release: name, ...}` was known; a quoted row got a second one beside it."""
    text, path = _reformatted()[form], layout.environment_file("dev")
    longer = rows.with_routes(rows.with_row(text, path, "ranker"), path, "ranker")
    listed = layout.rows(yaml.safe_load(longer), "dev")
    before = layout.rows(yaml.safe_load(text), "dev")
    assert [row.name for row in listed] == [*(row.name for row in before), "ranker"]
    routing = next(row for row in listed if row.chart == "routing")
    assert "values/services/ranker/routes.yaml" in routing.files
    assert ("\r\n" in text) == ("\r\n" in longer)
    assert longer.count("\r\n") in (0, longer.count("\n"))
    for name in ("ranker", "proxy"):
        again = rows.with_routes(rows.with_row(longer, path, name), path, name)
        assert again == longer


def test_an_environment_without_routing_needs_no_line_of_routes() -> None:
    text = (ROOT / layout.environment_file("dev")).read_text()
    alone = "".join(line for line in text.splitlines(True) if "chart: routing" not in line)
    assert rows.with_routes(alone, "dev.yaml", "ranker") == alone
    without = "".join(line for line in text.splitlines(True) if 'dig "reads"' not in line)
    with pytest.raises(BadValuesError) as refused:
        rows.with_routes(without, "dev.yaml", "ranker")
    assert '../../values/services/ranker/{{ dig "reads" "none" . }}.yaml' in str(refused.value.fix)


def test_rows_keep_every_other_byte() -> None:
    text = (ROOT / layout.environment_file("dev")).read_text()
    longer = rows.with_routes(rows.with_row(text, "dev", "ranker"), "dev", "ranker")
    assert set(text.splitlines()) < set(longer.splitlines())
    assert len(longer.splitlines()) == len(text.splitlines()) + 2
    assert rows.with_row(longer, "dev", "ranker") == longer
    assert rows.with_routes(longer, "dev", "ranker") == longer
    shared = rows.with_row(text, "dev", "iris", of="inference")
    assert "{release: iris, chart: service, of: inference}\n" in shared
    with pytest.raises(BadValuesError, match="by hand"):
        rows.with_row("spec: {}\n", "dev", "iris")


@pytest.mark.parametrize(
    "elements",
    [
        "[{release: iris, chart: service}]}\n    - list: {elements: [{release: a, chart: service}]",
        "\n          -\n            release: iris\n            chart: service\n"
        "          - {release: a, chart: service}",
    ],
)
def test_a_row_that_cannot_be_removed_says_which_one(elements: str) -> None:
    """Found: the message was that the file, which is one, is no ApplicationSet."""
    flow = elements.startswith("[")
    listed = f"{{elements: {elements}}}" if flow else f"\n        elements:{elements}"
    text = f"spec:\n  generators:\n    - list: {listed}\n"
    with pytest.raises(BadValuesError, match="cannot be edited") as refused:
        rows.without_row(text, layout.environment_file("dev"), "iris")
    assert refused.value.fix == "remove the row of iris by hand"


def test_a_new_environment_knows_the_models_that_have_a_release(root: Path) -> None:
    """Found: it had the row of such a release, and no caller that knew its address."""
    path = root / layout.environment_file("dev")
    path.write_text(rows.with_row(path.read_text(), "dev", "iris", of="inference"))
    (root / "values/dev/iris.models.yaml").write_text(OF_ONE_MODEL + NO_MODELS)
    (root / "values/dev/proxy.servers.yaml").write_text("calls: {iris: {}}\n")
    files = planned_environment(root, NewEnvironment("qa", "dev"))
    assert files["values/qa/proxy.servers.yaml"] == b"calls: {iris: {}}\n"
    # `release model remove` knows by the first line that the release goes with its model.
    assert files["values/qa/iris.models.yaml"].decode() == OF_ONE_MODEL + NO_MODELS
    assert files["values/qa/inference.models.yaml"].decode() == NO_MODELS


@pytest.mark.parametrize("like", ["", "prod"])
def test_a_new_environment_is_valid_and_shares_no_store(root: Path, like: str) -> None:
    for program in ("helm", "kubeconform"):
        require(program)
    write(root, planned_environment(root, NewEnvironment("qa", "dev", like)))
    assert [str(one) for one in validate.validate(root).findings] == []
    stores: dict[str, set[str]] = {}
    for environment in helm.environments(root):
        for path in (root / "values" / environment).glob("*.yaml"):
            text = path.read_text()
            found = {*_words(text, "redis://"), *_words(text, "BUCKET"), *_words(text, "bucket")}
            found |= set(yaml.safe_load(text).get("hosts", ()))
            stores.setdefault(environment, set()).update(found)
    for name, own in stores.items():
        assert name == "qa" or not own & stores["qa"], (name, own & stores["qa"])
    assert any("qa.slipway.localhost" in one for one in stores["qa"])
    document = yaml.safe_load((root / layout.environment_file("qa")).read_text())
    assert document["metadata"]["name"] == "qa"
    assert document["spec"]["template"]["spec"]["project"] == "slipway-qa"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("U: redis://h:6379", "U: redis://h:6379/3"),
        ("U: redis://h:6379/", "U: redis://h:6379/3"),
        ("U: 'rediss://u:p@h:6379/0?x=1' # 0", "U: 'rediss://u:p@h:6379/3?x=1' # 0"),
        ("U: redis://h:6379?db=2&x=1", "U: redis://h:6379/3?x=1"),
        ('UNZIP_BUCKET: "archives" # dev', 'UNZIP_BUCKET: "archives-qa" # dev'),
        ("bucket: jobs", "bucket: jobs-qa"),
        ("S3_BUCKET_NAME: 'jobs'", "S3_BUCKET_NAME: 'jobs-qa'"),
        ('J: \'{"bucket": "jobs"}\'', 'J: \'{"bucket": "jobs-qa"}\''),
        ('J: "{\\"bucket\\": \\"jobs\\"}"', 'J: "{\\"bucket\\": \\"jobs-qa\\"}"'),
        ("LOG: s3://logs/x", "LOG: s3://logs-qa/x"),
        ("BUCKET: team-qa-jobs", "BUCKET: team-qa-jobs"),
        ("BUCKET: taken", "BUCKET: taken-qa-qa"),
        ("BUCKET_REGION: us-east-1", "BUCKET_REGION: us-east-1"),
    ],
)
def test_a_store_of_any_form_becomes_the_environment_s_own(text: str, wanted: str) -> None:
    """Found: an address of Redis without a number, which is database 0, stayed shared."""
    others = ["redis://h:6379", "redis://h/1?x=2", "redis://h?db=2", "bucket: taken-qa"]
    assert own_stores(text, "qa", others) == wanted


@pytest.mark.parametrize(("name", "after"), [("dev2", "dev"), ("dev-eu", "dev"), ("eu", "dev-eu")])
def test_names_that_are_parts_of_others_stay_apart(root: Path, name: str, after: str) -> None:
    """Found: beside `dev-eu`, the name of `dev` was replaced in that of the other one."""
    write(root, planned_environment(root, NewEnvironment("dev-eu", "dev")))
    if name == "dev-eu":
        name, after = "dev-us", "dev-eu"
    proxy = root / f"values/{after}/proxy.yaml"
    kept = "findings: {a: 'as stage-eu, dev-eu-2 and developers'}\nargs: [/dev/shm, prod]\n"
    proxy.write_text(proxy.read_text() + kept)
    application = root / layout.environment_file(after)
    url = f"https://{after}.azure.com/acme/slipway.git"
    application.write_text(re.sub(r"repoURL: \S+", f"repoURL: {url}", application.read_text()))
    write(root, planned_environment(root, NewEnvironment(name, after)))
    made = yaml.safe_load((root / layout.environment_file(name)).read_text())
    assert made["spec"]["template"]["spec"]["source"]["repoURL"] == url
    assert made["spec"]["template"]["spec"]["destination"]["namespace"] == name
    assert made["spec"]["template"]["metadata"]["name"] == f"{name}-{{{{ .release }}}}"
    text = (root / f"values/{name}/proxy.yaml").read_text()
    assert "args: [/dev/shm, prod]" in text
    assert "developers" in text
    for row in layout.rows(made, name):
        for path in row.files:
            assert path.split("/")[1] in (name, "platform", "services"), path


def test_a_release_that_has_an_environment_s_name_in_its_own_keeps_it(root: Path) -> None:
    write(root, planned(root, NewService("dev-scorer")))
    write(root, planned_environment(root, NewEnvironment("qa", "dev")))
    assert "dev-scorer" in [row.name for row in helm.releases(root, "qa")]


@pytest.mark.parametrize("name", ["no", "kube-system", "default", "argocd", "promotion"])
def test_an_environment_s_name_has_no_meaning_already(root: Path, name: str) -> None:
    with pytest.raises(BadReferenceError):
        planned_environment(root, NewEnvironment(name, "dev"))


def test_an_environment_that_nobody_promotes_from_can_be_promoted_from(root: Path) -> None:
    """Found: after prod, the workflow offered qa as a target and not prod as a source."""
    promote = root / ".github/workflows/promote.yaml"
    promote.write_text(
        promote.read_text().replace("[stage, prod]", "['stage', \"prod\"]")
        + "# another list: options: [info, debug]\n"
    )
    write(root, planned_environment(root, NewEnvironment("dr", "prod", "prod")))
    text = promote.read_text()
    assert "options: [dev, stage, prod, dr]" in text
    assert "options: [stage, prod, dr]" in text
    assert "options: [info, debug]" in text


def test_a_workflow_without_a_list_is_named(root: Path) -> None:
    promote = root / ".github/workflows/promote.yaml"
    promote.write_text(
        re.sub(r"options: .*", "options: ${{ vars.ENVIRONMENTS }}", promote.read_text())
    )
    answer = CliRunner().invoke(
        app, ["new", "environment", "qa", "--after", "dev", "--root", str(root), "--json"]
    )
    assert answer.exit_code == 0, answer.output
    assert "promote.yaml has no list" in json.loads(answer.stdout)["notes"][0]


def _words(text: str, marker: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if marker in line]


def test_the_workflows_offer_the_new_environment_after_the_one_before(root: Path) -> None:
    write(root, planned_environment(root, NewEnvironment("qa", "dev")))
    promote = (root / ".github/workflows/promote.yaml").read_text()
    assert "options: [dev, qa, stage]" in promote
    assert "options: [qa, stage, prod]" in promote
    assert (
        "options: [dev, qa, stage, prod]" in (root / ".github/workflows/rollback.yaml").read_text()
    )


@pytest.mark.parametrize("name", ["QA", "q_a", "-qa", "services", "root", "x" * 31])
def test_an_environment_s_name_is_a_namespace(root: Path, name: str) -> None:
    with pytest.raises(BadReferenceError):
        planned_environment(root, NewEnvironment(name, "dev"))


def test_the_commands_of_the_page_work_as_written(root: Path) -> None:
    for program in ("helm", "kubeconform"):
        require(program)
    shutil.copy(ROOT / "pyproject.toml", root)
    for text in ("release new service", "release new environment"):
        written = block("docs/adding.md", containing=text).text
        done = subprocess.run(
            ["bash", "-euc", written], cwd=root, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Next:" in done.stdout
    assert (root / "apps/fraud-scorer/src/fraud_scorer/app.py").is_file()
    assert [str(one) for one in validate.validate(root).findings] == []
    assert "fraud-scorer" in (root / layout.environment_file("qa")).read_text()
