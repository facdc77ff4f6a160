"""A page of another site, open in the same browser, does not reach the server."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from backend.api.middleware import LocalGuard


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8006", "[::1]:8006", "app.localhost", "127.9.9.9", "LOCALHOST"]
)
async def test_a_loopback_name_is_served(api, host):
    async with api.get("/livez", headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "[",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/evil.example",
        "localhost, localhost",
    ],
)
async def test_another_host_name_is_refused(api, host):
    async with api.get("/livez", headers={"Host": host}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "wrong_host")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8006", "http://[::1]"])
async def test_a_page_of_this_machine_is_served(api, origin):
    async with api.get("/livez", headers={"Origin": origin}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost.evil.example", "http://["])
async def test_a_page_of_another_site_is_refused(api, origin):
    async with api.post("/api/v2/graphs", headers={"Origin": origin}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
async def test_a_websocket_of_another_site_is_refused(websocket_address: str, headers):
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"ws://{websocket_address}/ws", headers=headers)
    assert refused.value.status == 403


@pytest.mark.parametrize(("origin", "status"), [(None, 200), ("http://box:8006", 200), ("http://evil.example", 403)])
async def test_on_a_public_address_any_host_name_is_served_but_only_to_its_own_pages(origin, status):
    sent: list[dict[str, object]] = []

    async def app(scope: object, receive: object, send: object) -> None:
        sent.append({"status": 200})

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"host", b"box:8006"), *([(b"origin", origin.encode())] if origin else [])]
    await LocalGuard(app, "0.0.0.0")({"type": "http", "headers": headers}, None, send)
    assert sent[0]["status"] == status


async def test_a_request_that_names_two_hosts_is_refused(rest_address: str):
    reader, writer = await asyncio.open_connection(*rest_address.split(":"))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
