"""Requests reach the servers they may reach, and none on the network they are sent from."""

from __future__ import annotations

import asyncio
import gzip
import socket
from ipaddress import ip_address
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.abc import ResolveResult
from yarl import URL

from backend.blocks import _addresses, _http
from backend.blocks.block import BlockError
from backend.blocks.web import SendWebRequestBlock
from tests.sites import ChangingResolver, Site, plain, redirect, sites

__all__ = ["sites"]

BLOCK = SendWebRequestBlock()


@pytest_asyncio.fixture
async def site(sites: Any) -> Site:
    return await sites()


# ---- What is sent and what comes back


async def test_json_goes_out_and_comes_back(site: Site, run: Any) -> None:
    arrived = {"url": f"{site.url}/a?b=c", "body": {"x": [1]}, "headers": {"Authorization": " Bearer t\n"}}

    assert await run(BLOCK, arrived, trusted_hosts=site.trust) == [("response", {"path": "/a"})]

    request = site.asked[0]
    assert (request.method, request.path_qs) == ("POST", "/a?b=c")
    assert orjson.loads(site.bodies[0]) == {"x": [1]}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == "Bearer t"
    assert request.headers["Idempotency-Key"] == "token-1"


async def test_a_form_goes_out(site: Site, run: Any) -> None:
    arrived = {"url": site.url, "json_format": False, "body": {"a": "x y", "b": 2, "c": [1]}}
    await run(BLOCK, arrived, trusted_hosts=site.trust)
    assert site.asked[0].content_type == "application/x-www-form-urlencoded"
    assert site.bodies[0] == b"a=x+y&b=2&c=%5B1%5D"


async def test_a_key_against_repetition_goes_with_whatever_has_an_effect(site: Site, run: Any) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        await run(BLOCK, {"url": site.url, "method": method}, trusted_hosts=site.trust)
    await run(BLOCK, {"url": site.url, "headers": {"idempotency-key": "mine"}}, trusted_hosts=site.trust)

    keys = [request.headers.get("Idempotency-Key") for request in site.asked]
    assert keys == [None, None, None, "token-1", "token-1", "mine"]


async def test_the_users_content_type_wins(site: Site, run: Any) -> None:
    arrived = {"url": site.url, "body": {"x": 1}, "headers": {"content-type": "application/vnd.x+json"}}
    await run(BLOCK, arrived, trusted_hosts=site.trust)
    assert site.asked[0].headers.getall("Content-Type") == ["application/vnd.x+json"]


ANSWERS: list[tuple[dict[str, Any], tuple[str, Any]]] = [
    ({"status": 201, "text": "made"}, ("response", "made")),
    ({"status": 204}, ("response", "")),
    ({"body": b'{"a": 1}', "content_type": "application/problem+json"}, ("response", {"a": 1})),
    ({"body": b"", "content_type": "application/json"}, ("response", None)),
    ({"body": b"not json", "content_type": "application/json"}, ("response", "not json")),
    ({"body": b"[NaN]", "content_type": "application/json"}, ("response", "[NaN]")),
    ({"body": "é".encode("latin-1"), "content_type": "text/plain", "charset": "latin-1"}, ("response", "é")),
    ({"body": rb"\ud800", "headers": {"Content-Type": "text/plain; charset=unicode_escape"}}, ("response", r"\ud800")),
    ({"status": 304}, ("response", "")),
    ({"status": 404, "text": "no"}, ("client_error", "no")),
    ({"status": 503, "body": b'{"e": 1}', "content_type": "application/json"}, ("server_error", {"e": 1})),
]


@pytest.mark.parametrize(("response", "output"), ANSWERS)
async def test_the_status_chooses_the_pin_and_the_type_the_value(
    response: dict[str, Any], output: tuple[str, Any], site: Site, run: Any
) -> None:
    site.answer = plain(**response)
    assert await run(BLOCK, {"url": site.url, "method": "GET"}, trusted_hosts=site.trust) == [output]


async def test_what_is_not_text_is_refused(site: Site, run: Any) -> None:
    site.answer = plain(body=b"\x89PNG\0\xff", content_type="image/png")
    with pytest.raises(BlockError, match="is not text but image/png"):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)


