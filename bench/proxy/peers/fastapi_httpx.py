"""The most usual of all: FastAPI in front, httpx behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response

UPSTREAM = os.environ["UPSTREAM"]
DROPPED = {"host", "content-length", "connection", "transfer-encoding"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.client = httpx.AsyncClient(limits=httpx.Limits(max_connections=256))
    yield
    await app.state.client.aclose()


app = FastAPI(lifespan=lifespan)


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def pass_on(path: str, request: Request) -> Response:
    answer = await app.state.client.request(
        request.method,
        f"{UPSTREAM}/{path}",
        params=request.query_params,
        content=await request.body(),
        headers={k: v for k, v in request.headers.items() if k not in DROPPED},
    )
    kept = {k: v for k, v in answer.headers.items() if k.lower() not in DROPPED}
    return Response(answer.content, answer.status_code, kept)
