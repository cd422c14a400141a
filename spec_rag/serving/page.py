"""The page of the server: its files, its security headers, and the limits and models that it shows."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import spec_rag
from spec_rag.loaders.formats import KINDS
from spec_rag.serving import state

_MULTIPART_BYTES = 4096  # of a request with a file, besides the file
_POLICY = {
    b"content-security-policy": b"default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}


class _Page(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_POLICY.items()]
            await send(message)

        await super().__call__(scope, receive, guarded)


def add_page(app: FastAPI) -> None:
    """Serve the page under /app/ and redirect / to it."""

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/app/")

    @app.get("/app/settings.json", include_in_schema=False)
    async def settings(request: Request) -> dict[str, Any]:
        """Limits and models, for the page."""
        server = state.of(request)
        target = getattr(getattr(server.engine, "pair", None), "target", None)
        text_config = None if target is None else target.config.get_text_config(decoder=True)
        return {
            "version": spec_rag.__version__,
            "draft": server.draft_name,
            "is_upstream": server.settings.upstream is not None,
            "target_parameters": None if target is None else target.num_parameters(),
            "context_tokens": getattr(text_config, "max_position_embeddings", None),
            "max_answer_tokens": server.settings.max_completion_tokens,
            "max_documents": server.settings.max_documents,
            "max_file_bytes": max(server.settings.max_body_bytes - _MULTIPART_BYTES, 0),
            "kinds": KINDS,
        }

    @app.get("/app/marks.css", include_in_schema=False)
    async def marks() -> FileResponse:
        """The colours of kept and dropped text, shared with the HTML report."""
        return FileResponse(str(resources.files("spec_rag").joinpath("data", "marks.css")), media_type="text/css")

    folder = resources.files("spec_rag.serving").joinpath("web")
    app.mount("/app", _Page(directory=str(folder), html=True), name="app")
