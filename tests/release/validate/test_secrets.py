"""Secrets two ways: each makes the Secret that the values name, and renders."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.render.helm import releases, render_all
from release.render.merged_values import layered, of_files
from release.validate.objects.schemas import SCHEMAS
from tests.charts.rendering import helm, manifests
from tests.programs import cache_folder, require

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "argocd/platform/secrets"
KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def wanted() -> str:
    """The Secret without which no pod of the proxy starts."""
    (proxy,) = (one for one in releases(ROOT, "prod") if one.name == "proxy")
    secrets = layered(of_files(ROOT, proxy), "envFromSecrets")
    (name,) = (name for name, on in secrets.items() if on is True)
    return str(name)


def allowed(group: str, kind: str) -> bool:
    """Whether the environments' project may make it."""
    project = next(
        d
        for d in yaml.safe_load_all((ROOT / "argocd/projects/prod.yaml").read_text())
        if d["kind"] == "AppProject"
    )
    return {"group": group, "kind": kind} in project["spec"]["namespaceResourceWhitelist"]


def test_external_secrets_make_what_the_values_name(tmp_path: Path) -> None:
    """Found: nothing made an ExternalSecret in an environment; only an example lay there."""
    values = tmp_path / "environment.yaml"
    secrets = {wanted(): {"key": f"slipway/prod/{wanted()}"}}
    values.write_text(
        yaml.safe_dump({"secretStore": {"region": "eu-central-1"}, "secrets": secrets})
    )
    base = ROOT / "values/platform/one-machine.yaml"
    answer = helm(ROOT / "charts/environment", "environment", "prod", [base, values])
    assert answer.returncode == 0, answer.stderr
    found = {one["kind"]: one for one in manifests(answer.stdout)}
    store, external = found["SecretStore"], found["ExternalSecret"]
    assert store["spec"]["provider"]["aws"]["service"] == "SecretsManager"
    reference = {"kind": "SecretStore", "name": store["metadata"]["name"]}
    assert external["spec"]["secretStoreRef"] == reference
    assert external["spec"]["target"]["name"] == wanted()
    done = subprocess.run(
        [require("kubeconform"), "-strict", "-schema-location", SCHEMAS, "-"],
        input=answer.stdout, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert allowed("external-secrets.io", "ExternalSecret")
    assert allowed("external-secrets.io", "SecretStore")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is shipped, with an encrypted Secret for prod's proxy, and a `sops` that knows its key.

    The key service stands in for KMS; everything else is the plugin's own.
    """
    for part in ("charts", "values", "argocd"):
        shutil.copytree(ROOT / part, tmp_path / part)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": wanted(), "namespace": "prod"},
        "stringData": dict.fromkeys(sorted(KEYS), "hidden"),
    }
    hidden = base64.b64encode(yaml.safe_dump(secret).encode())
    (tmp_path / "values/prod/proxy.secret.yaml").write_bytes(hidden)
    program = tmp_path / "bin" / "sops"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --decrypt ] && base64 --decode "$2"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("release", ["proxy", "inference"])
def test_the_sops_plugin_renders_what_argo_cd_does_and_the_secret(tree: Path, release: str) -> None:
    (plugin,) = documents("sops")
    generate = yaml.safe_load(plugin["data"]["plugin.yaml"])["spec"]["generate"]
    require("helm")
    done = subprocess.run(
        [*generate["command"], *generate["args"]],
        cwd=tree / "charts/service",
        env={
            "PATH": f"{tree / 'bin'}:{cache_folder()}:{os.environ['PATH']}",
            "HOME": str(tree),
            "ARGOCD_APP_NAME": f"prod-{release}",
            "ARGOCD_APP_NAMESPACE": "prod",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    (usual,) = render_all(ROOT, [one for one in releases(ROOT, "prod") if one.name == release])
    secrets = [document for document in rendered if document["kind"] == "Secret"]
    assert [document for document in rendered if document["kind"] != "Secret"] == usual.manifests
    if release == "proxy":
        (secret,) = secrets
        assert secret["metadata"]["name"] == wanted()
        assert set(secret["stringData"]) == KEYS
    else:  # a release without one renders all the same
        assert secrets == []


def test_sops_encrypts_the_values_of_every_secret_and_nothing_else() -> None:
    (plugin,) = documents("sops")
    (rule,) = yaml.safe_load(plugin["data"][".sops.yaml"])["creation_rules"]
    assert re.search(rule["path_regex"], "values/prod/proxy.secret.yaml")
    assert not re.search(rule["path_regex"], "values/prod/proxy.yaml")
    assert re.search(rule["encrypted_regex"], "stringData")
    assert not re.search(rule["encrypted_regex"], "metadata")
