"""Every error a user of the API can meet, once: its code, its HTTP status, its title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ApiError(Exception):
    """A request that cannot be answered. `detail` is for people, `code` for programs and never changes.

    `errors` say which parts of the request are wrong, `problems` what keeps a graph from running.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        problems: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.problems = problems
        self.headers = dict(headers or {})


class BadRequest(ApiError):
    """The request could not be read as HTTP or JSON."""

    status, code, title = 400, "bad_request", "The request cannot be read"


class MalformedJson(BadRequest):
    """The body is not JSON: the detail says line and column."""

    code, title = "malformed_json", "The body is not JSON"


class InvalidCursor(BadRequest):
    """A cursor can only be taken from `next_cursor` of an earlier answer."""

    code, title = "invalid_cursor", "The cursor is none of ours"


class GraphIdMismatch(BadRequest):
    """A new version keeps the id of its graph: the body has that id, or none."""

    code, title = "graph_id_mismatch", "The body is of another graph"


class InvalidLastEventId(BadRequest):
    """In the stream of a run the id of an event is its number, 0 or more; in others it can only be taken from there."""

    code, title = "invalid_last_event_id", "The last event id is none of this stream"


class WrongHost(BadRequest):
    """A server on a loopback address is only spoken to by a loopback name, so that no web page can reach it."""

    code, title = "wrong_host", "The Host header names another host"


class Unauthorized(ApiError):
    """Nobody may use this server without an API key."""

    status, code, title = 401, "unauthorized", "An API key is needed"


class MissingApiKey(Unauthorized):
    """An API key is sent as `X-API-Key`, or as `Authorization: Bearer`."""

    code, title = "missing_api_key", "There is no API key"


class InvalidApiKey(Unauthorized):
    """There is no such key, or it was revoked, or it has expired."""

    code, title = "invalid_api_key", "The API key is not valid"


class Forbidden(ApiError):
    """The caller may not do this."""

    status, code, title = 403, "forbidden", "This is not allowed"


class MissingPermissions(Forbidden):
    """The key was not given the permissions that the operation needs; the detail names them."""

    code, title = "missing_permissions", "The API key lacks permissions"


class RateLimited(ApiError):
    """A key may send so many requests in a minute; `Retry-After` says when the next is answered."""

    status, code, title = 429, "rate_limited", "There were too many requests"


class InvalidSignature(ApiError):
    """The delivery is not signed as the trigger asks for, or was signed too long ago."""

    status, code, title = 401, "invalid_signature", "The signature does not fit"


class ForeignOrigin(Forbidden):
    """A web page of another site may not use this server."""

    code, title = "foreign_origin", "The request comes from another site"


class NotFound(ApiError):
    """There is nothing at this address."""

    status, code, title = 404, "not_found", "There is nothing here"


class UnknownGraph(NotFound):
    """No graph has this id, or not in this version."""

    code, title = "unknown_graph", "There is no such graph"


class UnknownRun(NotFound):
    """No run has this id; a run that ended long ago may have been deleted."""

    code, title = "unknown_run", "There is no such run"


class UnknownShare(NotFound):
    """The run is not shared by this token, or not any more."""

    code, title = "unknown_share", "Nothing is shared here"


class UnknownApiKey(NotFound):
    """No key of the caller has this id."""

    code, title = "unknown_api_key", "There is no such API key"


class UnknownReview(NotFound):
    """The run asks for no such decision."""

    code, title = "unknown_review", "There is no such review"


class UnknownSchedule(NotFound):
    """No schedule has this id."""

    code, title = "unknown_schedule", "There is no such schedule"


class UnknownTrigger(NotFound):
    """No trigger has this id, or its address is another."""

    code, title = "unknown_trigger", "There is no such trigger"


class UnknownWebhook(NotFound):
    """No webhook has this id."""

    code, title = "unknown_webhook", "There is no such webhook"


class UnknownDelivery(NotFound):
    """There is no delivery with this id, or none any more: old ones are not kept."""

    code, title = "unknown_delivery", "There is no such delivery"


class UnknownBlock(NotFound):
    """This server has no block with this id."""

    code, title = "unknown_block", "There is no such block"


class UnknownCredential(NotFound):
    """You have no credential with this id."""

    code, title = "unknown_credential", "There is no such credential"


class UnknownFile(NotFound):
    """You have no file with this id; one that was kept for some hours only is gone after them."""

    code, title = "unknown_file", "There is no such file"


class MethodNotAllowed(ApiError):
    """The Allow header lists the methods of this address."""

    status, code, title = 405, "method_not_allowed", "The method is not allowed here"


class NotAcceptable(ApiError):
    """What the Accept header asks for is not to be had at this address."""

    status, code, title = 406, "not_acceptable", "There is no such representation"


