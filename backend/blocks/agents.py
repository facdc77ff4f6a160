"""The block that runs another agent."""

from contextlib import aclosing
from typing import Any

from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.graphs.catalogue import BlockKind


class AgentExecutorBlock(Block):
    """Runs another agent. Its pins are the inputs and outputs of that agent; each output comes as it is made."""

    id = "e189baac-8c20-45a1-94a7-55177ea42565"
    categories = (Category.AGENT,)
    kind = BlockKind.AGENT
    examples = (
        Example(
            {
                "user_id": "",
                "graph_id": "0b7f4f5e-6f0c-4f0b-8a3c-7a1d9f6c2b10",
                "graph_version": 1,
                "inputs": {"city": "Bern"},
                "input_schema": {},
                "output_schema": {},
            },
            error="No agent can be run from here: use the block in an agent.",
        ),
    )

    class Input(BlockInput):
        user_id: str = pin("Whose agent it is")
        graph_id: str = pin("The id of the agent")
        graph_version: int = pin("The version of the agent")
        agent_name: str | None = pin("What people see as its name", default=None)
        inputs: dict[str, Any] = pin("A value for each input of the agent")
        input_schema: dict[str, Any] = pin("What the agent takes, as a JSON Schema")
        output_schema: dict[str, Any] = pin("What the agent gives, as a JSON Schema")
        nodes_input_masks: dict[str, dict[str, Any]] | None = pin(
            "Values for the nodes of the agent, by their ids", default=None, hidden=True
        )

    class Output(BlockOutput):
        pass

    async def run(self, input: Input, context: Context) -> Pins:
        call = context.outside.call(input.graph_id, input.graph_version, input.inputs, input.nodes_input_masks)
        async with aclosing(call) as outputs:
            async for name, value in outputs:
                yield name, value
