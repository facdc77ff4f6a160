"""Files: sent up and down in a stream, in parts, by odd names, within limits; and what blocks do with them."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData

from backend.store import files
from backend.store.identifiers import new_id
from tests.api.server import OUTPUT_BLOCK

FILES = "/api/v2/files"
UPLOAD = f"{FILES}/upload"
FILE_INPUT = "95ead23f-8283-4654-aef3-10c053b74a31"
FILE_STORE = "cbb50872-625b-42f0-8203-a2ae78242d8a"
LARGE = os.urandom(2 * files.CHUNK + 1000)


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"upload_file_size_limit_mb": 1, "trusted_hosts": ("127.0.0.1",)})


def form(content: bytes, name: str = "a.txt", kind: str = "text/plain") -> FormData:
    data = FormData(quote_fields=False)
    data.add_field("file", BytesIO(content), filename=name, content_type=kind)
    return data


async def upload(api: aiohttp.ClientSession, content: bytes, name: str = "a.txt", **query: Any) -> dict[str, Any]:
    async with api.post(UPLOAD, data=form(content, name), params=query) as answer:
        assert answer.status == 201, await answer.text()
        told = await answer.json()
        assert answer.headers["Location"] == f"{FILES}/{told['id']}"
        return told


async def content_of(api: aiohttp.ClientSession, id: str) -> bytes:
    async with api.get(f"{FILES}/{id}/download") as answer:
        assert answer.status == 200
        return await answer.read()


async def test_a_file_goes_up_and_comes_down_as_it_was(api):
    made = await upload(api, LARGE, "report.bin", expires_in_hours=2)
    assert (made["file_name"], made["size"], made["content_type"]) == ("report.bin", len(LARGE), "text/plain")
    assert (made["file_uri"], made["expires_in_hours"]) == (f"agpt-file://{made['id']}", 2)
    empty = await upload(api, b"", "empty")
    async with api.get(FILES) as answer:
        assert await answer.json() == {"items": [empty, made], "next_cursor": None, "total_count": 2}
    async with api.get(f"{FILES}/{made['id']}") as answer:
        assert await answer.json() == made
    async with api.get(f"{FILES}/{made['id']}/download") as answer:
        assert await answer.read() == LARGE
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''report.bin"
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Content-Length"]) == (
            "nosniff",
            str(len(LARGE)),
        )
        etag = answer.headers["ETag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        async with api.get(f"{FILES}/{made['id']}/download", headers={"If-None-Match": known}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
    assert await content_of(api, empty["id"]) == b""
    async with api.head(f"{FILES}/{made['id']}/download", headers={"Range": "bytes=-7"}) as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (206, "7", b"")


async def test_a_part_of_a_file_is_given_if_it_is_asked_for(api):
    address = f"{FILES}/{(await upload(api, LARGE))['id']}/download"
    for asked, status, expected in (
        ("bytes=0-0", 206, LARGE[:1]),
        ("bytes=262143-262145", 206, LARGE[262143:262146]),
        ("bytes=524288-", 206, LARGE[524288:]),
        ("bytes=-7", 206, LARGE[-7:]),
        ("bytes=100-99999999", 206, LARGE[100:]),
        ("bytes=0-99999999", 200, LARGE),
        ("bytes=5-4", 200, LARGE),
        ("bytes=0-1,3-4", 200, LARGE),
        ("lines=1-2", 200, LARGE),
        (f"bytes={len(LARGE)}-", 416, None),
        ("bytes=-0", 416, None),
    ):
        async with api.get(address, headers={"Range": asked, "Accept-Encoding": "gzip"}) as answer:
            found = await answer.read()
            assert answer.status == status, asked
            assert expected is None or found == expected, asked
            assert answer.headers.get("Content-Range", "").endswith("" if status == 200 else f"/{len(LARGE)}")
        async with api.get(address, headers={"Range": asked, "If-Range": '"of another content"'}) as answer:
            assert await answer.read() == LARGE


async def test_an_odd_name_is_cleaned(api):
    for name, clean in (
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.txt", "x.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("n" * 1000 + ".csv", "n" * 196 + ".csv"),
        (" .. ", "file"),
        ("naïve ☃.txt", "naïve ☃.txt"),
    ):
        made = await upload(api, b"x", name)
        assert made["file_name"] == clean
        assert await content_of(api, made["id"]) == b"x"
    assert files.clean_name("a\0b\r\n.txt\ud800") == "ab.txt"


async def test_a_file_of_the_same_name_is_replaced_only_if_that_is_wanted(api, database):
    made = await upload(api, LARGE)
    async with api.post(UPLOAD, data=form(b"2")) as answer:
        assert (answer.status, (await answer.json())["code"]) == (409, "file_exists")
    again = await upload(api, b"new", overwrite="true")
    assert (again["id"], await content_of(api, made["id"])) == (made["id"], b"new")
    async with api.delete(f"{FILES}/{made['id']}") as answer:
        assert answer.status == 204
    for path in ("", "/download"):
        async with api.get(f"{FILES}/{made['id']}{path}") as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "unknown_file")
    assert await rows(database) == (0, 0)


async def test_a_file_that_is_deleted_as_its_download_begins_is_not_there(api, database, monkeypatch):
    stored = await upload(api, b"abc")
    read = files.read

    def read_too_late(connection: Any, file: Any, *part: int) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            await connection.execute("DELETE FROM files WHERE id = $1", file.id)
            await connection.execute("DELETE FROM file_chunks WHERE content = $1", file.content)
            async for chunk in read(connection, file, *part):
                yield chunk

        return chunks()

    monkeypatch.setattr(files, "read", read_too_late)
    async with api.get(f"/api/v2/files/{stored['id']}/download") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_file")


async def rows(database: Any) -> tuple[int, int]:
    return tuple(await database.fetchrow("SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM file_chunks)"))


async def test_what_cannot_be_taken_is_refused_and_leaves_nothing_behind(api, database):
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}

    async def endless():
        for _ in range(40):
            yield b"x" * 64 * 1024

    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    async def endless_file():
        yield head
        async for each in endless():
            yield each

    for request, status, code in (
        ({"data": form(b"x" * (1024 * 1024 + 1))}, 413, "too_large"),
        ({"data": endless_file(), "headers": multipart}, 413, "too_large"),
        ({"data": head + b"cut off", "headers": multipart}, 400, "bad_request"),
        ({"data": form(b"x", "n" * 10_000)}, 400, "bad_request"),
        ({"data": b"nothing of this", "headers": multipart}, 400, "bad_request"),
        ({"data": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad_request"),
        ({"json": {}}, 415, "not_a_form"),
        ({"data": {"file": "text"}, "headers": {}}, 415, "not_a_form"),
        ({"data": form(b"1"), "params": {"expires_in_hours": 49}}, 422, "invalid_request"),
    ):
        async with api.post(UPLOAD, **request) as answer:
            assert (answer.status, (await answer.json())["code"]) == (status, code), request
    other = FormData()
    other.add_field("another", b"1", filename="a")
    async with api.post(UPLOAD, data=other) as answer:
        assert (answer.status, (await answer.json())["errors"][0]["pointer"]) == (422, "/file")
    assert await rows(database) == (0, 0)


async def test_a_client_that_goes_away_leaves_nothing_behind(api, rest_address: str, database):
    host, port = rest_address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v2/files/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await upload(api, b"next", "next")
    assert await rows(database) == (1, 1)


async def test_a_file_is_gone_when_its_time_is_over(api, database):
    made = await upload(api, LARGE, expires_in_hours=1)
    await database.execute("UPDATE files SET expires_at = now()")
    async with api.get(f"{FILES}/{made['id']}") as answer:
        assert answer.status == 404
    await upload(api, b"1")
    assert await files.delete_expired(database) == 1
    assert await rows(database) == (1, 1)


async def run(api: aiohttp.ClientSession, block: str, value: Any, base_64: bool) -> dict[str, Any]:
    """A run of an agent with one of the blocks."""
    pins, put_out = (
        ({"name": "file", "value": value}, "result") if block == FILE_INPUT else ({"file_in": value}, "file_out")
    )
    nodes = [
        {"id": "in", "block_id": block, "input_default": {**pins, "base_64": base_64}},
        {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "File"}},
    ]
    link = {"source_id": "in", "sink_id": "out", "source_name": put_out, "sink_name": "value"}
    async with api.post("/api/v2/graphs", json={"nodes": nodes, "links": [link]}) as answer:
        graph = (await answer.json())["id"]
    async with api.post(f"/api/v2/graphs/{graph}/runs?wait=20", json={}) as answer:
        return await answer.json()


async def test_blocks_take_files_as_our_uris_as_data_and_from_the_net(api, executor, database, settings, rest_address):
    made = await upload(api, b"Hello")
    hello = f"data:text/plain;base64,{base64.b64encode(b'Hello').decode()}"
    for block in (FILE_INPUT, FILE_STORE):
        assert (await run(api, block, made["file_uri"], False))["outputs"] == {"File": [made["file_uri"]]}
        assert (await run(api, block, made["file_uri"], True))["outputs"] == {"File": [hello]}
        assert (await run(api, block, hello, True))["outputs"] == {"File": [hello]}
        (uri,) = (await run(api, block, hello, False))["outputs"]["File"]
        assert await content_of(api, uri.removeprefix(files.SCHEME)) == b"Hello"
    (uri,) = (await run(api, FILE_STORE, f"http://{rest_address}/livez", False))["outputs"]["File"]
    assert await content_of(api, uri.removeprefix(files.SCHEME)) == b'{"status":"ok"}'
    for refused, error in (
        (f"http://{rest_address}/nothing", "does not give the file: it answers with status 404"),
        (f"http://{rest_address.replace('127.0.0.1', '127.0.0.2')}/livez", "private address"),
    ):
        assert error in (await run(api, FILE_STORE, refused, False))["failure"]["error"]


async def test_the_files_of_others_are_not_there(api, executor, database):
    made = await upload(api, b"Hello")
    await database.execute("UPDATE files SET user_id = $1", new_id())
    for base_64 in (False, True):
        told = await run(api, FILE_INPUT, made["file_uri"], base_64)
        assert told["failure"]["error"].startswith(f"There is no file {made['file_uri']} of yours")
    for address in (f"{FILES}/{made['id']}", f"{FILES}/{made['id']}/download"):
        async with api.get(address) as answer:
            assert answer.status == 404
    async with api.delete(f"{FILES}/{made['id']}") as answer:
        assert answer.status == 404
    async with api.get(FILES) as answer:
        assert (await answer.json())["total_count"] == 0
    await upload(api, b"mine", overwrite="true")
    assert await rows(database) == (2, 2)
