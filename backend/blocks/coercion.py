"""Fitting what arrives at a block to the types its pins declare, as the platform whose agents we run does it.

Values that fit pass at the speed of pydantic. The rest is converted by the rules of `coerce`, which never fail; where a
conversion loses something it says so.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from backend.blocks.block import Block, BlockInput, Items
from backend.blocks.json_values import as_text, is_dict, is_list, kind_of

# Told about each loss, as the end of a sentence that begins with the pin.
Warn = Callable[[str], None]
Prepared = tuple[Any, Sequence[str]]


class InputError(Exception):
    """What arrived cannot be made to fit. `reasons` tells why, by pin."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{pin}: {reason}" for pin, reason in reasons.items()))
        self.reasons = reasons


def prepare(block: Block) -> Callable[[dict[str, Any]], Prepared]:
    """Return the function that turns what arrived at `block`'s pins into its Input and the warnings about losses.

    Pins it does not know are left out. The function raises InputError.
    """
    model = block.Input
    model.model_rebuild()
    validate = model.__pydantic_validator__.validate_python

    def fit(arrived: dict[str, Any]) -> Prepared:
        try:
            # Strict, because pydantic's own conversions differ from the rules below.
            return validate(arrived, strict=True), ()
        except ValidationError as error:
            return _mend(model, arrived, error)

    return fit


def _mend(model: type[BlockInput], arrived: dict[str, Any], error: ValidationError) -> Prepared:
    warnings: list[str] = []
    mended = dict(arrived)
    for pin in {str(detail["loc"][0]) for detail in error.errors(include_url=False)} & arrived.keys():
        field = model.model_fields[pin]
        if arrived[pin] is None:
            if not field.is_required():
                del mended[pin]
        else:
            mended[pin] = coerce(
                arrived[pin], field.annotation, lambda loss, pin=pin: warnings.append(f"{pin}: {loss}")
            )
    try:
        return model.model_validate(mended), warnings
    except ValidationError as final:
        raise InputError({str(detail["loc"][0]): _reason(detail) for detail in final.errors()}) from None


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "is required"
    return f"{detail['msg'].replace('Input should be', 'expected')}, found {kind_of(detail['input'])}"


def coerce(value: Any, annotation: Any, warn: Warn) -> Any:
    """Convert a value to the type a pin declares. Never fails: what no rule covers is returned as it is."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return coerce(value, arguments[0], warn)
    if origin in (Union, types.UnionType):
        return _to_union(value, arguments, warn)
    if origin is Literal:
        return _to_choice(value, arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _to_choice(value, [member.value for member in annotation])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _to_dict(value, (), warn)
    convert = _CONVERSIONS.get(origin or annotation)
    return convert(value, arguments, warn) if convert else value


def _to_text(value: Any, arguments: Sequence[Any], warn: Warn) -> str:
    return as_text(value)


def _to_flag(value: Any, arguments: Sequence[Any], warn: Warn) -> bool:
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in ("true", "1", "false", "0", ""):
            warn(f"{_short(value)} is neither true nor false, false is taken")
        return word in ("true", "1")
    if not isinstance(value, bool) and value not in (0, 1):
        warn(f"{kind_of(value)} is neither true nor false, {str(bool(value)).lower()} is taken")
    return bool(value)


def _to_float(value: Any, arguments: Sequence[Any], warn: Warn) -> float:
    if is_list(value) or is_dict(value):
        warn(f"{kind_of(value)} is not a number, its length is taken")
        return float(len(value))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    warn(f"{_short(value)} is not a number, 0 is taken")
    return 0.0


def _to_int(value: Any, arguments: Sequence[Any], warn: Warn) -> int:
    number = _exact(value)
    if number is None:
        approximate = _to_float(value, arguments, warn)
        number = int(approximate)
        if number != approximate:
            warn(f"{_short(value)} is not a whole number, {number} is taken")
    if -(2**63) <= number < 2**64:
        return number
    warn(f"{_short(value)} has more than 64 bits, 0 is taken")
    return 0


def _exact(value: Any) -> int | None:
    """Read a whole number without the rounding of floating point; None if it is none."""
    try:
        return int(value) if isinstance(value, (str, int)) else None
    except ValueError:
        return None


def _to_list(value: Any, arguments: Sequence[Any], warn: Warn) -> list[Any]:
    items: Items
    if isinstance(value, str):
        parsed = _parsed(value)
        items = parsed if is_list(parsed) else Items([value])
    elif is_dict(value):
        items = [[key, item] for key, item in value.items()]
    else:
        items = value if is_list(value) else [value]
    return [coerce(item, arguments[0], warn) for item in items] if arguments else items


def _to_dict(value: Any, arguments: Sequence[Any], warn: Warn) -> dict[Any, Any]:
    if isinstance(value, str):
        parsed = _parsed(value)
        value = parsed if is_dict(parsed) or is_list(parsed) else value
    if is_list(value):
        value = {str(index): item for index, item in enumerate(value)}
    entries: dict[Any, Any] = value if is_dict(value) else {"value": value}
    if not arguments:
        return entries
    of_key, of_item = arguments
    return {coerce(key, of_key, warn): coerce(item, of_item, warn) for key, item in entries.items()}


_CONVERSIONS: dict[Any, Callable[[Any, Sequence[Any], Warn], Any]] = {
    str: _to_text,
    bool: _to_flag,
    float: _to_float,
    int: _to_int,
    list: _to_list,
    dict: _to_dict,
}


def _to_union(value: Any, arms: Sequence[Any], warn: Warn) -> Any:
    """Take the value as it is, else the first arm that holds it without loss, else the first arm."""
    arms = [arm for arm in arms if arm is not types.NoneType]
    if value is None or any(_fits(value, arm) for arm in arms):
        return value
    for arm in arms:
        losses: list[str] = []
        converted = coerce(value, arm, losses.append)
        if not losses and _fits(converted, arm):
            return converted
    return coerce(value, arms[0], warn)


def _to_choice(value: Any, choices: Sequence[Any]) -> Any:
    return next((choice for choice in choices if as_text(choice) == as_text(value)), value)


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        return _fits(value, get_args(annotation)[0])
    if origin is list and is_list(value):
        return all(_fits(item, arm) for arm in get_args(annotation) for item in value)
    if origin is dict or (isinstance(origin, type) and issubclass(origin, BaseModel)):
        return is_dict(value)
    return origin is Any or type(value) is origin or (origin is float and type(value) is int)


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = as_text(value)
    return f"‘{text if len(text) <= 40 else text[:39] + '…'}’"
