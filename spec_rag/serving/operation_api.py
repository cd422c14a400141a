"""/health, /ready, /metrics and /docs, without authentication."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

import spec_rag
from spec_rag.serving import state

router = APIRouter(tags=["operation"])

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-family:ui-monospace,monospace}summary{cursor:pointer;padding:.4rem 0}table{border-collapse:collapse}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}"
)


@router.get("/health")
async def health() -> dict[str, str]:
    """Liveness of the process; see /ready for models and upstream."""
    return {"status": "ok", "version": spec_rag.__version__}


@router.get("/ready", responses={503: {"description": "Requests would fail now."}})
async def ready(request: Request) -> Response:
    """Readiness: models loaded, upstream reachable, not shutting down."""
    server = state.of(request)
    checks: dict[str, str] = {"models": "ok"}
    if request.app.state.shutdown.stopping:
        checks["server"] = "is shutting down"
    if server.upstream is not None:
        checks["upstream"] = await server.upstream.what_is_wrong() or "ok"
    is_ready = all(check == "ok" for check in checks.values())
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return JSONResponse(body, 200 if is_ready else 503, headers={"Cache-Control": "no-store"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    text = state.of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """API reference as a page without external resources."""
    page = "".join(_page(request.app.openapi()))
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})


def _page(schema: Mapping[str, Any]) -> Iterator[str]:
    about = schema["info"]
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield f"<title>{html.escape(about['title'])} API</title><style>{_STYLE}</style>"
    yield f"<h1>{html.escape(about['title'])} {html.escape(about['version'])}</h1>"
    yield f"<p>{html.escape(about.get('summary', ''))}. The whole schema: <a href=openapi.json>openapi.json</a></p>"
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"<details><summary><code>{method.upper()} {html.escape(path)}</code> "
            yield f"{html.escape(operation.get('description', '').split(chr(10))[0])}</summary>"
            yield from _fields(schema, operation)
            yield "</details>"
    yield "</html>"


def _fields(schema: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    contents = operation.get("requestBody", {}).get("content", {})
    for kind, content in contents.items():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        body = schema.get("components", {}).get("schemas", {}).get(name, content.get("schema", {}))
        required = body.get("required", ())
        yield f"<p>Body: <code>{html.escape(kind)}</code></p><table><tr><th>field<th>form<th>"
        for field, form in body.get("properties", {}).items():
            yield f"<tr><td><code>{html.escape(field)}</code><td><code>{html.escape(_form(form))}</code>"
            yield f"<td>{'required' if field in required else ''}"
        yield "</table>"


def _form(form: Mapping[str, Any]) -> str:
    """Short description of a field's type."""
    if "$ref" in form:
        return str(form["$ref"]).rpartition("/")[2]
    if "enum" in form:
        return " | ".join(json.dumps(value) for value in form["enum"])
    if "const" in form:
        return json.dumps(form["const"])
    for union in ("anyOf", "oneOf"):
        if union in form:
            return " | ".join(dict.fromkeys(_form(member) for member in form[union]))
    kind = str(form.get("type", "any"))
    limits = [f"{sign} {form[name]:g}" for name, sign in _LIMITS.items() if isinstance(form.get(name), int | float)]
    inner = f" of {_form(form['items'])}" if kind == "array" and "items" in form else ""
    return " ".join([kind + inner, *limits])


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
