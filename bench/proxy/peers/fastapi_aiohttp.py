"""What people write first: FastAPI in front, aiohttp behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response

UPSTREAM = os.environ["UPSTREAM"]
DROPPED = {"host", "content-length", "connection", "transfer-encoding"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256))
    yield
    await app.state.session.close()


app = FastAPI(lifespan=lifespan)


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def pass_on(path: str, request: Request) -> Response:
    async with app.state.session.request(
        request.method,
        f"{UPSTREAM}/{path}",
        params=request.query_params,
        data=await request.body(),
        headers={k: v for k, v in request.headers.items() if k not in DROPPED},
    ) as answer:
        body = await answer.read()
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in DROPPED}
        return Response(body, answer.status, kept)
