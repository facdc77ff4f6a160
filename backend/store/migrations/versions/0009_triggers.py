"""Triggers in, and what was delivered to them."""

from alembic import op

revision = "0009"
down_revision = "0008"

# A delivery that is no longer `shown` is kept for its `key` alone, by which one that comes again is known.
STATEMENTS = """
CREATE TABLE triggers (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    graph_id uuid NOT NULL,
    graph_version integer,
    inputs json NOT NULL,
    credentials json NOT NULL,
    payload_input text,
    kind text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX triggers_newest ON triggers (user_id, created_at DESC, id DESC);
CREATE INDEX triggers_of_graph ON triggers (graph_id, created_at DESC, id DESC);

CREATE TABLE trigger_deliveries (
    id uuid PRIMARY KEY,
    trigger_id uuid NOT NULL REFERENCES triggers ON DELETE CASCADE,
    key text,
    headers json NOT NULL,
    body bytea NOT NULL,
    size integer NOT NULL,
    outcome text NOT NULL,
    run_id uuid,
    error text,
    replay_of uuid,
    shown boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX trigger_deliveries_shown ON trigger_deliveries (trigger_id, created_at DESC, id DESC) WHERE shown;
CREATE INDEX trigger_deliveries_remembered ON trigger_deliveries (trigger_id, created_at) WHERE NOT shown;
CREATE INDEX trigger_deliveries_by_key ON trigger_deliveries (trigger_id, key) WHERE key IS NOT NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE trigger_deliveries, triggers")
