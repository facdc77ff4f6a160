"""What /metrics tells: requests by operation, how many runs wait and are being worked on, and by how many executors."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from backend.store import deliveries
from backend.store.connection import Queryable
from backend.store.executors import count_alive
from backend.store.statistics import oldest_queued, unfinished_runs


class Metrics:
    """The figures of one app. Requests to no known address are counted as one, so that nobody can fill the memory."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "agent_server_http_requests", "HTTP requests", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "agent_server_http_request_seconds", "Seconds to answer", ["method", "route"], registry=self._registry
        )
        self._runs = Gauge("agent_server_runs", "Runs that have not ended", ["status"], registry=self._registry)
        self._oldest = Gauge(
            "agent_server_oldest_queued_run_seconds", "Age of the oldest run in the queue", registry=self._registry
        )
        self._deliveries = Gauge(
            "agent_server_webhook_deliveries", "Deliveries of webhooks that are not over", registry=self._registry
        )
        self._executors = Gauge("agent_server_executors", "Executors that are alive", registry=self._registry)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        known = scope.get("route")
        method, route = (scope["method"], known.path_format) if known else ("other", "none")
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    async def exposition(self, database: Queryable) -> bytes:
        """All figures in the text format of Prometheus."""
        for status, runs in (await unfinished_runs(database)).items():
            self._runs.labels(status.lower()).set(runs)
        self._oldest.set(await oldest_queued(database))
        self._deliveries.set(await deliveries.pending(database))
        self._executors.set(await count_alive(database))
        return generate_latest(self._registry)
