"""A stranger's text model (a vectorizer that lower-cases) from the caller to ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.inference import small_models
from tests.proxy.processes import running

MODEL = Path(__file__).parents[1] / "inference" / "strangers" / "text_tfidf.onnx"
C_UTF8 = Path("/usr/lib/locale/C.utf8")


@pytest.mark.skipif(not C_UTF8.is_dir(), reason="this machine has no C.utf8")
@pytest.mark.timeout(300)
async def test_upper_case_text_is_read_as_lower_case_in_every_form(tmp_path: Path) -> None:
    """Real processes, with the locale that the Dockerfile makes."""
    shutil.copytree(C_UTF8, tmp_path / "locale" / "en_US.utf8")
    small_models.put(tmp_path / "models", "mail", "1", MODEL.read_bytes())
    async with (
        running(
            tmp_path,
            "inference",
            "serve",
            model_repository=str(tmp_path / "models"),
            grpc_enabled=False,
            LOCPATH=str(tmp_path / "locale"),
        ) as server,
        running(
            tmp_path, "proxy", "serve", backends={"mail": {"type": "http", "url": server.url}}
        ) as proxy,
        aiohttp.ClientSession() as session,
    ):

        async def ask(path: str, kind: str, body: str) -> object:
            async with session.post(path, data=body, headers={"content-type": kind}) as answer:
                said = await answer.json()
                assert answer.status == 200, said
                return said.get("outputs") or said.get("predictions") or said

        url = f"{proxy.url}/v1/predict/mail"
        wanted = await ask(url, "text/plain", "free money")
        for kind, body in (
            ("text/plain", "FREE Money"),
            ("application/json", '["FREE Money"]'),
            ("application/json", '{"instances": [["Free MONEY"]]}'),
            ("text/csv", "FREE money\n"),
        ):
            assert await ask(url, kind, body) == wanted, (kind, body)
        assert await ask(url, "text/plain", "lunch today") != wanted

        def tensor(text: str) -> str:
            return (
                '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], '
                f'"data": ["{text}"]}}]}}'
            )

        for base in (server.url, proxy.url):
            path = f"{base}/v2/models/mail/infer"
            upper = await ask(path, "application/json", tensor("FREE MONEY"))
            assert upper == await ask(path, "application/json", tensor("free money"))
            assert upper != await ask(path, "application/json", tensor("lunch today"))
