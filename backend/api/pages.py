"""The pages for people: the documentation at /docs (which needs no network), and one for each kind of problem."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse

from backend.errors import NotFound, codes

# They have their own styles and scripts, and nothing from elsewhere.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

DOCS = Path(__file__).with_name("docs.html")

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home() -> RedirectResponse:
    return RedirectResponse("/docs")


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(DOCS.read_bytes(), headers=HEADERS)


@router.get("/problems/{code}")
async def problem(code: str) -> HTMLResponse:
    """What the `type` of a problem points to."""
    error = codes().get(code)
    if error is None:
        raise NotFound("There is no kind of problem with this code.")
    about = escape(" ".join((error.__doc__ or "").split()))
    title = escape(error.title)
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<h1>{title}</h1><p>{about}<p><code>{error.code}</code>, HTTP status {error.status}",
        headers=HEADERS,
    )
