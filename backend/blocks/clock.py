"""Blocks that tell the time and the date, in any time zone and format."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from backend.blocks.block import (
    Block,
    BlockError,
    BlockInput,
    BlockOutput,
    Category,
    Context,
    Example,
    Pins,
    Varies,
    pin,
)

MAX_FORMAT = 1_000  # characters


class _Zone(BaseModel):
    timezone: str = Field(default="UTC", description="An IANA time zone, such as Europe/Zurich")
    use_user_timezone: bool = Field(
        default=False, description="Whether to use the zone of the user, where one is known"
    )


class _ISO8601(_Zone):
    discriminator: Literal["iso8601"]


class _ISO8601Time(_ISO8601):
    include_microseconds: bool = Field(default=False, description="Whether to tell fractions of a second")


class _Strftime(_Zone):
    discriminator: Literal["strftime"]
    format: str = Field(default="%Y-%m-%d %H:%M:%S", description="What strftime is given")


class _StrftimeDate(_Strftime):
    format: str = Field(default="%Y-%m-%d", description="What strftime is given")


class _StrftimeTime(_Strftime):
    format: str = Field(default="%H:%M:%S", description="What strftime is given")


_Formats = Annotated[_Strftime | _ISO8601Time, Field(discriminator="discriminator")]
_DateFormats = Annotated[_StrftimeDate | _ISO8601, Field(discriminator="discriminator")]
_TimeFormats = Annotated[_StrftimeTime | _ISO8601Time, Field(discriminator="discriminator")]


def _format_pin() -> Any:
    return Field(
        default={"discriminator": "strftime"},
        validate_default=True,
        description="How to write it",
        json_schema_extra={"advanced": True, "secret": False},
    )


def _now(zone: _Zone) -> datetime:
    return datetime.now(_zone(zone.timezone))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, not a path within the database, or a folder of it
        raise BlockError(f"‘{name}’ is no time zone: give one such as Europe/Zurich, or UTC.") from None


def _written(moment: datetime, how: _Strftime) -> str:
    if len(how.format) > MAX_FORMAT:
        raise BlockError(f"The format has {len(how.format):,} characters: {MAX_FORMAT:,} is the most.")
    try:
        return moment.strftime(how.format)
    except (ValueError, UnicodeError) as error:
        raise BlockError(f"The format cannot be used: {error}.") from None


def _iso_time(now: datetime, how: _ISO8601Time) -> str:
    # Not by way of a `time`, which cannot tell the offset of a zone that has summer time.
    return now.isoformat(timespec=_precision(how)).partition("T")[2]


def _precision(how: _ISO8601Time) -> str:
    return "microseconds" if how.include_microseconds else "seconds"


class GetCurrentTimeBlock(Block):
    """Tells the time of day."""

    id = "a892b8d9-3e4e-4e9c-9c1e-75f8efcf1bfa"
    categories = (Category.LOGIC,)
    examples = (
        Example({"trigger": "now"}, [("time", Varies(lambda time: len(time) == len("12:34:56")))]),
        Example(
            {"trigger": "now", "format_type": {"discriminator": "iso8601", "timezone": "Asia/Tokyo"}},
            [("time", Varies(lambda time: time.endswith("+09:00")))],
        ),
    )

    class Input(BlockInput):
        trigger: str = pin("Sets the block off; any text")
        format_type: _TimeFormats = _format_pin()

    class Output(BlockOutput):
        time: str = pin("The time")

    async def run(self, input: Input, context: Context) -> Pins:
        how = input.format_type
        now = _now(how)
        yield "time", _written(now, how) if isinstance(how, _Strftime) else _iso_time(now, how)


class GetCurrentDateBlock(Block):
    """Tells the date, or that of some days ago."""

    id = "b29c1b50-5d0e-4d9f-8f9d-1b0e6fcbf0b1"
    categories = (Category.LOGIC,)
    examples = (
        Example({"trigger": "now"}, [("date", Varies(lambda date: datetime.strptime(date, "%Y-%m-%d")))]),
        Example(
            {"trigger": "now", "offset": "7", "format_type": {"discriminator": "iso8601"}},
            [("date", Varies(lambda date: abs((datetime.now() - datetime.fromisoformat(date)).days - 7) <= 1))],
        ),
        Example({"trigger": "now", "offset": 10**9}, error="1000000000 days ago is beyond the calendar."),
    )

    class Input(BlockInput):
        trigger: str = pin("Sets the block off; any text")
        offset: int | str = pin("How many days to go back", default=0)
        format_type: _DateFormats = _format_pin()

    class Output(BlockOutput):
        date: str = pin("The date")

    async def run(self, input: Input, context: Context) -> Pins:
        how = input.format_type
        day = _days_ago(_now(how), input.offset)
        yield "date", _written(day, how) if isinstance(how, _Strftime) else day.date().isoformat()


def _days_ago(now: datetime, offset: int | str) -> datetime:
    try:
        return now - timedelta(days=int(offset))
    except ValueError:
        raise BlockError(f"The offset ‘{str(offset)[:40]}’ is not a whole number of days.") from None
    except OverflowError:
        raise BlockError(f"{str(offset)[:40]} days ago is beyond the calendar.") from None


class GetCurrentDateAndTimeBlock(Block):
    """Tells the date and the time of day."""

    id = "716a67b3-6760-42e7-86dc-18645c6e00fc"
    categories = (Category.LOGIC,)
    examples = (
        Example({"trigger": "now"}, [("date_time", Varies(lambda text: datetime.strptime(text, "%Y-%m-%d %H:%M:%S")))]),
        Example(
            {"trigger": "now", "format_type": {"discriminator": "iso8601", "include_microseconds": True}},
            [("date_time", Varies(lambda text: "." in text and datetime.fromisoformat(text)))],
        ),
        Example(
            {"trigger": "now", "format_type": {"discriminator": "iso8601", "timezone": "Moon/Sea"}},
            error="‘Moon/Sea’ is no time zone: give one such as Europe/Zurich, or UTC.",
        ),
    )

    class Input(BlockInput):
        trigger: str = pin("Sets the block off; any text")
        format_type: _Formats = _format_pin()

    class Output(BlockOutput):
        date_time: str = pin("The date and time")

    async def run(self, input: Input, context: Context) -> Pins:
        how = input.format_type
        now = _now(how)
        yield "date_time", _written(now, how) if isinstance(how, _Strftime) else now.isoformat(timespec=_precision(how))