async def test_an_answer_that_is_too_long_is_cut_off_also_when_it_was_packed(
    site: Site, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "MAX_ANSWER", 1_000_000)
    site.answer = plain(body=gzip.compress(b"0" * 50_000_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(BlockError, match="has more than 1,000,000 bytes"):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)


async def test_cookies_of_one_request_are_not_sent_with_the_next(site: Site, run: Any) -> None:
    site.answer = plain(headers={"Set-Cookie": "session=1"})
    for _ in range(2):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)
    assert "Cookie" not in site.asked[1].headers


# ---- What is refused before anything is sent


@pytest.mark.parametrize(
    ("arrived", "sentence"),
    [
        ({"url": "file:///etc/passwd"}, "not with file://"),
        ({"url": "gopher://x"}, "not with gopher://"),
        ({"url": "http://"}, "names no host|cannot be read"),
        ({"url": "http://[::1"}, "cannot be read"),
        ({"url": "http://a:99999"}, "cannot be read"),
        ({"url": "http://x", "headers": {"A": "b\r\nHost: evil"}}, "The header 'A' cannot be sent"),
        ({"url": "http://x", "headers": {"A\nB": "c"}}, r"The header 'A\\nB' cannot be sent"),
        ({"url": "http://x", "headers": {"Host": "evil"}}, "The header Host is set by the client itself"),
        ({"url": "http://x", "headers": {"Transfer-Encoding": "chunked"}}, "Transfer-Encoding is set by the client"),
        ({"url": "http://x", "files": ["a"]}, "Files cannot be sent yet"),
    ],
)
async def test_a_bad_request_is_named(arrived: dict[str, Any], sentence: str, run: Any) -> None:
    with pytest.raises(BlockError, match=sentence):
        await run(BLOCK, arrived)


async def test_a_failure_tells_the_host_and_no_secret(run: Any) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:pa55word@127.0.0.1:{taken.getsockname()[1]}/t0ken"
        with pytest.raises(BlockError) as raised:
            await run(BLOCK, {"url": url, "headers": {"X-Key": "s3cret"}}, trusted_hosts=("127.0.0.1",))
    assert str(raised.value) == "127.0.0.1 could not be reached: Connection refused."


async def test_a_server_that_hangs_up_or_stays_silent_is_told(site: Site, run: Any, monkeypatch: Any) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        return web.Response()

    async def stay_silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    site.answer = hang_up
    with pytest.raises(BlockError, match=r"127\.0\.0\.1 could not be reached: the connection was closed\."):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)

    site.answer = stay_silent
    monkeypatch.setattr(_http, "TIMEOUT", _http.aiohttp.ClientTimeout(total=0.3))
    with pytest.raises(BlockError, match=r"127\.0\.0\.1 took too long to answer\."):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)


# ---- Redirects


async def test_redirects_are_followed_and_secrets_stay_with_the_first_server(sites: Any, run: Any) -> None:
    first, second = await sites(), await sites()
    first.answer = redirect(f"{second.url}/there", 307)
    arrived = {
        "url": first.url,
        "body": {"x": 1},
        "headers": {"Authorization": "secret", "Cookie": "secret", "X-Api-Key": "secret", "Accept": "text/html"},
    }

    output = await run(BLOCK, arrived, trusted_hosts=first.trust + second.trust)

    assert output == [("response", {"path": "/there"})]
    assert "secret" in first.asked[0].headers.values()
    assert "secret" not in second.asked[0].headers.values()
    assert second.asked[0].headers["Accept"] == "text/html"
    assert second.asked[0].method == "POST"
    assert orjson.loads(second.bodies[0]) == {"x": 1}


async def test_a_redirect_on_the_same_server_keeps_headers_and_turns_post_to_get(site: Site, run: Any) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(status=303, headers={"Location": "done"})
        return web.Response(text=f"{request.method} {request.headers['X-Key']} {await request.read()!r}")

    site.answer = answer
    arrived = {"url": site.url, "body": {"x": 1}, "headers": {"X-Key": "k"}}
    assert await run(BLOCK, arrived, trusted_hosts=site.trust) == [("response", "GET k b''")]


