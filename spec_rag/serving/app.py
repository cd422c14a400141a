"""The application: middleware, routes, start and stop.

middleware (keys, limits, queue, log) -> routes -> conversations (compression) -> engine or upstream
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import spec_rag
from spec_rag.errors import ConfigError
from spec_rag.serving import chat_api, compress_api, guardrail_api, operation_api, responses_api
from spec_rag.serving import upstream_routes as upstream_api
from spec_rag.serving.api_errors import ApiError, from_validation
from spec_rag.serving.conversations import NOT_SHORTENED
from spec_rag.serving.document_schemas import ErrorResponse
from spec_rag.serving.engine import Engine, LocalEngine
from spec_rag.serving.gateway_middleware import GatewayMiddleware
from spec_rag.serving.hosts import allowed_hosts
from spec_rag.serving.listener import Server, bind, url_of
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.page import add_page
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.shutdown import Shutdown
from spec_rag.serving.state import ServerState
from spec_rag.serving.upstream import Upstream
from spec_rag.utils.cancellation import in_thread


def create_app(
    settings: ServerSettings, engine: Engine | None = None, started: Callable[[], None] = lambda: None
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        settings: settings of the server.
        engine: loaded models; None loads those of the settings at startup.
        started: called after the models are loaded.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncGenerator[None, None]:
        models: Engine = engine if engine is not None else await in_thread(lambda cancelled: LocalEngine.load(settings))
        target = settings.served_name or settings.target or ""
        server = ServerState(settings, metrics, models, settings.draft, target)
        app.state.server = server
        started()
        if settings.upstream is None:
            yield
            return
        server.upstream = Upstream(settings, metrics)
        try:
            yield
        finally:
            await server.upstream.close()

    app = FastAPI(
        title="spec-rag",
        version=spec_rag.__version__,
        summary="Answers from what a draft model keeps of long documents",
        lifespan=life,
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
    )
    answering = chat_api.router if settings.upstream is None else upstream_api.router
    routers = [
        operation_api.router,
        compress_api.router,
        compress_api.rerank_router,
        guardrail_api.router,
        *([responses_api.router] if settings.upstream is None else []),
        answering,
    ]
    for router in routers[:-1]:
        app.include_router(router)
    _add_common(app, settings)
    add_page(app)
    routes = [route for router in routers[:-1] for route in router.routes] + app.routes + answering.routes
    app.include_router(answering)  # last: the upstream router matches every other path under /v1
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.state.shutdown = Shutdown()
    app.add_middleware(
        GatewayMiddleware, settings=settings, metrics=metrics, shutdown=app.state.shutdown, routes=routes
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "X-Request-ID",
                "X-Spec-RAG-Tokens-Before",
                "X-Spec-RAG-Tokens-After",
                NOT_SHORTENED,
                "Retry-After",
            ],
        )
    return app


def _add_common(app: FastAPI, settings: ServerSettings) -> None:
    if settings.upstream is not None:  # the upstream lists its models
        return

    @app.get("/v1/models", tags=["OpenAI"])
    async def models(request: Request) -> dict[str, Any]:
        """List the model."""
        return {"object": "list", "data": [_model(request)]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"], responses={404: {"model": ErrorResponse}})
    async def model(name: str, request: Request) -> dict[str, Any]:
        """The model by its name, which may contain slashes."""
        served = _model(request)
        if name != served["id"]:
            raise ApiError(
                404, f"model={name!r:.100}: this server has {served['id']!r}.", param="model", code="model_not_found"
            )
        return served


def _model(request: Request) -> dict[str, Any]:
    server: ServerState = request.app.state.server
    about = {"draft": server.draft_name, "kv_bytes_per_token": server.engine.kv_bytes_per_token}
    return {
        "id": server.model_name,
        "object": "model",
        "created": server.started,
        "owned_by": "spec-rag",
        "spec_rag": about,
    }


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    response = from_validation(error.errors())
    return JSONResponse(response.body(), response.status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path}"
    message = {404: f"There is no {place}.", 405: f"{place}: another method is needed."}.get(error.status_code)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    response = ApiError(error.status_code, message or str(error.detail), code=code)
    return JSONResponse(response.body(), response.status, headers=dict(error.headers or {}))


def run(
    settings: ServerSettings,
    host: str,
    port: int,
    engine: Engine | None = None,
    started: Callable[[str], None] | None = None,
    load: Callable[[], Engine] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are finished within `settings.shutdown_seconds`.

    The socket is bound before the models are loaded, so that a port in use fails immediately.

    Args:
        settings: settings of the server.
        host, port: listening address; port 0 selects a free one.
        engine: loaded models; None calls `load`.
        started: called with the URL once requests are answered; None prints it.
        load: loads the models; None loads those of the settings.

    Raises:
        ConfigError: the address cannot be bound, or the index folder is not writable.
        ModelNotFoundError: a model is not found.
    """
    log = logging.getLogger("spec_rag.serving")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    settings = replace(settings, allowed_hosts=allowed_hosts(settings.allowed_hosts, host))
    if settings.index is not None:
        check_writable_folder(settings.index)
    with bind(host, port) as listening:
        url = url_of(listening, host)
        if engine is None:
            engine = load() if load is not None else LocalEngine.load(settings)
        app = create_app(settings, engine)

        def answering() -> None:
            if started is None:
                print(f"Listening on {url}", file=sys.stderr, flush=True)
            else:
                started(url)

        Server(app, settings, app.state.shutdown, answering).run(sockets=[listening])


def check_writable_folder(path: str) -> None:
    """Check that the index folder is writable.

    Raises:
        ConfigError: it cannot be created or written to.
    """
    try:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise ConfigError(f"index={path!r}: cannot be written: {error.strerror}. Give another folder.") from error
