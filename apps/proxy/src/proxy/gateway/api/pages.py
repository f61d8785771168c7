"""The web page and the API's documentation, served without anybody else's servers."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from starlette.responses import Response

from proxy.settings import ProxySettings

ASSETS = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI as it is released
Sample = Literal["0-screen", "2-thin", "4-photograph", "5-photograph", "7-pen", "7-thick"]
"""Held-out digits of scikit-learn, drawn by ``trainer.drawing``; the pen's is drawn in strokes."""
# What needs no credential. Everything else is asked for one before it is routed.
OPEN_PATHS = frozenset(
    {
        "/",
        "/docs",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "/favicon.ico",
        *(f"/samples/{name}.jpg" for name in get_args(Sample)),
        "/openapi.json",
        "/v1/about",
    }
)
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router(settings: ProxySettings) -> APIRouter:
    """`/`, `/docs` and the files they need."""
    pages = APIRouter(include_in_schema=False)
    samples = resources.files("proxy").joinpath("samples")
    index = resources.files("proxy").joinpath("page.html").read_text()

    @pages.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(index, headers=HEADERS)

    @pages.get("/docs")
    async def docs() -> HTMLResponse:
        found = get_swagger_ui_html(
            openapi_url="openapi.json",
            title="Slipway proxy",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="favicon.ico",
        )
        return HTMLResponse(bytes(found.body), headers=HEADERS)

    @pages.get("/favicon.ico")
    async def favicon() -> Response:
        return Response(
            ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"}
        )

    @pages.get("/docs/{name}")
    async def asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> Response:
        return FileResponse(ASSETS / name, headers={"cache-control": "max-age=86400"})

    @pages.get("/samples/{name}.jpg")
    async def sample(name: Sample) -> Response:
        picture = samples.joinpath(f"{name}.jpg").read_bytes()
        headers = {"cache-control": "max-age=86400", "x-content-type-options": "nosniff"}
        return Response(picture, media_type="image/jpeg", headers=headers)

    return pages


ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<path d="M1 11h14l-3 4H4z" fill="#0b6e8a"/><path d="M8 1v9H3z" fill="#e8a33d"/></svg>'
)