async def test_redirects_in_a_circle_end(site: Site, run: Any) -> None:
    site.answer = redirect("/again")
    with pytest.raises(BlockError, match="redirects more than 10 times"):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)
    assert len(site.asked) == 11


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("http://127.0.0.1:{port}/", "private address"),
        ("http://localhost:{port}/", "localhost is a private address"),
        ("http://2130706433:{port}/", "private address"),
        ("//127.0.0.1:{port}/", "private address"),
        ("file:///etc/passwd", "not with file://"),
        ("http://[", "redirects to something that is no URL"),
    ],
)
async def test_a_redirect_to_a_private_address_is_refused(target: str, sentence: str, sites: Any, run: Any) -> None:
    outside, inside = await sites(), await sites()
    outside.answer = redirect(target.format(port=inside.port))

    with pytest.raises(BlockError, match=sentence):
        await run(BLOCK, {"url": outside.url}, trusted_hosts=outside.trust)

    assert inside.asked == []


# ---- Which addresses may be reached


NOTATIONS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "127.0.0.1.",
    "localhost", "LOCALHOST", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "0", "0.0.0.0", "[::]", "①②⑦.⓪.⓪.①",
]  # fmt: skip


@pytest.mark.parametrize("host", NOTATIONS)
async def test_no_notation_of_a_private_address_is_connected_to(host: str, site: Site, run: Any) -> None:
    with pytest.raises(BlockError, match=r"private address|is not an address|cannot be read|could not be reached"):
        await run(BLOCK, {"url": f"http://{host}:{site.port}/"})
    assert site.asked == []


PRIVATE = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "fc00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "2001:db8::1", "::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::a00:1", "2001:0:0a00:1::", "::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_every_kind_of_private_address_is_known(address: str) -> None:
    with pytest.raises(BlockError, match="is a private address"):
        _addresses.check("name.example", 80, ip_address(address), ())


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::", "::ffff:8.8.8.8"]
)
def test_public_addresses_may_be_reached(address: str) -> None:
    _addresses.check("name.example", 80, ip_address(address), ())


@pytest.mark.parametrize("trusted", ["localhost", "LocalHost:{port}", "127.0.0.1", "127.0.0.1:{port}"])
async def test_trusted_hosts_are_reached_by_name_or_address(trusted: str, site: Site, run: Any) -> None:
    url = f"http://localhost:{site.port}/"
    output = await run(BLOCK, {"url": url}, trusted_hosts=(trusted.format(port=site.port), "[::1]", "::1"))
    assert output == [("response", {"path": "/"})]


@pytest.mark.parametrize("trusted", ["localhost:1", "other", "127.0.0.2", "local", ""])
async def test_trust_in_one_is_no_trust_in_another(trusted: str, site: Site, run: Any) -> None:
    with pytest.raises(BlockError, match="private address"):
        await run(BLOCK, {"url": f"http://127.0.0.1:{site.port}/"}, trusted_hosts=(trusted,))
    assert site.asked == []


async def test_a_connection_made_on_trust_is_not_used_without_it(site: Site, run: Any) -> None:
    await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)
    with pytest.raises(BlockError, match="private address"):
        await run(BLOCK, {"url": site.url})
    assert len(site.asked) == 1


async def test_the_address_that_was_checked_is_the_one_connected_to(site: Site) -> None:
    resolver = ChangingResolver("127.0.0.1", "127.0.0.2")
    session = _http.Session(site.trust, resolver)
    url = URL(f"http://changing.example:{site.port}/")
    nothing = _http.Body(None, True)

    answer = await session.send("GET", url, {"Connection": "close"}, nothing)
    # A second look-up for the connection would have gone to 127.0.0.2.
    assert answer.status == 200
    assert resolver.addresses == ["127.0.0.2"]

    with pytest.raises(BlockError, match=r"changing\.example is a private address \(127\.0\.0\.2\)"):
        await session.send("GET", url, {}, nothing)
    assert len(site.asked) == 1
    await session.close()


async def test_one_private_address_among_public_ones_is_enough_to_refuse(site: Site) -> None:
    class Both(ChangingResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            return [(await ChangingResolver(address).resolve(host, port))[0] for address in self.addresses]

    session = _http.Session((), Both("8.8.8.8", "127.0.0.1"))
    with pytest.raises(BlockError, match="private address"):
        await session.send("GET", URL(f"http://both.example:{site.port}/"), {}, _http.Body(None, True))
    assert site.asked == []
    await session.close()


async def test_many_requests_share_connections(site: Site, run: Any) -> None:
    peers: set[Any] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response()

    site.answer = answer
    for _ in range(5):
        await run(BLOCK, {"url": site.url}, trusted_hosts=site.trust)
    assert len(peers) == 1
