"""Graphs, runs, the events of runs, and the executors that work on them."""

from alembic import op

revision = "0001"
down_revision = None

# Payloads are `json`, not `jsonb`: it keeps the order of keys and accepts \u0000, and nothing here queries inside them.
STATEMENTS = """
CREATE TABLE graphs (
    id uuid NOT NULL,
    version integer NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    name text NOT NULL,
    document json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version)
);
CREATE INDEX graphs_newest ON graphs (created_at DESC, id DESC) WHERE is_active;

CREATE TABLE runs (
    id uuid PRIMARY KEY,
    graph_id uuid NOT NULL,
    graph_version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('QUEUED', 'RUNNING', 'COMPLETED', 'TERMINATED', 'FAILED')),
    inputs json NOT NULL,
    error text,
    stop_requested boolean NOT NULL DEFAULT false,
    attempt integer NOT NULL DEFAULT 0,
    executor uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    FOREIGN KEY (graph_id, graph_version) REFERENCES graphs (id, version)
);
CREATE INDEX runs_queued ON runs (created_at, id) WHERE status = 'QUEUED';
CREATE INDEX runs_running ON runs (executor) WHERE status = 'RUNNING';
CREATE INDEX runs_newest ON runs (created_at DESC, id DESC);
CREATE INDEX runs_of_graph ON runs (graph_id, created_at DESC, id DESC);
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE run_events (
    run_id uuid NOT NULL,
    number integer NOT NULL,
    type text NOT NULL,
    data json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, number)
);

CREATE TABLE executors (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE executors, run_events, runs, graphs")
