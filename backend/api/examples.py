"""Examples for the OpenAPI document. That of a model is made of those of its fields, so it cannot fall behind them."""

from __future__ import annotations

from typing import Any

RUN = "01980000-0000-7000-8000-000000000002"
SCHEMA = {"type": "object", "properties": {"Input": {"type": "string", "title": "Input"}}, "required": ["Input"]}

# By the name of the field, as one name means one thing in this API; `Model.field` where it does not. What a field
# itself gives as an example comes first.
BY_NAME: dict[str, Any] = {
    "address": "http://127.0.0.1:8006/api/v2/triggers/01980000-0000-7000-8000-000000000005/ingress/TOKEN",
    "block_id": "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b",
    "block_name": "AgentInputBlock",
    "body": '{"action": "opened"}',
    "code": "missing_input",
    "concurrency_key": None,
    "cron": "30 9 * * MON-FRI",
    "description": "Gives back what it is given",
    "disabled_reason": None,
    "error": None,
    "events": ["run.failed"],
    "expires_at": None,
    "expires_in_hours": None,
    "failing_since": None,
    "failure": None,
    "failures": [],
    "file": "/srv/agents/backend/api/runs.py",
    "forked_from_id": None,
    "forked_from_version": None,
    "headers": {"content-type": "application/json"},
    "host": "api.example.com",
    "inputs": {"Input": 5},
    "instructions": "Is this mail fit to be sent?",
    "label": "customer:42",
    "labels": {"customer": "42"},
    "last_error": None,
    "links": [],
    "message": "the input `b` has no value and no link",
    "metadata": {"position": {"x": 100, "y": 200}},
    "name": "Echo",
    "never_ran": [],
    "next_attempt_at": None,
    "next_cursor": None,
    "node": "Fetch the page (fetch)",
    "node_id": "fetch",
    "outputs": {"Output": [5]},
    "parent_node_exec_id": None,
    "parent_run_id": None,
    "payload": {"subject": "Hello"},
    "payload_input": "Input",
    "permissions": ["READ_GRAPH", "RUN_AGENT"],
    "pid": 4711,
    "pin": "b",
    "plain_text_key": "agpt_Ab3…",
    "problems": [],
    "processes": [],
    "provider": "http",
    "recommended_schedule_cron": None,
    "rerun_of": None,
    "response_excerpt": "ok",
    "response_status": 200,
    "review_message": None,
    "reviewed_at": None,
    "reviewed_data": None,
    "revoked_at": None,
    "run_at": None,
    "run_id": RUN,
    "schedule_id": None,
    "sentence": "backend/api/runs.py, line 7: SyntaxError",
    "share_token": "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "sink_id": "out",
    "sink_name": "value",
    "slot": "http_host_scoped_credentials",
    "source_id": "in",
    "source_name": "result",
    "sub_graphs": [],
    "tail": "x9Yz",
    "timezone": "Europe/Berlin",
    "title": "Our weather service",
    "trigger_setup_info": None,
    "priority": 0,
    "retries": 0,
    "settings": {"timeout_seconds": 60},
    "started_at": "2026-01-31T12:00:00.250Z",
    "ended_at": "2026-01-31T12:00:01.750Z",
    "user": None,
    "url": "https://example.com/hooks",
    "user_name": "default",
    "username": None,
    "waiting": [],
    "warnings": [],
    "input_schema": SCHEMA,
    "output_schema": {"type": "object", "properties": {"Output": {}}},
    "credentials_input_schema": {"type": "object", "properties": {}, "required": []},
    "credentials_inputs": {},
    "credentials": {},
    "id": "01980000-0000-7000-8000-000000000000",
    "category": "TEXT",
    "detail": "There is no run 01980000-0000-7000-8000-000000000002.",
    "graph_id": "01980000-0000-7000-8000-000000000001",
    "graph_name": "Echo",
    "node_ids": ["fetch"],
    "password": "correct horse battery staple",
    "access_token": "ya29…",
    "pins": ["b"],
    "providers": ["http"],
    "refresh_token": None,
    "types": ["host_scoped"],
    "ApiKey.name": "CI",
    "Link.id": "01980000-0000-7000-8000-000000000003",
    "Node.id": "fetch",
    "ApiKeyChange.name": "CI",
    "Review.node_id": "ask",
    "Review.status": "WAITING",
    "AgentChange.settings": {"max_concurrent_runs": 3},
    "RunSummary.share_token": None,
    "RunDetail.share_token": None,
    "RunDetail.status": "COMPLETED",
    "RunSummary.status": "COMPLETED",
    "SharedRun.status": "COMPLETED",
    "NodeExecution.status": "COMPLETED",
    "Delivery.status": "DELIVERED",
    "Schedule.name": "Every morning",
    "ScheduleDetail.name": "Every morning",
    "Trigger.name": "Pushes",
    "TriggerWithSecret.name": "Pushes",
    "TriggerWithSecret.secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "Me.api_key": None,
    "Me.name": "default",
    "ProcessState.name": "rest",
    "ProcessState.address": "http://127.0.0.1:8006",
    "Failure.error": "HTTP 503",
    "Webhook.description": "tells the team",
    "WebhookWithSecret.description": "tells the team",
    "SlotOfGraph.credentials": [],
}
FORMATS = {"uuid": "01980000-0000-7000-8000-000000000000", "date-time": "2026-01-31T12:00:00Z"}
KINDS: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": False, "object": {}, "string": ""}


class Examples:
    """Makes examples by the schemas of a document. A text without any is "": there is a test that finds it."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas

    def of(self, schema: dict[str, Any], *, sent: bool = False, model: str = "", field: str = "") -> Any:
        """An example of what a schema describes: with all of its fields, or, if it is `sent`, those that say what
        they may be. `model` and `field` are the place it is in."""
        for given in (schema.get("examples"), schema.get("enum"), [schema["const"]] if "const" in schema else None):
            if given and not (given is schema.get("enum") and self._named(model, field)):
                return given[0]
        if name := self._named(model, field):
            return BY_NAME[name]
        if "$ref" in schema:
            target = schema["$ref"].rpartition("/")[2]
            return self.of(self._schemas[target], sent=sent, model=target)
        if schema.get("default") is not None:
            return schema["default"]
        return self._made(schema, sent, model, field)

    def _named(self, model: str, field: str) -> str | None:
        return next((name for name in (f"{model}.{field}", field) if field and name in BY_NAME), None)

    def _made(self, schema: dict[str, Any], sent: bool, model: str, field: str) -> Any:
        if choice := schema.get("anyOf") or schema.get("oneOf"):
            return self.of(choice[0], sent=sent, model=model, field=field)
        if properties := schema.get("properties"):
            shown = self._sent(schema) if sent else properties
            return {name: self.of(properties[name], sent=sent, model=model, field=name) for name in shown}
        if schema.get("type") == "array":
            return [self.of(schema["items"], sent=sent)] if schema.get("items") else []
        return FORMATS.get(schema.get("format", "")) or schema.get("minimum") or KINDS.get(str(schema.get("type")))

    def _sent(self, schema: dict[str, Any]) -> list[str]:
        """The fields that a request is shown with."""
        required, properties = schema.get("required", []), schema["properties"]
        return [name for name, each in properties.items() if name in required or _says(each)]


def _says(schema: dict[str, Any]) -> bool:
    return any(any(each.get("examples", ())) for each in (schema, *schema.get("anyOf", ())))
