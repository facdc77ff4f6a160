"""The library, and the search in it, as AutoGPT's clients use them."""

from __future__ import annotations

from typing import Any

from tests.api.server import ECHO
from tests.api.test_sub_agents import stored

API = "/api/v2"


async def ask(api: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the body of an answer."""
    async with api.request(method, f"{API}{path}", json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status != 204 else None


async def test_each_graph_is_an_agent_of_the_library(api: Any, executor: None):
    graph = await stored(api, ECHO | {"recommended_schedule_cron": "0 9 * * 1", "instructions": "Say it."})
    path = f"/library/agents/{graph['id']}"
    status, agent = await ask(api, "GET", path)
    assert (status, agent["id"], agent["graph_id"], agent["graph_version"]) == (200, graph["id"], graph["id"], 1)
    same = ("name", "description", "instructions", "input_schema", "output_schema", "credentials_input_schema",
        "has_external_trigger", "has_human_in_the_loop", "has_sensitive_action", "recommended_schedule_cron",
        "created_at", "updated_at")  # fmt: skip
    assert [agent[name] for name in same] == [graph[name] for name in same]
    assert await ask(api, "GET", f"/graphs/{graph['id']}/library-agent") == (200, agent)
    _, listed = await ask(api, "GET", "/library/agents?name=ECHO")
    assert (listed["items"], listed["total_count"]) == ([agent], 1)
    once = {"Idempotency-Key": "once"}
    status, run = await ask(api, "POST", f"{path}/runs?wait=20", {"inputs": {"Input": 5}}, **once)
    assert (status, run["outputs"]) == (200, {"Output": [5]})
    assert (await ask(api, "POST", f"{path}/runs?wait=20", {"inputs": {"Input": 5}}, **once))[1]["id"] == run["id"]
    status, copy = await ask(api, "POST", f"{path}/fork")
    assert (status, copy["name"], copy["id"] != graph["id"]) == (201, "Echo (copy)", True)


async def test_an_agent_is_changed_and_deleted_as_its_graph_is(api: Any):
    graph = await stored(api, ECHO)
    path, as_graph = f"/library/agents/{graph['id']}", f"/graphs/{graph['id']}"
    assert (await ask(api, "PUT", as_graph, graph))[1]["version"] == 2
    async with api.get(API + path) as answer:
        tag = answer.headers["ETag"]
    change = {"graph_version": 1, "settings": {"max_concurrent_runs": 3}}
    status, agent = await ask(api, "PATCH", path, change, **{"If-Match": tag})
    assert (status, agent["graph_version"]) == (200, 1)
    assert (await ask(api, "GET", f"{as_graph}/settings"))[1]["max_concurrent_runs"] == 3
    for method, body in (("PATCH", change), ("DELETE", None)):
        status, problem = await ask(api, method, path, body, **{"If-Match": tag})
        assert (status, problem["code"]) == (412, "precondition_failed")
    assert await ask(api, "DELETE", path) == (204, None)
    assert (await ask(api, "GET", as_graph))[0] == (await ask(api, "GET", path))[0] == 404


async def found(api: Any, query: str, **more: Any) -> list[str]:
    async with api.get(f"{API}/search", params={"query": query, **more}) as answer:
        return [each["name"] for each in (await answer.json())["items"]]


async def test_what_fits_best_is_found_first(api: Any):
    for name, description in (
        ("Post office", "Sends MAIL to many"), ("A mail sender", ""), ("Mail them", ""), ("mail", ""), ("Other", "50%")
    ):  # fmt: skip
        await stored(api, ECHO | {"name": name, "description": description})
    agents = {"content_types": "AGENT"}
    assert await found(api, "mail", **agents) == ["mail", "Mail them", "A mail sender", "Post office"]
    assert await found(api, " send  Mail ", **agents) == ["A mail sender", "Post office"]
    assert await found(api, "%", **agents) == ["Other"]
    assert await found(api, "mail", limit=1) == ["mail"]
    assert await found(api, "AddToList", content_types="BLOCK") == ["AddToListBlock"]
    assert "AddToListBlock" in await found(api, "list add")


async def test_a_search_for_nothing_is_refused(api: Any):
    for query in ("", " ", "\0", "x" * 201):
        async with api.get(f"{API}/search", params={"query": query}) as answer:
            assert answer.status == 422
