"""Log lines: short and coloured for people in development, one JSON object each in production."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# From where on it is of interest to those who run a server what libraries say. While the database is away, every pool
# warns again and again with a traceback, of what our own lines say in a sentence.
QUIET = dict.fromkeys(("asyncio", "alembic", "watchfiles"), logging.WARNING) | {"asyncpg": logging.ERROR}
# So at every level: these would tell the addresses and headers of requests, in which there are keys.
TELLTALES = ("uvicorn", "websockets")


def configure(process: str, app_env: str, level: str) -> None:
    """Send the lines of structlog and of the standard library's logging to stdout, from `level` (`info`) upwards."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    for_people = app_env == "development"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_people() if for_people else _for_machines(process)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name, from_here in QUIET.items():
        logging.getLogger(name).setLevel(threshold if threshold <= logging.DEBUG else max(threshold, from_here))
    for name in TELLTALES:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _for_people() -> list[Processor]:
    colours = bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    return [
        structlog.dev.ConsoleRenderer(
            colors=colours,
            pad_event_to=0,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _for_machines(process: str) -> list[Processor]:
    def name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    return [name_process, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
