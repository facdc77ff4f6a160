"""Runs that wait in the database: for a run they began, a decision, or a time; and values kept beyond a run."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A run that waits has no executor. `wake_at` is when it has to be looked at, `-infinity` once something has happened.
# `parent_waits` is set while the parent has not been told that this run has ended.
STATEMENTS = """
ALTER TABLE runs
    DROP CONSTRAINT runs_status_check,
    ADD CONSTRAINT runs_status_check
        CHECK (status IN ('QUEUED', 'RUNNING', 'REVIEW', 'COMPLETED', 'TERMINATED', 'FAILED')),
    ADD COLUMN wake_at timestamptz,
    ADD COLUMN parent_run_id uuid,
    ADD COLUMN parent_node_run integer,
    ADD COLUMN parent_waits boolean NOT NULL DEFAULT false,
    ADD COLUMN depth integer NOT NULL DEFAULT 0;
CREATE INDEX runs_to_wake ON runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_in_review ON runs (id) WHERE status = 'REVIEW';
CREATE INDEX runs_of_parent ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX runs_untold ON runs (parent_run_id) WHERE parent_waits AND ended_at IS NOT NULL;

CREATE TABLE reviews (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    node_run integer NOT NULL,
    node_id text NOT NULL,
    payload json,
    instructions text NOT NULL,
    editable boolean NOT NULL,
    status text NOT NULL DEFAULT 'WAITING' CHECK (status IN ('WAITING', 'APPROVED', 'REJECTED')),
    reviewed_data json,
    review_message text,
    was_edited boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    reviewed_at timestamptz
);
CREATE INDEX reviews_of_run ON reviews (run_id, created_at DESC, id DESC);
CREATE INDEX reviews_newest ON reviews (created_at DESC, id DESC);
CREATE INDEX reviews_waiting ON reviews (created_at DESC, id DESC) WHERE status = 'WAITING';

CREATE TABLE kept_values (
    scope text NOT NULL,
    key text NOT NULL,
    value json,
    PRIMARY KEY (scope, key)
);
CREATE TABLE kept_by (
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    node_run integer NOT NULL,
    PRIMARY KEY (run_id, node_run)
);

ALTER TABLE graphs ADD COLUMN included_in uuid;
DROP INDEX graphs_newest;
CREATE INDEX graphs_newest ON graphs (created_at DESC, id DESC) WHERE is_active AND included_in IS NULL;
WITH RECURSIVE included AS (
    SELECT graphs.id AS by, graph FROM graphs, json_array_elements(document -> 'sub_graphs') AS graph
    UNION ALL
    SELECT included.by, below FROM included, json_array_elements(graph -> 'sub_graphs') AS below
)
INSERT INTO graphs (id, version, name, document, included_in)
SELECT (graph ->> 'id')::uuid, (graph ->> 'version')::integer, graph ->> 'name', graph, included.by FROM included;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM graphs WHERE included_in IS NOT NULL")
    op.execute("ALTER TABLE graphs DROP COLUMN included_in")
    op.execute("CREATE INDEX graphs_newest ON graphs (created_at DESC, id DESC) WHERE is_active")
    op.execute("DROP TABLE kept_by, kept_values, reviews")
    op.execute("UPDATE runs SET status = 'QUEUED' WHERE executor IS NULL AND status IN ('RUNNING', 'REVIEW')")
    op.execute("DROP INDEX runs_in_review")
    op.execute(
        "ALTER TABLE runs DROP COLUMN wake_at, DROP COLUMN parent_run_id, DROP COLUMN parent_node_run,"
        " DROP COLUMN parent_waits, DROP COLUMN depth, DROP CONSTRAINT runs_status_check, ADD CONSTRAINT"
        " runs_status_check CHECK (status IN ('QUEUED', 'RUNNING', 'COMPLETED', 'TERMINATED', 'FAILED'))"
    )
