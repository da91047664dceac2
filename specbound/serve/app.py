"""The HTTP side: routes, keys, bodies, streams, errors. Knows no model; nothing of a request's text is logged."""

import asyncio
import contextlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from specbound.serve.answers import Writer
from specbound.serve.errors import ApiError, failed
from specbound.serve.jobs import End, Event, Failure, Job, Piece
from specbound.serve.logprobs import TokenChance
from specbound.serve.schemas import Asked, ChatRequest, CompletionRequest, parsed
from specbound.serve.service import Service

logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status of an answer that nobody reads any more."""
DONE = b"data: [DONE]\n\n"

A = TypeVar("A", bound=Asked)


def build_app(service: Service) -> FastAPI:
    """The application; the engine runs from its start-up to its end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await to_thread.run_sync(service.engine.close, service.drain_seconds)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)
    _add_watching(app, service)
    keyed = [Depends(key_check(service.api_key))]

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(service)]}

    @app.get("/v1/models/{name:path}", dependencies=keyed)
    async def model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        return model_card(service)

    @app.post("/v1/chat/completions", dependencies=keyed)
    async def chat(request: Request) -> Response:
        return await answer(service, request, await asked_of(service, request, ChatRequest))

    @app.post("/v1/completions", dependencies=keyed)
    async def completions(request: Request) -> Response:
        return await answer(service, request, await asked_of(service, request, CompletionRequest))

    return app


def model_card(service: Service) -> dict[str, Any]:
    card = {"id": service.name, "object": "model", "created": 0, "owned_by": "specbound"}
    return {**card, "max_model_len": service.most_context}


def _add_watching(app: FastAPI, service: Service) -> None:
    """Routes for whoever looks after the server; they need no key."""

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.engine.is_alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def own(_: Request, error: ApiError) -> Response:
        return response_of(error)

    @app.exception_handler(HTTPException)
    async def of_routes(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return response_of(ApiError(error.status_code, message))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return response_of(failed())


def response_of(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, headers=error.headers)


def key_check(api_key: str | None) -> Any:
    """A check of the client's key, which takes as long for a wrong one as for the right one."""
    expected = None if api_key is None else api_key.encode()

    async def check(request: Request) -> None:
        if expected is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), expected)  # the bytes as they came
        if kind.lower() != "bearer" or not is_right:
            raise ApiError(
                401,
                "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


async def asked_of(service: Service, request: Request, kind: type[A]) -> A:
    """The request in a body. Raises ApiError where it is too large, too slow, or not what it should be."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON: send 'Content-Type: application/json'")  # no page of another site
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            body = await body_of(request, service.limits.max_body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {service.limits.body_seconds:g} s") from None
    return parsed(body, kind)


async def body_of(request: Request, most: int) -> bytes:
    """At most so many bytes are held."""
    size = f"the body may have {most} bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise ApiError(413, f"{size}, got {declared}", code="body_too_large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"{size}, got more", code="body_too_large")
    return bytes(body)


class Waiting:
    """The jobs of one request, and their events in the order in which they come."""

    def __init__(self, service: Service, asked: ChatRequest | CompletionRequest) -> None:
        """Tokenises; to be made in a thread. Raises ApiError."""
        self._engine = service.engine
        self._orders = service.orders(asked)
        self._stops, self._num_best = asked.stops, asked.num_best
        self.jobs: list[Job] = []
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        num_prompt_tokens = sum(len(order.prompt) for order in self._orders[:: asked.num_choices])
        self.writer = Writer(service.name, isinstance(asked, ChatRequest), num_prompt_tokens)

    def submit(self) -> None:
        """Queues the jobs; from the event loop. Raises ApiError where there is no room."""
        loop = asyncio.get_running_loop()

        def told(index: int, event: Event) -> None:
            loop.call_soon_threadsafe(self.events.put_nowait, (index, event))

        self.jobs = [
            Job(order.prompt, order.arguments, self._stops, partial(told, index), self._num_best)
            for index, order in enumerate(self._orders)
        ]
        self._engine.submit(self.jobs)

    def cancel(self) -> None:
        self._engine.cancel(self.jobs)


async def answer(service: Service, request: Request, asked: ChatRequest | CompletionRequest) -> Response:
    """Decodes what a request asks for."""
    waiting = await to_thread.run_sync(Waiting, service, asked)
    waiting.submit()
    gone = asyncio.create_task(until_gone(request))
    try:
        first = asyncio.create_task(waiting.events.get() if asked.stream else collected(waiting))
        await asyncio.wait({first, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            waiting.cancel()
            return Response(status_code=CLIENT_GONE)
        found: Any = first.result()
    except BaseException:
        waiting.cancel()
        raise
    finally:
        gone.cancel()
    if not asked.stream:
        return JSONResponse(found)
    if isinstance(found[1], Failure):
        waiting.cancel()
        raise found[1].error
    return StreamingResponse(
        pieces(waiting, found, asked.includes_usage),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def until_gone(request: Request) -> None:
    """Returns once the client has closed its connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def collected(waiting: Waiting) -> dict[str, Any]:
    """All answers, whole. Raises the ApiError of the first that fails."""
    texts, ends = [""] * len(waiting.jobs), dict[int, End]()
    chances: list[list[TokenChance]] = [[] for _ in texts]
    while len(ends) < len(texts):
        index, event = await waiting.events.get()
        if isinstance(event, Failure):
            raise event.error
        if isinstance(event, Piece):
            texts[index] += event.text
            chances[index] += event.chances
        else:
            ends[index] = event
    return waiting.writer.whole(texts, chances, in_order(ends))


async def pieces(waiting: Waiting, first: tuple[int, Event], includes_usage: bool) -> AsyncIterator[bytes]:
    """The stream of a response. Whoever stops reading it frees the jobs' places."""
    writer, ends = waiting.writer, dict[int, End]()
    try:
        for index in range(len(waiting.jobs) if writer.is_chat else 0):
            yield line(writer.first(index))
        index, event = first
        while True:
            if isinstance(event, Failure):
                yield line(event.error.body())
                return
            if isinstance(event, Piece):
                yield line(writer.piece(index, event))
            else:
                ends[index] = event
                yield line(writer.last(index, event))
            if len(ends) == len(waiting.jobs):
                break
            index, event = await waiting.events.get()
        if includes_usage:
            yield line(writer.usage_chunk(in_order(ends)))
        yield DONE
    finally:
        waiting.cancel()


def in_order(ends: dict[int, End]) -> Sequence[End]:
    return [ends[index] for index in range(len(ends))]


def line(content: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"
