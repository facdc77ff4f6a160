"""Starting runs of graphs: what a start may say, and how it is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import Body, JsonRoute
from backend.api.graphs import Version, existing_graph
from backend.api.middleware import request_id
from backend.api.once import REPLAYED, IdempotencyKey, Once
from backend.api.openapi import links
from backend.api.problem import documented
from backend.api.run_model import References, RunDetail, detail_of, kept_references
from backend.api.run_webhooks import RunWebhook
from backend.api.runs import existing_run, read_detail
from backend.api.services import Services, Use
from backend.blocks import registry
from backend.errors import (
    GraphNotRunnable,
    IdempotencyKeyReused,
    InvalidInputs,
    TooLarge,
    UnknownGraph,
    UnsupportedMediaType,
)
from backend.execution.history import History
from backend.execution.runnable import CheckedGraph, check_values, chosen_credentials, runnable
from backend.graphs.catalogue import BlockKind
from backend.graphs.credentials import without_secrets
from backend.store import runs
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph
from backend.store.identifiers import new_id
from backend.store.runs import StoredRun

# Seconds a start may be asked to wait for the end of the run.
MAX_WAIT = 300

router = APIRouter(prefix="/api/v2", tags=["runs"], route_class=JsonRoute)

Starter = Annotated[Caller, needs(Permission.RUN_AGENT)]

Priority = Annotated[int, Field(ge=-100, le=100, description="of queued runs those of a higher one begin first")]

LabelKey = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^:\x00]+$")]
Labels = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]],
    Field(max_length=20, description="by which the run is found again", examples=[{"customer": "42"}]),
]


class StartRun(Body):
    """What a run begins with: a value for each input of the graph that has none of its own."""

    inputs: dict[str, Any] = Field(default={}, examples=[{"Input": 5}])
    nodes_input_masks: dict[str, dict[str, Any]] | None = Field(
        default=None, description="values for pins of nodes, by the id of the node, in place of whatever comes to them"
    )
    credentials_inputs: References | None = Field(
        default=None, description="one of your credentials for each slot of the graph's `credentials_input_schema`"
    )
    priority: Priority = 0
    concurrency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]+$",
        description="of all runs with this key no more than `concurrency_limit` are at work at a time; others wait",
    )
    concurrency_limit: int = Field(default=1, ge=1, le=10_000, description="only with a `concurrency_key`")
    labels: Labels = Field(default={})
    webhook: RunWebhook | None = Field(default=None, description="is told of this run; needs WRITE_WEBHOOK, too")
    dry_run: bool = Field(default=False, description="only check, and say what would run: no block does")
    source: Any = Field(default=None, description="taken from clients of AutoGPT, and passed over")
    preset_id: Any = Field(default=None, description="taken from clients of AutoGPT, and passed over")

    @property
    def masks(self) -> dict[str, dict[str, Any]]:
        return {node_id: without_secrets(mask) for node_id, mask in (self.nodes_input_masks or {}).items()}

    @property
    def references(self) -> dict[str, dict[str, Any]]:
        return kept_references(self.credentials_inputs or {})

    def options(self, user_id: UUID) -> runs.Options:
        """What is kept of them with the run."""
        return {
            "user_id": user_id,
            "priority": self.priority,
            "input_masks": self.masks or None,
            "concurrency_key": self.concurrency_key,
            "concurrency_limit": self.concurrency_limit if self.concurrency_key else None,
            "labels": self.labels or None,
        }


class NodeToRun(BaseModel):
    """A node that is not disabled, and no note."""

    node_id: str
    block_id: str
    block_name: str


class DryRun(BaseModel):
    """What a start would run: it has been checked, and nothing is stored."""

    dry_run: Literal[True] = True
    graph_id: UUID
    graph_version: int
    inputs: dict[str, Any] = Field(description="with the values that inputs have of their own")
    nodes: list[NodeToRun]


@router.post(
    "/graphs/{graph_id}/runs",
    status_code=202,
    response_model=RunDetail,
    operation_id="start_run",
    summary="Start a run of a graph",
    responses=documented(
        UnknownGraph, TooLarge, UnsupportedMediaType, GraphNotRunnable, InvalidInputs, IdempotencyKeyReused
    )
    | {
        200: {"model": RunDetail | DryRun, "description": "the run has ended within the time to wait; or a dry run"},
        202: {"links": links("run_id", "get_run", "stop_run"), "description": "the run is queued, or under way"},
    },
)
async def start(
    graph_id: UUID,
    use: Use,
    caller: Starter,
    response: Response,
    body: StartRun | None = None,
    version: Version = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the end of the run")] = 0,
    idempotency_key: IdempotencyKey = None,
) -> RunDetail | Response:
    """The run goes on whatever becomes of this request. With `wait`, the answer comes when it has ended (200), or shows
    it as it is when the time is over (202). With `dry_run` all is checked, and nothing is stored (200)."""
    body = body or StartRun()
    once = Once(use.database, caller, idempotency_key, "start", graph_id, version, body)
    if earlier := await once.earlier():
        return await answer_begun(use, caller, response, earlier, wait)
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    checked = await runnable(use.database, stored)
    masks = body.masks
    check_values(checked, body.inputs, masks)
    credentials = await chosen_credentials(
        use.database, caller.user_id, checked.slots, body.references, masks, "/credentials_inputs"
    )
    if body.webhook:
        body.webhook.check(use, caller)
    if body.dry_run:
        return Response(_what_would_run(stored, checked, body).model_dump_json(), media_type="application/json")
    id, options = new_id(), body.options(caller.user_id)
    options |= {"credentials": credentials, "request_id": request_id()}

    async def insert(database: Queryable) -> StoredRun:
        if body.webhook:
            await body.webhook.insert(database, use, caller.user_id, id)
        return await runs.insert(database, id, stored.id, stored.version, body.inputs, **options)

    begun = await (once.begin(id, insert) if idempotency_key or body.webhook else insert(use.database))
    return await answer_begun(use, caller, response, begun, wait)


async def answer_begun(
    use: Services, caller: Caller, response: Response, begun: StoredRun | UUID, wait: float = 0
) -> RunDetail:
    """The answer to a request that has begun a run, or, given only an id, would have if it were the first."""
    run_id = begun if isinstance(begun, UUID) else begun.id
    response.headers["Location"] = f"{router.prefix}/runs/{run_id}"
    if isinstance(begun, UUID):
        response.headers[REPLAYED] = "true"
    elif not wait and begun.rerun_of is None:
        return detail_of(begun, History(), 0)
    if wait:
        if isinstance(begun, UUID):  # of some time ago: it may be gone, and would have no end
            await existing_run(use.database, caller, run_id)
        await use.feed.wait_for_end(run_id, wait)
        await use.keys.check(caller)
    detail = await read_detail(use.database, caller, run_id)
    response.status_code = 200 if wait and detail.ended_at else 202
    return detail


def _what_would_run(stored: StoredGraph, checked: CheckedGraph, body: StartRun) -> DryRun:
    catalogue = registry.catalogue()
    known: dict[str, dict[str, Any]] = checked.input_schema["properties"]
    specs = [(node, catalogue.get(node.block_id)) for node in checked.graph.nodes if not node.settings.disabled]
    return DryRun(
        graph_id=stored.id,
        graph_version=stored.version,
        inputs={name: each["default"] for name, each in known.items() if "default" in each} | body.inputs,
        nodes=[
            NodeToRun(node_id=node.id, block_id=node.block_id, block_name=spec.name)
            for node, spec in specs
            if spec and spec.kind is not BlockKind.NOTE
        ],
    )
