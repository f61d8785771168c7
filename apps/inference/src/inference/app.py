"""The ASGI application: one look-up for paths that ask a model, plain routing for the rest."""

from __future__ import annotations

import time
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from inference.engine.call import Call
from inference.errors import (
    BadRequest,
    InferenceError,
    ModelError,
    NotFound,
    RepositoryError,
    Unavailable,
)
from inference.protocols import openapi, rest_v2, sagemaker, unsupported, v1
from inference.server import documents
from inference.server.exchange import Exchange
from inference.server.state import ServerState


class InferenceApp:
    """Open Inference Protocol v2, V1 and SageMaker's contract over one engine."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._find = state.paths.find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            if scope["method"] == "POST":
                target = self._find(scope["raw_path"].decode("latin-1"))
                if target is not None:
                    await rest_v2.infer(self._state, target, scope, receive, send)
                    return
            await self._route(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                for step in self._state.startup:
                    await step()
                await send({"type": "lifespan.startup.complete"})
            else:
                for step in reversed(self._state.shutdown):
                    await step()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call("rest", time.monotonic())
        try:
            headers = self._state.read_headers(scope["headers"], call)
            await self._dispatch(Exchange(scope, receive, send, headers, call))
        except InferenceError as error:
            await self._state.refuse(send, error, call)
        except RepositoryError as error:
            await self._state.refuse(send, Unavailable(str(error)), call)
        except ModelError as error:
            await self._state.refuse(send, BadRequest(str(error)), call)
        except Exception as error:
            await self._state.refuse(
                send, self._state.engine.outcomes.failed(None, call, error), call
            )
        finally:
            self._state.engine.let_go(call)

    async def _dispatch(self, exchange: Exchange) -> None:
        raw = exchange.scope.get("raw_path") or exchange.scope["path"].encode()
        parts = [unquote(part) for part in raw.decode("latin-1").split("/")[1:]]
        match parts:
            case [""]:  # KServe's V1: the server is alive
                exchange.need("GET")
                await exchange.json({"status": "alive"})
            case ["v2"] | ["v2", ""]:
                exchange.need("GET")
                await exchange.json(documents.server_metadata(self._state))
            case ["v2", "health", "live"]:
                exchange.need("GET")
                status, _ = self._state.health.liveness()
                await exchange.json({"live": status == 200}, status)
            case ["v2", "health", "ready"]:
                exchange.need("GET")
                status, why = self._state.health.readiness()
                document = {"ready": status == 200} | ({} if status == 200 else {"error": str(why)})
                await exchange.json(document, status)
            case ["v2", "models", "stats"]:
                exchange.need("GET")
                await exchange.json(documents.statistics(self._state))
            case ["v2", "models", name, *rest]:
                await self._model(exchange, name, rest)
            case ["v2", "repository", repository, "index"]:
                raise NotFound(
                    f"repository {repository!r} is unknown: there is one, without a name"
                )
            case ["v2", "repository", "index"]:
                exchange.need("POST")
                await exchange.json(await self._index(exchange))
            case ["v2", "repository", "models", name, "load" | "unload" as verb]:
                exchange.need("POST")
                await self._control(exchange, name, verb)
                await exchange.json({})
            case ["v1", "models", *rest]:
                await v1.handle(self._state, exchange, rest)
            case ["ping"]:
                exchange.need("GET")
                status, why = self._state.health.readiness()
                await exchange.json({} if status == 200 else {"error": str(why)}, status)
            case ["openapi.json"]:
                exchange.need("GET")
                await exchange.json(openapi.document(self._state.version))
            case ["invocations"]:
                exchange.need("POST")
                await sagemaker.handle(self._state, exchange)
            case _:
                raise unsupported.not_served(parts) or exchange.no_such_path()

    async def _model(self, exchange: Exchange, name: str, rest: list[str]) -> None:
        version: str | None = None
        if rest[:1] == ["versions"] and len(rest) >= 2:
            version, rest = rest[1], rest[2:]
        match rest:
            case [] | [""]:
                exchange.need("GET")
                await exchange.json(documents.model_metadata(self._state, name, version))
            case ["ready"]:
                exchange.need("GET")
                served = self._state.registry.get(name, version)
                await exchange.json({"name": served.name, "version": served.version, "ready": True})
            case ["stats"]:
                exchange.need("GET")
                self._state.registry.get(name, version)
                await exchange.json(documents.statistics(self._state, name, version))
            case ["config"]:
                exchange.need("GET")
                await exchange.json(documents.model_config(self._state, name, version))
            case ["infer"]:
                exchange.need("POST")
                await rest_v2.infer(
                    self._state, (name, version), exchange.scope, exchange.receive, exchange.send
                )
            case _:
                parts = ["v2", "models", name, *rest]
                raise unsupported.not_served(parts) or exchange.no_such_path()

    async def _index(self, exchange: Exchange) -> list[dict[str, str]]:
        asked = await v1.json_body(self._state, exchange)
        ready = asked.get("ready", False)
        if type(ready) is not bool:
            raise BadRequest("ready must be true or false")
        rows = await self._state.registry.index()
        return [row for row in rows if not ready or row["state"] == "READY"]

    async def _control(self, exchange: Exchange, name: str, verb: str) -> None:
        asked = await v1.json_body(self._state, exchange)
        if verb == "load":
            unsupported.check_load(asked.get("parameters", {}))
            await self._state.load(name)
        else:
            unsupported.check_unload(asked.get("parameters", {}))
            await self._state.unload(name)
