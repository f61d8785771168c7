"""Makes a version's folder of an ONNX file: ``model.json`` with what can be derived, and loaded.

What a folder's own ``model.json`` says stays; what it lacks is added: inputs, outputs, a sample,
and the sha256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from inference.errors import InferenceError, ModelError
from inference.models import load
from inference.models.onnx_model import OnnxModel
from inference.repository import manifest as manifests
from inference.repository.layout import Found
from inference.repository.manifest import TensorSpec
from inference.settings import InferenceSettings
from kit.oip.errors import BadTensorError
from kit.oip.samples import check_size
from kit.oip.tensors import Array

_NAME = re.compile(manifests.NAME)
_GIVE_A_SAMPLE = (
    'give a folder whose model.json has "samples": requests of the protocol that it answers'
)
_SHOWN = 20
"""Values of an answer that are shown."""


def describe(
    source: Path, to: Path, *, name: str, version: str, settings: InferenceSettings
) -> dict[str, Any]:
    """Fill ``to/<name>/<version>`` and say what the server makes of it.

    ``source`` is an ``.onnx`` file, or a folder with one, the files of its weights and perhaps a
    ``model.json``. ModelError where the server could not serve it, or no sample is answered.
    """
    for kind, text in (("name", name), ("version", version)):
        if not _NAME.fullmatch(text):
            raise ModelError(
                f"{kind} {text[:100]!r}: it becomes part of a path; use letters, digits, and "
                "`.`, `_`, `-` behind the first, at most 128"
            )
    folder = to / name / version
    folder.mkdir(parents=True, exist_ok=True)
    given = _copied(source, folder)
    unlisted = {key: value for key, value in given.items() if key != "data_files"}
    document = unlisted | {"name": name, "version": version, "format": "onnx"}
    document["sha256"] = _sha256_of(folder / manifests.MODEL_FILE)
    data = sorted(path.name for path in folder.iterdir() if path.name not in _OURS)
    if data:
        document["data_files"] = {one: _sha256_of(folder / one) for one in data}
    _check_agreement(given, document, source)
    _write(folder, document)  # what is wrong with a given one is said before anything is derived
    manifests.parse((folder / manifests.FILE).read_bytes(), where=manifests.FILE)
    model = OnnxModel(folder / manifests.MODEL_FILE, threads=1, name=name)
    for key, specs in (("inputs", model.inputs), ("outputs", model.outputs)):
        if key not in given and not any(spec.free_rank for spec in specs):
            document[key] = [spec.model_dump() for spec in specs]
    notes = [
        f"its model.json says {key} {given[key]!r}, and it is added as {document[key]!r}"
        for key in ("name", "version")
        if given.get(key, document[key]) != document[key]
    ]
    answer: list[Array] = []
    if not document.get("samples"):
        feeds, answer = _made_up(model)
        sample = {"inputs": [_tensor(spec, feeds[spec.name]) for spec in model.inputs]}
        try:
            check_size([sample])
            document["samples"] = [sample]
            notes.append("its sample is made up: put requests of yours into model.json")
        except BadTensorError:
            notes.append(
                "it has no sample: one of its inputs is larger than model.json may hold, so "
                "`release verify` asks it with zeros"
            )
    _write(folder, document)
    found = Found(name, version, "")
    loaded = load.read(folder, found, threads=1, settings=settings)
    return {
        "folder": str(folder),
        "name": name,
        "version": version,
        "sha256": _sha256_of(folder / manifests.FILE),
        "inputs": [spec.model_dump() for spec in model.inputs],
        "outputs": [spec.model_dump() for spec in model.outputs],
        "batching": {"enabled": loaded.batching.batching, "reason": loaded.batching.reason},
        "warnings": [*loaded.warnings, *notes],
        "sample": (document.get("samples") or [None])[0],
        "answer": {
            spec.name: values.ravel()[:_SHOWN].tolist()
            for spec, values in zip(model.outputs, answer, strict=False)
        },
    }


def _check_agreement(given: dict[str, Any], document: dict[str, Any], source: Path) -> None:
    """ModelError where a given ``model.json`` says another sha256 of a file than it has."""
    listed = given.get("data_files")
    said = {manifests.MODEL_FILE: given.get("sha256")} | (
        listed if isinstance(listed, dict) else {}
    )
    there = {manifests.MODEL_FILE: document["sha256"]} | document.get("data_files", {})
    for name, sha256 in said.items():
        if sha256 is not None and sha256 != there.get(name):
            has = f"has {there[name]}" if name in there else "is not there"
            raise ModelError(
                f"{source / manifests.FILE} says sha256 {sha256} of {name}, which {has}",
                fix="take the file that it was written for, or delete the sha256 from it",
            )


_OURS = {manifests.FILE, manifests.MODEL_FILE}


def _copied(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the model and what belongs to it; give the ``model.json`` beside it, {} without one."""
    if source.is_file():
        shutil.copyfile(source, folder / manifests.MODEL_FILE)
        return {}
    if not source.is_dir():
        raise ModelError(f"{source}: there is no such file or folder")
    found = sorted(source.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"{source}: a version's folder has one .onnx file, and this one's are: {names}"
        )
    model = found[0]
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name == manifests.FILE:
            continue
        if not path.is_file() or not _NAME.fullmatch(path.name):
            raise ModelError(
                f"{path}: a version's folder holds files with plain names and no folders"
            )
        target = manifests.MODEL_FILE if path == model else path.name
        shutil.copyfile(path, folder / target)
    try:
        document = json.loads((source / manifests.FILE).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{source / manifests.FILE} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{source / manifests.FILE} is no JSON object")
    return document


def _made_up(model: OnnxModel) -> tuple[dict[str, Array], list[Array]]:
    """An input of one row that the model answers, and the answer."""
    said = ""
    for fill in (0.0, 1.0):
        feeds = model.sample(1, fill=fill)
        try:
            return feeds, model.run(None, feeds)
        except InferenceError as error:
            said = error.message
    raise ModelError(f"no made-up input is answered ({said})", fix=_GIVE_A_SAMPLE)


def _tensor(spec: TensorSpec, values: Array) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": list(values.shape),
        "data": values.ravel().tolist(),
    }


def _write(folder: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / manifests.FILE).write_text(text, encoding="utf-8")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
