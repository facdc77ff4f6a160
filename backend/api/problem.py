"""Turns every failure into an answer of type application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from backend.errors import ApiError, DatabaseAway, InternalError, MethodNotAllowed, NotFound, Unprocessable
from backend.graphs.faults import printable
from backend.graphs.validation import Problem
from backend.store.connection import PASSING

MEDIA_TYPE = "application/problem+json"

log = structlog.get_logger()


class RequestError(BaseModel):
    """One part of a request that is wrong: of the body (`pointer`, RFC 6901), or a parameter by its name."""

    pointer: str | None = Field(default=None, examples=["/inputs/Input"])
    parameter: str | None = Field(default=None, examples=["limit"])
    code: str = Field(examples=["int_parsing"])
    message: str


class ProblemDocument(BaseModel):
    """Why a request was not answered as asked (RFC 9457). Programs go by `code`, people by `detail`."""

    type: str = Field(examples=["/problems/unknown_run"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["unknown_run"])
    errors: list[RequestError] = Field(default=[], description="the parts of the request that are wrong")
    problems: list[Problem] = Field(default=[], description="what keeps the graph from running")


def problem_response(error: ApiError) -> Response:
    document: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    lists = {"errors": error.errors, "problems": error.problems}
    document |= {name: list(entries) for name, entries in lists.items() if entries}
    return Response(orjson.dumps(document), error.status, headers=error.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer every exception with a problem."""
    app.add_exception_handler(ApiError, lambda _, error: problem_response(cast("ApiError", error)))
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


def failure(error: Exception) -> ApiError:
    """The problem to answer with when a request ended in an exception that nobody foresaw, which is logged."""
    if isinstance(error, PASSING):
        log.warning("the database is away", error=str(error))
        return DatabaseAway("The database does not answer; try again in a moment.", headers={"Retry-After": "1"})
    log.error("a request failed", exc_info=error)
    return InternalError("The server made a mistake; its log has the details under this X-Request-Id.")


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown addresses and methods."""
    assert isinstance(error, HTTPException)
    headers, path = error.headers, printable(request.url.path)
    match error.status_code:
        case 404:
            return problem_response(NotFound(f"There is nothing at {path}; /docs lists what there is."))
        case 405:
            allowed = ", ".join(sorted(_methods(request) | {*(headers or {}).values()}))
            detail = f"{printable(request.method)} is not allowed at {path}: only {allowed}."
            return problem_response(MethodNotAllowed(detail, headers={"Allow": allowed}))
        case _:
            return problem_response(Unprocessable(error.detail, headers=headers))


def _methods(request: Request) -> set[str]:
    """Every method of the address: the framework itself names those of one route only."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matching = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    # /runs/reviews is an address of its own, not the run `reviews`.
    closest = min(matching, key=lambda path: path.count("{"), default=None)
    return {method.upper() for method in paths[closest]} if closest else set()


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_request_error(each) for each in cast("Sequence[Mapping[str, Any]]", error.errors())]
    places = [each.get("parameter") or each.get("pointer") or "body" for each in errors]
    detail = "; ".join(f"{place}: {each['message']}" for place, each in zip(places, errors, strict=True))
    return problem_response(Unprocessable(detail, errors=errors))


def _request_error(error: Mapping[str, Any]) -> dict[str, str]:
    where, *path = error["loc"]
    part = {"pointer": "".join(_escaped(path))} if where == "body" else {"parameter": ".".join(map(str, path[:1]))}
    return {**part, "code": error["type"], "message": printable(error["msg"])}


def _escaped(path: Sequence[str | int]) -> Iterator[str]:
    for part in path:
        yield "/" + printable(str(part)).replace("~", "~0").replace("/", "~1")


def documented(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that may raise these errors."""
    titles: dict[int | str, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(f"{error.title} (`{error.code}`)")
    return {status: {"model": ProblemDocument, "description": " · ".join(each)} for status, each in titles.items()}
