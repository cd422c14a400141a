"""Static files of the web page, with security headers."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

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
    folder = resources.files("spec_rag.serving").joinpath("web")

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/app/")

    app.mount("/app", _Page(directory=str(folder), html=True), name="app")
