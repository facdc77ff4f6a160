"""Users, to whom everything belongs; their API keys; how much each has asked of the server lately."""

from alembic import op

revision = "0004"
down_revision = "0003"

# The first user is the one of a server without login, to whom everything belongs that was there before. Rows do not
# refer to `users`, of whom none is ever deleted: each run would lock that one row.
STATEMENTS = """
CREATE TABLE users (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO users (id, name) VALUES ('3e53486c-cf57-477e-ba2a-cb02dc828e1a', 'default');

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    name text NOT NULL,
    head text NOT NULL,
    tail text NOT NULL,
    hash bytea NOT NULL UNIQUE,
    permissions text[] NOT NULL,
    requests_per_minute integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_keys_of_user ON api_keys (user_id, created_at DESC, id DESC);

CREATE UNLOGGED TABLE rate_limits (
    subject text PRIMARY KEY,
    began_at timestamptz NOT NULL,
    used bigint NOT NULL
);
CREATE INDEX rate_limits_oldest ON rate_limits (began_at);

ALTER TABLE graphs
    ADD COLUMN user_id uuid NOT NULL DEFAULT '3e53486c-cf57-477e-ba2a-cb02dc828e1a';
ALTER TABLE runs
    ADD COLUMN user_id uuid NOT NULL DEFAULT '3e53486c-cf57-477e-ba2a-cb02dc828e1a';
ALTER TABLE reviews
    ADD COLUMN user_id uuid NOT NULL DEFAULT '3e53486c-cf57-477e-ba2a-cb02dc828e1a';
UPDATE kept_values SET scope = '3e53486c-cf57-477e-ba2a-cb02dc828e1a' WHERE scope = '';

DROP INDEX graphs_newest, runs_newest, runs_ended_as, reviews_newest, reviews_in;
CREATE INDEX graphs_newest ON graphs (user_id, created_at DESC, id DESC) WHERE is_active AND included_in IS NULL;
CREATE INDEX runs_newest ON runs (user_id, created_at DESC, id DESC);
CREATE INDEX runs_ended_as ON runs (user_id, status, created_at DESC, id DESC)
    WHERE status IN ('COMPLETED', 'FAILED', 'TERMINATED');
CREATE INDEX reviews_newest ON reviews (user_id, created_at DESC, id DESC);
CREATE INDEX reviews_in ON reviews (user_id, status, created_at DESC, id DESC);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX graphs_newest, runs_newest, runs_ended_as, reviews_newest, reviews_in")
    op.execute("UPDATE kept_values SET scope = '' WHERE scope = '3e53486c-cf57-477e-ba2a-cb02dc828e1a'")
    for table in ("reviews", "runs", "graphs"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN user_id")
    op.execute(
        "CREATE INDEX graphs_newest ON graphs (created_at DESC, id DESC) WHERE is_active AND included_in IS NULL"
    )
    op.execute("CREATE INDEX runs_newest ON runs (created_at DESC, id DESC)")
    op.execute(
        "CREATE INDEX runs_ended_as ON runs (status, created_at DESC, id DESC)"
        " WHERE status IN ('COMPLETED', 'FAILED', 'TERMINATED')"
    )
    op.execute("CREATE INDEX reviews_newest ON reviews (created_at DESC, id DESC)")
    op.execute("CREATE INDEX reviews_in ON reviews (status, created_at DESC, id DESC)")
    op.execute("DROP TABLE rate_limits, api_keys, users")
