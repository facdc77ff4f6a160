"""Runs that are paused, limited, preferred, or begin with what another has done; large values apart from events."""

from alembic import op

revision = "0003"
down_revision = "0002"

# The queue: what is below other runs comes first, for those wait for it. The `limited` runs of a graph have a queue of
# their own; runs below others are never limited. A run takes a place from when it is claimed until it ends, rests, or
# waits for a person.
STATEMENTS = """
ALTER TABLE runs
    ADD COLUMN priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN rerun_of uuid,
    ADD COLUMN input_masks json,
    ADD COLUMN concurrency_key text,
    ADD COLUMN concurrency_limit integer,
    ADD COLUMN limited boolean NOT NULL DEFAULT false,
    ADD COLUMN has_place boolean NOT NULL DEFAULT false,
    ADD COLUMN node_runs integer;
DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (depth DESC, priority DESC, created_at, id)
    WHERE status = 'QUEUED' AND NOT paused AND NOT limited;
CREATE INDEX runs_limited ON runs (graph_id, priority DESC, created_at, id)
    WHERE status = 'QUEUED' AND NOT paused AND limited;
CREATE INDEX runs_with_place ON runs (graph_id) WHERE has_place;
CREATE INDEX runs_paused ON runs (id) WHERE paused;
CREATE INDEX runs_ended_as ON runs (status, created_at DESC, id DESC)
    WHERE status IN ('COMPLETED', 'FAILED', 'TERMINATED');
CREATE INDEX runs_of_graph_ended_as ON runs (graph_id, status, created_at DESC, id DESC)
    WHERE status IN ('COMPLETED', 'FAILED', 'TERMINATED');
DROP INDEX reviews_waiting;
CREATE INDEX reviews_in ON reviews (status, created_at DESC, id DESC);

CREATE TABLE graph_settings (
    graph_id uuid PRIMARY KEY,
    max_concurrent_runs integer CHECK (max_concurrent_runs > 0)
);

CREATE TABLE run_values (
    run_id uuid NOT NULL,
    hash text NOT NULL,
    value json NOT NULL,
    PRIMARY KEY (run_id, hash)
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE graph_settings, run_values")
    op.execute(
        "DROP INDEX runs_queued, runs_limited, runs_with_place, runs_paused, runs_ended_as, runs_of_graph_ended_as,"
        " reviews_in"
    )
    op.execute("CREATE INDEX reviews_waiting ON reviews (created_at DESC, id DESC) WHERE status = 'WAITING'")
    op.execute("UPDATE runs SET status = 'TERMINATED', ended_at = now() WHERE paused AND ended_at IS NULL")
    op.execute(
        "ALTER TABLE runs DROP COLUMN priority, DROP COLUMN paused, DROP COLUMN rerun_of, DROP COLUMN input_masks,"
        " DROP COLUMN concurrency_key, DROP COLUMN concurrency_limit, DROP COLUMN limited, DROP COLUMN has_place,"
        " DROP COLUMN node_runs"
    )
    op.execute("CREATE INDEX runs_queued ON runs (created_at, id) WHERE status = 'QUEUED'")
