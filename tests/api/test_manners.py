"""What HTTP lets clients expect of a server, and a server of its clients."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest

from backend.api import rest_api
from backend.api.middleware import accepts
from backend.api.streams import sse_chunk
from tests.api.server import ECHO, serving

APP = "https://app.example"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("*/*", True),
        ("application/*", True),
        ("text/html, application/json;q=0.2", True),
        ("text/html,*/*;q=0.1", True),
        ("text/html", False),
        ("application/json;q=0", False),
        ("application/json;q=0.000, */*", False),
        ("", False),
        (";;,,", False),
    ],
)
def test_an_accept_header_is_taken_at_its_word(header, allowed):
    assert accepts(header, "application/json") is allowed


@pytest.mark.parametrize(
    ("path", "accepted", "status"),
    [
        ("/api/v2/graphs", "text/html", 406),
        ("/api/v2/graphs", "application/json", 200),
        ("/api/v2/runs/0b7f4f5e-6f0c-4f0b-8a3c-7a1d9f6c2b10/events", "application/json", 406),
        ("/api/v2/runs/0b7f4f5e-6f0c-4f0b-8a3c-7a1d9f6c2b10/events", "text/event-stream", 404),
        ("/docs", "text/html", 200),
    ],
)
async def test_who_accepts_nothing_that_there_is_is_told(api, path, accepted, status):
    async with api.get(path, headers={"Accept": accepted}) as answer:
        assert answer.status == status
        if status == 406:
            assert (await answer.json(content_type=None))["code"] == "not_acceptable"


async def test_what_is_accepted_may_be_said_in_several_headers(api):
    async with api.get("/api/v2/graphs", headers=[("Accept", "text/html"), ("Accept", "application/json")]) as answer:
        assert answer.status == 200


async def test_a_body_that_is_packed_is_refused_by_name(api):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with api.post("/api/v2/graphs", data=gzip.compress(b"{}"), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (415, "unsupported_media_type")


async def test_large_answers_are_compressed_and_small_ones_are_not(api):
    plain = {"Accept-Encoding": "gzip"}
    async with api.get("/api/v2/blocks", headers=plain, auto_decompress=False) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await answer.read()).startswith(b"[{")
    async with api.get("/api/v2/blocks", headers={"Accept-Encoding": "gzip; q=0, *"}) as answer:
        assert "Content-Encoding" not in answer.headers
    async with api.get("/api/v2/me", headers=plain) as answer:
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("path", ["/api/v2/me", "/api/v2/nothing", "/livez", "/docs", "/openapi.json"])
async def test_no_answer_is_shown_within_a_page_of_others_or_taken_for_something_else(api, path):
    async with api.get(path) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


@pytest.fixture
async def with_pages(settings, database) -> AsyncIterator[str]:
    allowed = settings.model_copy(update={"backend_cors_allow_origins": (APP,)})
    async with serving(allowed, database, rest_api.build_app, sse_chunk) as address:
        yield f"http://{address}"


async def test_pages_that_are_allowed_may_ask_and_read(with_pages: str):
    async with aiohttp.ClientSession(with_pages) as client:
        asked = {"Origin": APP, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-api-key"}
        async with client.options("/api/v2/graphs", headers=asked) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == APP
        async with client.get("/api/v2/graphs", headers={"Origin": APP}) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, APP)
        for foreign in (
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            async with client.get("/api/v2/graphs", headers=foreign) as answer:
                assert answer.status == 403


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(api, rest_address: str):
    reader, writer = await asyncio.open_connection(*rest_address.split(":"))
    head = f"POST /api/v2/graphs HTTP/1.1\r\nHost: {rest_address}\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Content-Length: 20000000\r\n\r\n")
    assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_slow_sender_is_told_so(rest_address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.api.middleware.BODY_STARTS_WITHIN", 0.05)
    reader, writer = await asyncio.open_connection(*rest_address.split(":"))
    head = f"POST /api/v2/graphs HTTP/1.1\r\nHost: {rest_address}\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b'Content-Length: 1000\r\n\r\n{"no')
    assert b" 408 " in await reader.readline()
    writer.close()


async def test_a_body_that_comes_in_pieces_is_one_body(api):
    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"name":"x","nodes":[]}':
            yield bytes([byte])

    async with api.post("/api/v2/graphs", data=pieces(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 201


async def test_a_bomb_stays_small(api):
    """Nothing unpacks what is sent compressed; what is deep or long is refused as what it is."""
    bomb = gzip.compress(b"[" * 10_000_000)
    headers = {"Content-Type": "application/json"}
    for body, more in (
        (bomb, {"Content-Encoding": "gzip"}),
        (b'{"nodes":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}),
        (b'{"nodes":[],"version":1' + b"0" * 1_000_000 + b"}", {}),
        (b'{"nodes":[],"name":"\\ud800"}', {}),
        (b"\xff\xfe", {}),
    ):
        async with api.post("/api/v2/graphs", data=body, headers=headers | more) as answer:
            assert 400 <= answer.status < 500, body[:40]
    assert (await api.post("/api/v2/graphs", json=ECHO)).status == 201
