"""Every answer that is no success is a problem document, whatever went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from backend.api import rest_api
from backend.api.streams import sse_chunk
from backend.errors import codes
from backend.settings import Settings
from backend.store import bundled
from backend.store.connection import open_pool
from tests.api.server import serving


async def problem_of(answer: aiohttp.ClientResponse) -> dict[str, object]:
    assert answer.content_type == "application/problem+json"
    problem = await answer.json(content_type=None)
    assert problem["type"] == f"/problems/{problem['code']}"
    assert problem["status"] == answer.status
    return problem


async def test_an_address_where_nothing_is(api):
    for path in ("/nothing", "/api/v2/nothing", "/api/v2/graphs/", "/%ff%00"):
        async with api.get(path) as answer:
            assert (await problem_of(answer))["code"] == "not_found"


async def test_a_method_that_is_not_allowed_is_told_which_are(api):
    async with api.delete("/api/v2/graphs") as answer:
        assert (await problem_of(answer))["code"] == "method_not_allowed"
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "POST"}


async def test_the_type_of_a_problem_is_the_address_of_its_explanation(api):
    for code, error in codes().items():
        async with api.get(f"/problems/{code}") as answer:
            assert answer.status == 200
            assert str(error.status) in await answer.text()
    async with api.get("/problems/nonsense") as answer:
        assert answer.status == 404


async def test_a_fault_of_the_server_leaks_nothing_and_is_found_in_the_log_by_its_request_id(
    api, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr("backend.store.graphs.count", fail)
    async with api.get("/api/v2/graphs", headers={"X-Request-Id": "find-me"}) as answer:
        assert answer.headers["X-Request-Id"] == "find-me"
        assert (await problem_of(answer))["code"] == "internal_error"
        assert "secret" not in await answer.text()
    assert "the secret" in capsys.readouterr().out


@pytest.mark.parametrize("id", ["a b", "x" * 129, "{}", ""])
async def test_a_request_id_that_could_confuse_a_log_is_replaced(api, id):
    async with api.get("/livez", headers={"X-Request-Id": id}) as answer:
        assert len(answer.headers["X-Request-Id"]) == 32


@contextmanager
def postgres_in(folder: Path) -> Iterator[None]:
    server = bundled.Bundled(folder, durable=False)
    server.start()
    try:
        yield
    finally:
        server.stop()


async def test_a_database_that_is_away_is_told_and_its_return_noticed(settings: Settings, tmp_path: Path):
    own = settings.model_copy(update={"database_url": bundled.dsn(tmp_path)})
    with postgres_in(tmp_path):
        pool = await open_pool(own)
    async with serving(own, pool, rest_api.build_app, sse_chunk) as address, aiohttp.ClientSession() as client:
        for path, code in (
            ("/api/v2/runs", "database_away"),
            ("/readyz", "unavailable"),
            ("/metrics", "database_away"),
        ):
            async with client.get(f"http://{address}{path}") as answer:
                assert (await problem_of(answer))["code"] == code
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        async with client.get(f"http://{address}/livez") as answer:
            assert answer.status == 200
        with postgres_in(tmp_path):
            async with client.get(f"http://{address}/api/v2/runs") as answer:
                assert answer.status == 200
            await pool.close()


async def test_requests_cut_off_by_the_client_do_no_harm(api, rest_address: str):
    host, port = rest_address.split(":")
    for beginning in (b"", b"GET", b"POST /api/v2/graphs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(beginning)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with api.get("/livez") as answer:
        assert answer.status == 200
