"""The resource /blocks: what agents are made of, and trying one out."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any
from uuid import uuid4

import orjson
import structlog
from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.openapi import shown
from backend.api.problem import documented
from backend.api.services import Use
from backend.blocks import registry
from backend.blocks.block import Block, BlockError, Context
from backend.blocks.coercion import InputError, prepare
from backend.errors import BlockTimedOut, TooLarge, UnknownBlock, Unprocessable, UnsupportedMediaType
from backend.execution.belongings import Belongings
from backend.execution.redaction import log_raised
from backend.graphs.pins import PinError, merge

# Seconds a direct execution may take. What takes longer belongs into a run.
TIME_LIMIT = 60.0

Reader = Annotated[Caller, needs(Permission.READ_BLOCK)]

router = APIRouter(prefix="/api/v2/blocks", tags=["blocks"], route_class=JsonRoute)

log = structlog.get_logger()


class BlockCategory(BaseModel):
    category: str
    description: str


class BlockExample(BaseModel):
    """An input, and what the block puts out for it in order (without `value` where it differs each time)."""

    input: dict[str, Any]
    output: list[dict[str, Any]]
    error: str | None


class BlockDescription(BaseModel):
    """A block with the JSON Schemas of its pins, by the names AutoGPT's clients know."""

    id: str
    name: str
    inputSchema: dict[str, Any]
    outputSchema: dict[str, Any]
    description: str
    categories: list[BlockCategory]
    contributors: list[dict[str, Any]]
    staticOutput: bool
    uiType: str = Field(examples=["Standard"])
    costs: list[dict[str, Any]]
    examples: list[BlockExample]


@router.get("", operation_id="list_blocks", summary="List all blocks")
async def list_(_: Reader) -> list[BlockDescription]:
    blocks = sorted(registry.blocks().values(), key=lambda block: block.name)
    return [BlockDescription.model_validate(registry.describe(block)) for block in blocks]


@router.get("/{block_id}", operation_id="get_block", summary="Show a block", responses=documented(UnknownBlock))
async def show(block_id: str, _: Reader) -> BlockDescription:
    return BlockDescription.model_validate(registry.describe(_existing(block_id)))


@router.post(
    "/{block_id}/execute",
    operation_id="execute_block",
    summary="Execute a block directly",
    response_model=dict[str, list[Any]],
    responses=documented(UnknownBlock, TooLarge, UnsupportedMediaType, BlockTimedOut)
    | {200: shown("what it put out, by pin", {"result": [3]})},
)
async def execute(
    block_id: str,
    use: Use,
    caller: Annotated[Caller, needs(Permission.EXECUTE_BLOCK)],
    body: Annotated[dict[str, Any] | None, Body(description="a value for each input pin", examples=[{"a": 1}])] = None,
) -> Response:
    """Answers what the block puts out, as {pin: [values]}. A block that fails puts out `error`; nothing is stored but
    files that it keeps. It is given your credentials and files, as in a run."""
    block = _existing(block_id)
    block_input = _fitting(block, body or {})
    try:
        async with asyncio.timeout(TIME_LIMIT):
            outside = Belongings(use.database, use.settings, caller.user_id)
            outputs = await _outputs(block, block_input, use.settings.trusted_hosts, outside)
    except TimeoutError:
        raise BlockTimedOut(f"The {block.name} took longer than {TIME_LIMIT:.0f} seconds: use it in a graph.") from None
    return Response(outputs, media_type="application/json")


def _existing(block_id: str) -> Block:
    block = registry.blocks().get(block_id.lower())
    if block is None:
        name = registry.known_names().get(block_id.lower())
        known = f" ({name}, which this server does not have)" if name else ""
        raise UnknownBlock(f"There is no block with this id{known}; GET {router.prefix} lists the blocks.")
    return block


def _fitting(block: Block, pins: dict[str, Any]) -> Any:
    """The block's input, or Unprocessable naming each pin that is wrong."""
    try:
        data = merge(pins)
        known = registry.catalogue()[block.id].input_schema["properties"]
        unknown = {pin: f"is no input of the {block.name}" for pin in data if pin not in known}
        if unknown:
            raise InputError(unknown)
        return prepare(block)(data)[0]
    except InputError as error:
        errors = [{"pointer": f"/{pin}", "code": "invalid_pin", "message": why} for pin, why in error.reasons.items()]
        raise Unprocessable(str(error), errors=errors) from None
    except PinError as error:
        raise Unprocessable(str(error)) from None


async def _outputs(block: Block, block_input: Any, trusted_hosts: tuple[str, ...], outside: Belongings) -> bytes:
    """Every value the block puts out, as JSON, without the secrets it was given."""
    outputs: dict[str, list[Any]] = {}
    token = str(uuid4())
    context = Context(token, token, 1, token, 1, token, trusted_hosts, outside=outside)
    try:
        async with aclosing(block.run(block_input, context)) as pins:  # pyright: ignore[reportArgumentType]
            async for pin, value in pins:
                outputs.setdefault(pin, []).append(orjson.Fragment(orjson.dumps(outside.redaction.value(value))))
    except BlockError as error:
        outputs["error"] = [outside.redaction.text(str(error))]
    except TimeoutError:
        raise
    except Exception as error:  # A block may raise anything; the person trying it wants to know what.
        log_raised(error, outside.redaction, block=block.name)
        outputs["error"] = [outside.redaction.text(f"{type(error).__name__}: {error}")]
    return orjson.dumps(outputs)
