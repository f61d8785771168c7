"""The whole service as it runs in a pod, before a real inference service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
import redis.asyncio as redis
from typer.testing import CliRunner

from kit import settings as kit_settings
from proxy.cli import app
from proxy.jobs.queue import ENDED, PRIORITIES, Keys
from proxy.settings import ProxySettings
from tests.proxy.conftest import Neighbour, eventually
from tests.proxy.processes import running
from tests.trained import trained_digits

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
JOBS = int(os.environ.get("PROXY_TEST_JOBS", "100"))
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a model trained for this run."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(trained_digits(tmp_path_factory), folder / "digits" / "1")
    return folder


def backends(url: str, **more: Any) -> dict[str, Any]:
    return {"digits": {"type": "http", "url": url} | more}


async def test_held_out_digits_through_a_real_model_and_as_the_server_prepares_them(
    repository: Path, tmp_path: Path
) -> None:
    from trainer.digits import png, split

    _, held_out = split()
    model = {
        "model_repository": str(repository),
        "grpc_enabled": False,
        "RELEASE_NAME": "inference",
        "POD_NAME": "inference-0",
    }
    async with (
        running(tmp_path, "inference", "serve", **model) as inference,
        running(
            tmp_path,
            "proxy",
            "serve",
            backends=backends(inference.url)
            | {"raw": backends(inference.url, model="digits", prepare="server")["digits"]},
        ) as proxy,
        aiohttp.ClientSession() as session,
    ):
        right = 0
        for position in range(20):
            row = np.asarray(held_out.pixels[position], np.float32)
            answers = []
            for name in ("digits", "raw"):
                async with session.post(
                    f"{proxy.url}/v1/predict/{name}",
                    data=png(row),
                    headers={"content-type": "image/png"},
                ) as answer:
                    answers.append(await answer.json())
                    assert answer.status == 200, answers[-1]
                    assert answer.headers["X-Slipway-Pod"] == "inference-0"
                    assert float(answer.headers["X-Slipway-Compute-Ms"]) >= 0
            async with session.post(
                f"{proxy.url}/v1/predict/digits",
                data=orjson.dumps({"instances": [row.tolist()]}),
                headers=JSON,
            ) as answer:
                answers.append(await answer.json())
            # the proxy and the server prepare alike; a row needs no preparation
            prepared = pytest.approx(answers[0]["probabilities"], abs=1e-4)
            assert answers[1]["probabilities"] == prepared
            label = str(held_out.labels[position])
            right += answers[0]["label"] == answers[2]["label"] == label
        assert right >= 16
        infer = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64],
                             "data": row.tolist()}]}  # fmt: skip
        async with session.post(f"{proxy.url}/v2/models/digits/infer", json=infer) as answer:
            assert (await answer.json())["model_name"] == "digits"
        async with session.get(f"{proxy.url}/openapi.json") as answer:
            shown = (await answer.json())["paths"]["/v1/predict/{model}"]["post"]["requestBody"]
        for kind, data in examples(shown["content"]):
            async with session.post(
                f"{proxy.url}/v1/predict/digits", data=data, headers={"content-type": kind}
            ) as answer:
                assert (answer.status, (await answer.json()).get("label")) == (200, "0"), data
        async with session.post(f"{proxy.url}/v2/models/digits/infer", data=b"{") as answer:
            assert answer.status == 400
            assert "error" in await answer.json()


def examples(content: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Every example of a request as the documentation shows it: media type and body."""
    found = [
        ("application/json", orjson.dumps(example["value"]))
        for example in content["application/json"]["examples"].values()
    ]
    found.append(("text/csv", content["text/csv"]["example"].encode()))
    assert len(found) == 3
    return found


async def test_sigterm_under_load_fails_no_request(model: Neighbour, tmp_path: Path) -> None:
    async with running(
        tmp_path, "proxy", "serve", backends=backends(model.url), stop_delay_seconds=0.5
    ) as proxy:
        failures: list[str] = []
        served = 0
        stop = asyncio.Event()

        async def load() -> None:
            """What a route does that is taken away within the delay: use until told, then leave."""
            nonlocal served
            async with aiohttp.ClientSession() as session:
                while not stop.is_set():
                    try:
                        async with session.post(
                            f"{proxy.url}/v2/models/digits/infer", data=b"{}"
                        ) as answer:
                            await answer.read()
                            if answer.status != 200:
                                failures.append(str(answer.status))
                            served += 1
                    except aiohttp.ClientError as error:
                        failures.append(repr(error))

        async with aiohttp.ClientSession() as session:
            tasks = [asyncio.create_task(load()) for _ in range(8)]
            while served < 50:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
            proxy.signal(signal.SIGTERM)

            async def unready() -> bool:
                async with session.get(f"{proxy.url}/readyz") as answer:
                    return answer.status == 503

            await eventually(unready)
            before = served
            while served == before:
                assert failures == []
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.gather(*tasks)
        assert failures == []
        assert await proxy.ended() == 0


