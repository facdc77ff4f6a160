"""Graphs that change: versions, which of them is active, copies, entity tags, and what is left of a deleted one."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from backend.store import graphs, runs
from backend.store.connection import Pool
from backend.store.identifiers import new_id
from tests.api.server import ECHO, INPUT_BLOCK
from tests.api.test_sub_agents import BELOW, CALL, calling, run, stored

GRAPHS = "/api/v2/graphs"


async def ask(api: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the body of an answer."""
    async with api.request(method, f"{GRAPHS}{path}", json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status not in (204, 304) else None


async def put(api: Any, graph: dict[str, Any], **parts: Any) -> dict[str, Any]:
    status, updated = await ask(api, "PUT", f"/{graph['id']}", graph | {"description": "What it does"} | parts)
    assert status == 200, updated
    return updated


async def test_a_new_version_is_active_keeps_ids_and_leaves_the_old_one_as_it_was(api: Any):
    first = await stored(api, ECHO)
    new = {"id": "new", "block_id": INPUT_BLOCK, "input_default": {"name": "Other", "value": 1}}
    second = await put(api, first, name="Second", nodes=[*first["nodes"], new])
    assert (second["id"], second["version"], second["is_active"]) == (first["id"], 2, True)
    assert second["nodes"][:2] == first["nodes"]
    assert second["links"] == first["links"]
    assert str(UUID(second["nodes"][2]["id"])) != "new"
    assert second["created_at"] == first["created_at"] < second["updated_at"]
    assert await ask(api, "GET", f"/{first['id']}") == (200, second)
    assert await ask(api, "GET", f"/{first['id']}/versions/1") == (200, first | {"is_active": False})
    _, listed = await ask(api, "GET", "")
    [shown] = listed["items"]
    assert shown == {name: second[name] for name in shown}


async def test_the_versions_are_listed_and_an_old_one_is_made_active_again(api: Any, executor: None):
    graph = await stored(api, ECHO)
    for name in ("two", "three"):
        await put(api, graph, name=name)
    path = f"/{graph['id']}/versions"
    assert await ask(api, "PUT", f"{path}/active", {"active_graph_version": 2}) == (204, None)
    assert await ask(api, "GET", f"{path}/active") == (200, {"active_graph_version": 2})
    _, page = await ask(api, "GET", f"{path}?limit=2")
    _, rest = await ask(api, "GET", f"{path}?limit=2&cursor={page['next_cursor']}")
    found = [(each["version"], each["name"], each["is_active"]) for each in page["items"] + rest["items"]]
    assert found == [(3, "three", False), (2, "two", True), (1, "Echo", False)]
    assert (page["total_count"], rest["next_cursor"]) == (3, None)
    assert (await run(api, graph))["graph_version"] == 2
    assert (await put(api, graph))["version"] == 4
    status, problem = await ask(api, "PUT", f"{path}/active", {"active_graph_version": 9})
    assert (status, problem["code"]) == (404, "unknown_graph")


async def test_a_new_version_of_a_graph_does_not_move_it_in_a_list_that_is_being_read(api: Any):
    old, _, new = [await stored(api, ECHO) for _ in range(3)]
    _, page = await ask(api, "GET", "?limit=1")
    await put(api, old)
    _, rest = await ask(api, "GET", f"?cursor={page['next_cursor']}")
    assert [page["items"][0]["id"], rest["items"][-1]["id"]] == [new["id"], old["id"]]


async def test_new_versions_at_once_come_one_after_the_other(api: Any):
    graph = await stored(api, calling("below", 6, BELOW))
    [below] = graph["sub_graphs"]
    versions = [updated["version"] for updated in await asyncio.gather(*(put(api, graph) for _ in range(6)))]
    assert sorted(versions) == [2, 3, 4, 5, 6, 7]
    await asyncio.gather(put(api, below), put(api, graph))
    assert (await ask(api, "GET", f"/{graph['id']}"))[1]["version"] == 8


async def test_calls_lead_to_the_new_versions_of_sub_graphs_which_keep_their_ids(api: Any, executor: None):
    graph = await stored(api, calling("below", 6, BELOW))
    [below] = graph["sub_graphs"]
    extra = {"id": "extra", "block_id": INPUT_BLOCK, "input_default": {"name": "Extra", "value": 1}}
    own = {"id": "own", "block_id": CALL, "input_default": {"graph_id": graph["id"], "graph_version": 1}}
    changed = below | {"nodes": [*below["nodes"], extra], "name": "changed"}
    another = ECHO | {"id": "another", "version": 9}
    off = own | {"settings": {"disabled": True}}
    updated = await put(api, graph, sub_graphs=[changed, another], nodes=[*graph["nodes"], off])
    found, added = updated["sub_graphs"]
    calls = [node["input_default"] for node in updated["nodes"] if node["block_id"] == CALL]
    assert [(call["graph_id"], call["graph_version"]) for call in calls] == [(below["id"], 7), (graph["id"], 2)]
    assert (found["id"], found["version"], found["nodes"][:2]) == (below["id"], 7, below["nodes"])
    assert (added["id"] != "another", added["version"]) == (True, 9)
    assert (await run(api, updated))["outputs"] == {"Output": ["x"]}
    assert (await ask(api, "GET", f"/{below['id']}"))[1]["name"] == "changed"
    assert (await ask(api, "GET", ""))[1]["total_count"] == 1
    await ask(api, "PUT", f"/{graph['id']}/versions/active", {"active_graph_version": 1})
    assert (await ask(api, "GET", f"/{below['id']}"))[1]["version"] == 6, "that which the active version calls"


async def test_a_sub_graph_of_another_is_stored_anew(api: Any):
    other = (await stored(api, calling("below", 6, BELOW)))["sub_graphs"][0]
    graph = await stored(api, ECHO)
    updated = await put(api, calling(other["id"], 6, other) | {"id": graph["id"]})
    [below] = updated["sub_graphs"]
    assert below["id"] != other["id"]
    assert updated["problems"] == []
    assert (await ask(api, "GET", f"/{other['id']}"))[1]["version"] == 6


BAD = {
    "another id": ({"id": str(UUID(int=7))}, 400, "graph_id_mismatch"),
    "no id": ({"id": "below"}, 400, "graph_id_mismatch"),
    "an id that is no text": ({"id": 7}, 422, "invalid_graph_file"),
    "no nodes": ({"nodes": None}, 422, "invalid_graph_file"),
}


async def test_a_body_that_cannot_be_a_version_is_refused(api: Any):
    graph = await stored(api, ECHO)
    itself = {"sub_graphs": [ECHO | {"id": graph["id"]}]}
    for name, (parts, status, code) in (BAD | {"itself below": (itself, 422, "invalid_graph_file")}).items():
        found, problem = await ask(api, "PUT", f"/{graph['id']}", ECHO | parts)
        assert (found, problem["code"]) == (status, code), name
    assert (await ask(api, "GET", f"/{graph['id']}"))[1] == graph


async def test_the_highest_version_has_none_after_it(api: Any):
    graph = await stored(api, calling("below", 2**31 - 1, BELOW | {"version": 2**31 - 1}))
    status, problem = await ask(api, "PUT", f"/{graph['id']}", graph)
    assert (status, problem["code"]) == (409, "no_more_versions")
    assert (await put(api, graph, sub_graphs=[]))["version"] == 2


async def test_a_tag_spares_the_answer_and_refuses_a_change_of_what_has_changed(api: Any):
    graph = await stored(api, ECHO)
    path = f"/{graph['id']}"

    async def tag(of: str = path, known: str = "") -> tuple[int, str]:
        async with api.get(f"{GRAPHS}{of}", headers={"If-None-Match": known}) as answer:
            return answer.status, answer.headers["ETag"]

    _, first = await tag()
    for known in (first, f'"other", W/{first}', "*"):
        assert await tag(known=known) == (304, first)
    assert await tag(f"{path}/settings", known=first) == (304, first)
    assert (await ask(api, "PATCH", f"{path}/settings", {"max_concurrent_runs": 1}, **{"If-Match": first}))[0] == 200
    status, second = await tag(known=first)
    assert (status, second != first) == (200, True)
    changes = [
        ("PUT", path, ECHO),
        ("PUT", f"{path}/versions/active", {"active_graph_version": 1}),
        ("PATCH", f"{path}/settings", {"max_concurrent_runs": 2}),
        ("DELETE", path, None),
    ]
    for method, where, body in changes:
        for wanted in (first, f"W/{second}", "nonsense"):
            status, problem = await ask(api, method, where, body, **{"If-Match": wanted})
            assert (status, problem["code"]) == (412, "precondition_failed"), (method, where)
    for method, where, body in changes:
        assert (await ask(api, method, where, body, **{"If-Match": f'"other", {second}'}))[0] in (200, 204)
        if method != "DELETE":
            _, second = await tag()


async def test_a_copy_is_a_graph_of_its_own_that_says_where_it_is_from(api: Any, executor: None):
    graph = await put(api, await stored(api, calling("below", 6, BELOW)))
    status, copy = await ask(api, "POST", f"/{graph['id']}/fork")
    assert (status, copy["name"], copy["version"]) == (201, "Caller (copy)", 1)
    assert (copy["forked_from_id"], copy["forked_from_version"]) == (graph["id"], 2)
    ids = [{part["id"] for part in (each, *each["nodes"], *each["sub_graphs"])} for each in (graph, copy)]
    assert not ids[0] & ids[1]
    assert (await run(api, copy))["outputs"] == {"Output": ["x"]}
    again = await put(api, copy, forked_from_id=None)
    assert (again["forked_from_id"], again["version"]) == (graph["id"], 2)


async def test_a_deleted_graph_is_nowhere_any_more_but_in_its_runs(api: Any, executor: None):
    graph = await stored(api, calling("below", 6, BELOW))
    [below] = graph["sub_graphs"]
    caller = await stored(api, calling(graph["id"], 1))
    begun = await run(api, graph)
    status, problem = await ask(api, "DELETE", f"/{below['id']}")
    assert (status, problem["code"]) == (409, "included_graph")
    assert await ask(api, "DELETE", f"/{graph['id']}") == (204, None)
    for gone in (graph["id"], below["id"]):
        for path in ("", "?version=1", "/versions", "/versions/1", "/export", "/blocks", "/settings"):
            status, problem = await ask(api, "GET", f"/{gone}{path}")
            assert (status, problem["code"]) == (404, "unknown_graph"), path
        for method, path, body in (("PUT", "", ECHO), ("DELETE", "", None), ("POST", "/fork", None)):
            assert (await ask(api, method, f"/{gone}{path}", body))[0] == 404
        assert (await ask(api, "POST", f"/{gone}/runs", {}))[0] == 404
    assert (await ask(api, "GET", ""))[1]["total_count"] == 1
    [problem] = (await ask(api, "GET", f"/{caller['id']}"))[1]["problems"]
    assert problem["code"] == "unknown_graph"
    async with api.get(f"/api/v2/runs/{begun['id']}") as answer:
        assert (await answer.json())["outputs"] == {"Output": ["x"]}


async def test_a_run_goes_on_though_its_graph_is_deleted_with_those_that_it_calls(
    api: Any, database: Pool, executor: None
):
    graph = await stored(api, calling("below", 6, BELOW))
    caller = await stored(api, calling(graph["id"], 1))
    async with database.acquire() as connection, connection.transaction():
        for each in (graph, caller):
            await runs.insert(connection, new_id(), UUID(each["id"]), 1, {"Input": "x"})
        await graphs.delete(connection, UUID(graph["id"]))
    async with api.get("/api/v2/runs") as answer:
        queued = [each["id"] for each in (await answer.json())["items"]]
    for id in queued:
        async with api.get(f"/api/v2/runs/{id}/events") as stream:
            assert b"run.completed" in await stream.read()


async def test_graphs_are_found_by_a_part_of_their_names(api: Any):
    for name in ("Send Mail", "send_mail 50%", "Mailer", "Ünï", "x"):
        await stored(api, ECHO | {"name": name, "description": "sends mail"})
    found = {
        "SEND": ["send_mail 50%", "Send Mail"], "d_m": ["send_mail 50%"], "%": ["send_mail 50%"], "ÜNÏ": ["Ünï"],
        "sends": [], "x": ["x"], "mail": ["Mailer", "send_mail 50%", "Send Mail"],
    }  # fmt: skip
    for part, names in found.items():
        async with api.get(GRAPHS, params={"name": part}) as answer:
            page = await answer.json()
        assert [each["name"] for each in page["items"]] == names
        assert page["total_count"] == len(names)
    async with api.get(GRAPHS, params={"name": "mail", "limit": 2}) as answer:
        cursor = (await answer.json())["next_cursor"]
    async with api.get(GRAPHS, params={"name": "mail", "cursor": cursor}) as answer:
        assert [each["name"] for each in (await answer.json())["items"]] == ["Send Mail"]


async def test_the_blocks_that_a_graph_uses_are_listed_once(api: Any):
    graph = await stored(api, ECHO | {"nodes": [*ECHO["nodes"], ECHO["nodes"][0] | {"id": "more"}]})
    _, used = await ask(api, "GET", f"/{graph['id']}/blocks")
    assert [block["name"] for block in used] == ["AgentInputBlock", "AgentOutputBlock"]


async def test_a_file_is_checked_without_being_stored(api: Any):
    assert await ask(api, "POST", "/validate", ECHO) == (200, {"valid": True, "errors": [], "problems": []})
    lost = calling(str(UUID(int=7)), 1)
    lost["links"] = [*lost["links"], {"source_id": "in", "sink_id": "out", "source_name": "no", "sink_name": "value"}]
    _, found = await ask(api, "POST", "/validate", {"graph": lost})
    told = [(each["code"], each["node_id"]) for each in found["problems"]]
    assert (found["valid"], told) == (False, [("unknown_pin", "in"), ("unknown_graph", "call")])
    loose = {"source_id": "in", "sink_id": "lost", "source_name": "result", "sink_name": "value"}
    _, found = await ask(api, "POST", "/validate", ECHO | {"nodes": [*ECHO["nodes"], {"id": "in"}], "links": [loose]})
    assert {each["pointer"] for each in found["errors"]} >= {"/nodes/2", "/nodes/2/id", "/links/0/sink_id"}
    assert (found["valid"], found["problems"]) == (False, [])
    assert (await ask(api, "GET", ""))[1]["total_count"] == 0
