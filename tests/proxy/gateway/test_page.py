"""The web page in a real browser, on a desk and on a phone."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest

from tests.proxy.browser import artifacts, browsing
from tests.proxy.conftest import Neighbour, proxy_with, worker_with
from tests.proxy.test_app import png

pytestmark = pytest.mark.timeout(180)

# Hand the page a file, as dropping one does.
DROP = """(() => {
  const bytes = Uint8Array.from(atob("%s"), (sign) => sign.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "seven.png", {type: "image/png"}));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
})()"""


def drop() -> str:
    return DROP % base64.b64encode(png()).decode()


async def test_an_image_is_dropped_predicted_and_run_as_a_job(
    model: Neighbour, redis_url: str, tmp_path: Path
) -> None:
    gone = {"type": "http", "url": "http://127.0.0.1:1"}
    settings: dict[str, Any] = {
        "backends": {
            "digits": {"type": "http", "url": model.url, "cache": {"ttl_seconds": 60}},
            "letters": gone,
        },
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "release_name": "proxy",
        "source_revision": "0123456789abcdef",
    }
    async with (
        proxy_with(**settings) as proxy,
        worker_with(**settings),
        browsing(tmp_path, f"{proxy.url}/", width=1100, height=800) as tab,
    ):
        await tab.until("document.querySelectorAll('#models input').length === 2")
        states = await tab.do("[...document.querySelectorAll('.state')].map((n) => n.textContent)")
        assert states == ["ready", "unavailable"]
        assert "0123456" in await tab.do("document.getElementById('about').textContent")
        await tab.do(drop())
        await tab.until("!document.getElementById('preview').hidden")
        # By keyboard, as somebody without a mouse would.
        await tab.do("document.getElementById('text').focus()")
        for kind in ("keyDown", "keyUp"):
            await tab.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", modifiers=2,
                windowsVirtualKeyCode=13,
            )  # fmt: skip
        assert await tab.until("document.getElementById('label').textContent") == "7"
        bars = await tab.do("[...document.querySelectorAll('#bars li')].map((n) => n.innerText)")
        assert len(bars) == 10
        assert "7" in bars[0] and "55.0 %" in bars[0]
        facts = await tab.do("document.getElementById('facts').innerText")
        assert "inference-0" in facts and "miss" in facts and " ms" in facts
        await tab.screenshot(artifacts(tmp_path) / "page-desk.png")
        await tab.do("document.getElementById('job').click()")
        await tab.until("document.getElementById('facts').innerText.includes('Job')")
        assert await tab.do("document.getElementById('label').textContent") == "7"
        await tab.do("document.getElementById('text').value = '{\"instances\": [[1]]}'")
        await tab.do("document.getElementById('predict').click()")
        said = await tab.until("document.getElementById('problem').textContent")
        assert "400" in said and "shape" in said
        console = [error for error in tab.errors if "400" not in error]
        assert console == []


async def test_a_phone_sees_everything_without_scrolling_sideways(
    model: Neighbour, tmp_path: Path
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        proxy_with(backends=backends) as proxy,
        browsing(tmp_path, f"{proxy.url}/", width=360, height=740) as tab,
    ):
        await tab.until("document.querySelectorAll('#models input').length === 1")
        await tab.do(drop())
        await tab.until("!document.getElementById('preview').hidden")
        await tab.do("document.getElementById('predict').click()")
        await tab.until("document.getElementById('label').textContent")
        assert await tab.do("document.documentElement.scrollWidth <= innerWidth")
        small = await tab.do(
            "[...document.querySelectorAll('button')].filter((b) => b.offsetParent && "
            "b.getBoundingClientRect().height < 44).map((b) => b.id)"
        )
        assert small == [], "a finger needs 44 pixels"
        assert await tab.do("document.getElementById('job').hidden"), "no Redis, no jobs"
        await tab.screenshot(artifacts(tmp_path) / "page-phone.png")
        assert tab.errors == []


async def test_the_documentation_needs_nobody_elses_server(
    model: Neighbour, tmp_path: Path
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        proxy_with(backends=backends) as proxy,
        browsing(tmp_path, f"{proxy.url}/docs", width=1100, height=1400) as tab,
    ):
        await tab.until("document.querySelectorAll('.opblock').length >= 9")
        hosts = await tab.do(
            "[...new Set(performance.getEntriesByType('resource')"
            ".map((entry) => new URL(entry.name).host))]"
        )
        assert hosts == [proxy.url.removeprefix("http://")]
        await tab.screenshot(artifacts(tmp_path) / "docs.png")
        assert tab.errors == []


TAKE = """(() => {
  const files = new DataTransfer();
  files.items.add(new File(["%s"], "%s", {type: "%s"}));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
})()"""


async def test_a_sample_is_answered_and_a_new_input_clears_the_answer_on_a_phone(
    model: Neighbour, tmp_path: Path
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        proxy_with(backends=backends) as proxy,
        browsing(tmp_path, f"{proxy.url}/", width=390, height=844) as tab,
    ):
        await tab.until("!document.getElementById('samples').hidden")
        assert "one handwritten digit" in await tab.do(
            "document.getElementById('expects').textContent"
        )
        await tab.until(
            "[...document.querySelectorAll('#samples img')].every((i) => i.naturalWidth === 240)"
        )
        await tab.do("document.querySelector('#samples button').click()")
        await tab.until("!document.getElementById('preview').hidden")
        await tab.do("document.getElementById('predict').click()")
        assert await tab.until("document.getElementById('label').textContent") == "7"
        top = "document.getElementById('label').getBoundingClientRect().top"
        await tab.until(f"{top} >= 0 && {top} < innerHeight / 2")
        assert await tab.do("document.documentElement.scrollWidth <= innerWidth")
        await tab.screenshot(artifacts(tmp_path) / "page-sample-phone.png")

        await tab.do(drop())
        await tab.until("document.getElementById('found').hidden")
        await tab.until("!document.getElementById('preview').hidden")
        await tab.do("document.getElementById('predict').click()")
        await tab.until("document.getElementById('label').textContent")
        await tab.do(TAKE % ("GIF89a", "cat.gif", "image/gif"))
        said = await tab.until("document.getElementById('problem').textContent")
        assert "cat.gif is no PNG, JPEG or WebP" in said
        assert await tab.do("document.getElementById('found').hidden")
        await tab.do(TAKE % ("RIFF1234WEBPVP8 ", "torn.webp", "image/webp"))
        await tab.until("document.getElementById('problem').textContent.includes('is broken')")
        assert len(model.seen) and all(s.path.count("infer") <= 1 for s in model.seen)


async def test_a_text_model_works_from_the_page(model: Neighbour, tmp_path: Path) -> None:
    async def metadata(_: Any) -> Any:
        return aiohttp.web.json_response(
            {
                "name": "digits", "versions": ["1"], "platform": "onnx",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
            }
        )  # fmt: skip

    model.on("/v2/models/digits", metadata)
    backends = {"words": {"type": "http", "url": model.url, "model": "digits"}}
    async with (
        proxy_with(backends=backends) as proxy,
        browsing(tmp_path, f"{proxy.url}/", width=1100, height=800) as tab,
    ):
        await tab.until("document.getElementById('expects').textContent.includes('text')")
        assert await tab.do("document.getElementById('drop').hidden")
        await tab.do("document.getElementById('text').value = 'spoke too soon, with a comma'")
        await tab.do("document.getElementById('predict').click()")
        await tab.until("!document.getElementById('found').hidden")
        assert b"spoke too soon, with a comma" in model.seen[-1].body
        await tab.screenshot(artifacts(tmp_path) / "page-text-desk.png")


async def test_a_job_for_a_model_that_no_worker_knows_is_refused_in_a_sentence(
    model: Neighbour, redis_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
    }
    digits = {"digits": {"type": "http", "url": model.url}}
    letters = {"letters": {"type": "http", "url": model.url}}
    async with (
        worker_with(**settings, backends=letters),
        proxy_with(**settings, backends=digits) as proxy,
        browsing(tmp_path, f"{proxy.url}/", width=1100, height=800) as tab,
    ):
        await tab.until("document.querySelectorAll('#models input').length === 1")
        await tab.do(drop())
        await tab.until("!document.getElementById('preview').hidden")
        await tab.do("document.getElementById('job').click()")
        said = await tab.until("document.getElementById('problem').textContent")
        assert "the workers that run jobs do not know the model 'digits'" in said
        assert "they know: letters" in said
        assert not await tab.do("document.getElementById('problem').hidden")
        assert await tab.do("document.getElementById('running').hidden")
        assert not await tab.do("document.getElementById('job').disabled")
        await tab.screenshot(artifacts(tmp_path) / "page-job-refused.png")