async def test_no_job_is_lost_and_none_done_twice_when_workers_are_killed(
    model: Neighbour, redis_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "backends": backends(model.url),
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        # A job that runs alone when its worker is killed has not ended it.
        "jobs": {"lease_seconds": 1.0, "max_deaths_alone": 20},
        "worker_concurrency": 16,
        "stop_delay_seconds": 0,
    }
    async with (
        running(tmp_path, "proxy", "serve", **settings) as proxy,
        aiohttp.ClientSession() as session,
    ):
        body = orjson.dumps({"instances": [[1.0] * 64]})
        identities: list[str] = []
        for _ in range(JOBS):
            async with session.post(
                f"{proxy.url}/v1/jobs/digits", data=body, headers=JSON
            ) as answer:
                identities.append((await answer.json())["id"])

        client = redis.Redis.from_url(redis_url)
        keys = Keys(settings["redis_prefix"])

        async def count() -> int:
            async with client.pipeline(transaction=False) as pipe:
                for identity in identities:
                    pipe.hget(keys.job(identity), "state")
                states = [state.decode() for state in await pipe.execute()]
            assert set(states) <= {"queued", "running", "succeeded"}, states
            return sum(state in ENDED for state in states)

        done = 0
        for round_ in range(2):
            async with running(
                tmp_path, "proxy", "worker", **settings, POD_NAME=f"worker-{round_}"
            ) as worker:
                while done < JOBS * (round_ + 1) // 4:
                    await asyncio.sleep(0.005)
                    done = await count()
                worker.signal(signal.SIGKILL)
        async with running(tmp_path, "proxy", "worker", **settings, POD_NAME="worker-last") as last:

            async def all_done() -> bool:
                return await count() == JOBS

            await eventually(all_done, seconds=90)
            last.signal(signal.SIGTERM)
            assert await last.ended() == 0
        pending = [await client.xlen(keys.stream(priority)) for priority in PRIORITIES]
        assert pending == [0, 0, 0], "what is done is out of the queue"
        await client.aclose()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PROXY_BACKENDS": '{"digits": {"type": "http"}}'}, "url"),
        ({"PROXY_BACKENDS": '{"digits": {"type": "http", "url": "x"}}'}, "http://"),
        (
            {"PROXY_BACKENDS": '{"digits": {"type": "http", "url": "http://x", "tmeout": 1}}'},
            "tmeout",
        ),
        # What a SageMaker endpoint serves has no digest an answer could be kept under.
        (
            {"PROXY_BACKENDS": '{"d": {"type": "sagemaker", "endpoint": "e", "cache": {}}}'},
            "cache",
        ),
        ({"PROXY_BACKENDS": "{"}, "PROXY_BACKENDS"),
        ({"PROXY_PORT": "99999"}, "PORT"),
        ({"PROXY_ENSEMBLES": '{"e": {"members": [{"model": "nobody"}]}}'}, "nobody"),
        ({"PROXY_CALLBACKS": '{"allow": ["https://x"]}'}, "PROXY_CALLBACK_SECRET"),
    ],
)
def test_settings_that_are_wrong_name_the_key_and_exit_2(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_needs_redis() -> None:
    done = CliRunner().invoke(app, ["worker"])
    assert done.exit_code == 2
    assert "PROXY_REDIS_URL" in done.stderr


def test_the_settings_reference_is_the_codes() -> None:
    for suffix, as_json in (("md", False), ("json", True)):
        written = (ROOT / f"docs/reference/settings-proxy.{suffix}").read_text()
        generated = kit_settings.reference(ProxySettings, title="proxy", as_json=as_json)
        assert written == generated, "run `make reference`"


def test_every_setting_is_described() -> None:
    for row in kit_settings.environment_variables(ProxySettings):
        assert len(row["description"]) > 10, row["name"]


def test_secrets_are_not_in_the_reference_nor_in_a_dump() -> None:
    settings = ProxySettings(callback_secret="a secret of some length")  # type: ignore[arg-type]
    assert "a secret of" not in repr(settings) + json.dumps(settings.model_dump(mode="json"))