class TooSlow(ApiError):
    """The body of a request has to come at a kilobyte a second, after a start of half a minute."""

    status, code, title = 408, "too_slow", "The request came too slowly"


class Conflict(ApiError):
    """What is asked for does not go with the state things are in."""

    status, code, title = 409, "conflict", "The state does not allow it"


class AlreadyDecided(Conflict):
    """A decision is made once; the run has gone on with the first."""

    code, title = "already_decided", "The review is decided already"


class RunEnded(Conflict):
    """The run has ended, or was stopped: nothing can change it any more."""

    code, title = "run_ended", "The run has ended"


class RunNotEnded(Conflict):
    """A run can be run again once it has ended."""

    code, title = "run_not_ended", "The run has not ended"


class NothingFailed(Conflict):
    """A run that completed has nothing to be tried again."""

    code, title = "nothing_failed", "Nothing in the run failed"


class NotReplayable(Conflict):
    """The delivery was refused by its signature, or is too large to be kept."""

    code, title = "not_replayable", "The delivery cannot be replayed"


class FileExists(Conflict):
    """You have a file of this name; `overwrite=true` puts the new one in its place."""

    code, title = "file_exists", "There is a file of this name"


class WebhookInactive(Conflict):
    """A webhook that is switched off is told nothing."""

    code, title = "webhook_inactive", "The webhook is switched off"


class IncludedGraph(Conflict):
    """A graph that came in the file of another is deleted with that one."""

    code, title = "included_graph", "The graph belongs to another"


class NoMoreVersions(Conflict):
    """The versions of a graph are numbered up to 2147483647."""

    code, title = "no_more_versions", "The graph can have no further version"


class PreconditionFailed(ApiError):
    """What the request is about is not as `If-Match` says any more: read it again."""

    status, code, title = 412, "precondition_failed", "It has changed"


class TooLarge(ApiError):
    """The body is larger than this server takes."""

    status, code, title = 413, "too_large", "The body is too large"


class UnsupportedMediaType(ApiError):
    """A body has to be JSON and say so: `Content-Type: application/json`."""

    status, code, title = 415, "unsupported_media_type", "The body has to be JSON"


class NotAForm(UnsupportedMediaType):
    """A file is sent as a form: `multipart/form-data` with the part `file`."""

    code, title = "not_a_form", "The body has to be a form with a file"


class RangeNotSatisfiable(ApiError):
    """The file has no bytes there; Content-Range says how many it has."""

    status, code, title = 416, "range_not_satisfiable", "The file has no such bytes"


class Unprocessable(ApiError):
    """The request is JSON, but parts of it are not what is expected; `errors` names them."""

    status, code, title = 422, "invalid_request", "The request has errors"


class InvalidGraphFile(Unprocessable):
    """The agent file has faults of structure; `errors` names every one by its JSON Pointer."""

    code, title = "invalid_graph_file", "The agent file has faults"


class GraphNotRunnable(Unprocessable):
    """The graph is stored, but cannot run before its `problems` are mended."""

    code, title = "graph_not_runnable", "The graph cannot run as it is"


class InvalidInputs(Unprocessable):
    """The inputs of the run are not those the graph asks for; `problems` names them."""

    code, title = "invalid_inputs", "The inputs do not fit the graph"


class UnknownNode(Unprocessable):
    """The graph has no node with this id."""

    code, title = "unknown_node", "The graph has no such node"


class IdempotencyKeyReused(Unprocessable):
    """An `Idempotency-Key` stands for one request: another request needs another key."""

    code, title = "idempotency_key_reused", "The key was used for another request"


class NotEditable(Unprocessable):
    """The agent allows to approve or reject this data, but not to change it."""

    code, title = "not_editable", "The data may not be changed"


class InternalError(ApiError):
    """A fault of this server; the request id finds it in the log."""

    status, code, title = 500, "internal_error", "The server made a mistake"


class Unavailable(ApiError):
    """The server is starting, stopping, or without its database; try again in a moment."""

    status, code, title = 503, "unavailable", "The server cannot answer now"


class DatabaseAway(Unavailable):
    """The database does not answer; try again in a moment."""

    code, title = "database_away", "The database does not answer"


class SecretUnreadable(Unavailable):
    """A secret cannot be opened with the ENCRYPTION_KEY that this server has."""

    code, title = "secret_unreadable", "The secret cannot be read"


class BlockTimedOut(ApiError):
    """The block did not finish in the time a direct execution may take."""

    status, code, title = 504, "block_timed_out", "The block took too long"


def codes() -> dict[str, type[ApiError]]:
    """Every error by its code."""
    found: dict[str, type[ApiError]] = {}
    waiting = ApiError.__subclasses__()
    for error in waiting:
        found[error.code] = error
        waiting += error.__subclasses__()
    return found
