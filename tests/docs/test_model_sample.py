"""docs/inference.md: its sample of model.json, and the transforms that it may list."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from inference.service import check
from inference.settings import InferenceSettings
from kit import transforms
from kit.pictures import steps as picture_steps
from kit.transforms_reference import generate
from tests.documented import ROOT
from tests.inference.conftest import serving
from tests.trained import trained_digits
from trainer.publishing import MODEL_FILE


async def test_the_page_s_model_json_serves_what_the_trainer_writes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Found: the page listed one output of two, and the server refused to load its sample."""
    page = (ROOT / "docs/inference.md").read_text(encoding="utf-8")
    [sample] = re.findall(r'```json\n(\{"name": "digits".*?)```', page, re.DOTALL)
    folder = tmp_path / "digits/1"
    folder.mkdir(parents=True)
    shutil.copy(trained_digits(tmp_path_factory) / MODEL_FILE, folder)
    (folder / "model.json").write_text(sample, encoding="utf-8")
    [row] = await check(InferenceSettings(model_repository=str(tmp_path)))
    assert row["state"] == "READY", row["reason"]
    picture = (ROOT / "docs/samples/seven.png").read_bytes()
    async with serving(str(tmp_path)) as running:
        answer = await running.client.post(
            "/invocations", content=picture, headers={"Content-Type": "image/png"}
        )
    assert answer.status_code == 200, answer.text
    assert "class" in answer.text


def test_the_page_of_transforms_is_current() -> None:
    written = (ROOT / "docs/reference/transforms.md").read_text(encoding="utf-8")
    assert written == generate(), "run `make reference`"


@pytest.mark.parametrize("module", [transforms, picture_steps])
def test_no_transform_is_left_out_of_the_page(module: object) -> None:
    page = generate()
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, picture_steps.Step):
            kind = value.model_fields.get("transform")
            if kind is not None:
                [word] = re.findall(r"Literal\['(\w+)'\]", str(kind.annotation))
                assert f"| `{word}` |" in page, f"{name} ({word}) stands on no page"
