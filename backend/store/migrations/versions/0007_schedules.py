"""Schedules: when runs begin by themselves."""

from alembic import op

revision = "0007"
down_revision = "0006"

# `next_run_at` is null when nothing is to come. `advanced_at` is when, by the clock of that moment, it was reckoned.
STATEMENTS = """
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    graph_id uuid NOT NULL,
    graph_version integer,
    cron text,
    run_at timestamptz,
    timezone text NOT NULL,
    inputs json NOT NULL,
    credentials json NOT NULL,
    misfire text NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    next_run_at timestamptz,
    advanced_at timestamptz NOT NULL DEFAULT now(),
    last_run_at timestamptz,
    last_run_id uuid,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((cron IS NULL) <> (run_at IS NULL))
);
CREATE INDEX schedules_newest ON schedules (user_id, created_at DESC, id DESC);
CREATE INDEX schedules_of_graph ON schedules (graph_id, created_at DESC, id DESC);
CREATE INDEX schedules_due ON schedules (next_run_at) WHERE next_run_at IS NOT NULL AND NOT paused;
CREATE INDEX schedules_advanced ON schedules (advanced_at) WHERE next_run_at IS NOT NULL AND NOT paused;

ALTER TABLE runs ADD COLUMN schedule_id uuid;
CREATE INDEX runs_of_schedule ON runs (schedule_id, created_at DESC, id DESC) WHERE schedule_id IS NOT NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE runs DROP COLUMN schedule_id")
    op.execute("DROP TABLE schedules")
