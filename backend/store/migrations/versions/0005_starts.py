"""What is said of a run when it is started, and by which it is found and shared."""

from alembic import op

revision = "0005"
down_revision = "0004"

# A label is `key:value`. It is kept with the time of its run, so that the runs of a label are read newest first; few
# runs wait long before they start, and those are found by `runs_late`.
STATEMENTS = """
ALTER TABLE runs
    ADD COLUMN labels json,
    ADD COLUMN share_token text,
    ADD COLUMN request_id text;
CREATE UNIQUE INDEX runs_shared ON runs (share_token) WHERE share_token IS NOT NULL;
CREATE INDEX runs_reruns ON runs (rerun_of) WHERE rerun_of IS NOT NULL;
CREATE INDEX runs_late ON runs (user_id, created_at DESC, id DESC)
    WHERE started_at - created_at > interval '1 minute';

CREATE TABLE run_labels (
    user_id uuid NOT NULL,
    graph_id uuid NOT NULL,
    label text NOT NULL,
    created_at timestamptz NOT NULL,
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    PRIMARY KEY (run_id, label)
);
CREATE INDEX run_labels_newest ON run_labels (user_id, label, created_at DESC, run_id DESC);
CREATE INDEX run_labels_of_graph ON run_labels (graph_id, label, created_at DESC, run_id DESC);

CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL,
    key text NOT NULL,
    request bytea NOT NULL,
    run_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_oldest ON idempotency_keys (created_at);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys, run_labels")
    op.execute("DROP INDEX runs_late, runs_reruns, runs_shared")
    op.execute("ALTER TABLE runs DROP COLUMN labels, DROP COLUMN share_token, DROP COLUMN request_id")
