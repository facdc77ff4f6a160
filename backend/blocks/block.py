"""What a block is: typed input and output pins, facts about itself, and an async generator that does the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from backend.blocks.outside import Accepted as Accepted
from backend.blocks.outside import BlockError as BlockError
from backend.blocks.outside import Outside
from backend.graphs.catalogue import BlockKind

# What `run` yields: the name of an output pin and a value JSON can hold.
Pins = AsyncGenerator[tuple[str, Any], None]

# `Items` serves where a pin is itself called `list`: inside such a class the name means the pin.
Items = list[Any]


class Category(Enum):
    """Where a block is found in a list of blocks; the value describes the category."""

    BASIC = "Everyday operations"
    INPUT = "Values that enter an agent"
    OUTPUT = "Values that leave an agent"
    LOGIC = "Decisions, arithmetic and time"
    TEXT = "Working with text"
    DATA = "Lists, dictionaries and formats"
    SEARCH = "Finding information"
    DEVELOPER_TOOLS = "Tools for programmers"
    AGENT = "Other agents"


ALONE = Outside()


def _say_nothing(message: str) -> None:
    """Serve as the log of a context that has none."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where and for whom a block runs.

    `node_run` counts the runs of this node within its run. `token` is the same string whenever this very node run is
    repeated after a crash, so that others can tell a repetition. `trusted_hosts` are the `host` or `host:port` that may
    be reached although their address is private. `outside` is how a block waits, and keeps values beyond its run.
    """

    run_id: str
    graph_id: str
    graph_version: int
    node_id: str
    node_run: int
    token: str
    trusted_hosts: tuple[str, ...] = ()
    log: Callable[[str], None] = _say_nothing
    outside: Outside = ALONE


@dataclass(frozen=True, slots=True)
class Varies:
    """Stands in an example for a value that differs each time; `check` tells a right one."""

    check: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Example:
    """An input and what comes of it: the pins in order, then the `error` if the block fails."""

    input: dict[str, Any]
    output: Sequence[tuple[str, Any]] = field(default_factory=tuple[tuple[str, Any], ...])
    error: str | None = None


class BlockInput(BaseModel):
    """The base of every block's Input. Built at first use: importing all blocks stays cheap."""

    model_config = ConfigDict(defer_build=True, allow_inf_nan=False, protected_namespaces=())


def pin(
    about: str,
    *,
    default: Any = ...,
    factory: Callable[[], Any] | None = None,
    advanced: bool | None = None,
    **extra: Any,
) -> Any:
    """Declare a pin. It is required unless it has a default (or a factory of one), and then `advanced` unless told.

    `extra` goes into the JSON schema as it is: `title`, `hidden`, `placeholder`.
    """
    optional = default is not ... or factory is not None
    schema: dict[str, Any] = {"advanced": optional if advanced is None else advanced, "secret": False, **extra}
    if factory is not None:
        return Field(default_factory=factory, description=about, json_schema_extra=schema)
    return Field(default=default, description=about, json_schema_extra=schema)


def credentials_pin(about: str, accepted: Accepted, *, discriminator: str | None = None) -> Any:
    """Declare a pin for the reference to a credential, which `context.outside.credentials` opens. `discriminator` is
    the pin with the URL that tells for which host it has to be."""
    schema: dict[str, Any] = {
        "credentials_provider": list(accepted.providers),
        "credentials_types": list(accepted.types),
        **({"discriminator": discriminator} if discriminator else {}),
    }
    return Field(description=about, json_schema_extra=schema)


class BlockOutput(BaseModel):
    """The base of every block's Output: each block can fail, so each has the pin `error`."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    error: str = pin("What went wrong, if the block failed", default="")


class Block(ABC):
    """One kind of block. The class name is its name, the docstring its description; an instance holds no state."""

    id: ClassVar[str]
    categories: ClassVar[tuple[Category, ...]]
    kind: ClassVar[BlockKind] = BlockKind.STANDARD
    static_output: ClassVar[bool] = False
    Input: ClassVar[type[BlockInput]]
    Output: ClassVar[type[BlockOutput]]
    examples: ClassVar[Sequence[Example]]

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def description(self) -> str:
        return " ".join((type(self).__doc__ or "").split())

    @abstractmethod
    def run(self, input: Any, context: Context) -> Pins:
        """Yield (pin, value) in order. `input` is an Input and belongs to the run: it is read, never changed.

        Raises BlockError when the work cannot be done.
        """
