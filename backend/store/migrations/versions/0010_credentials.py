"""Credentials, encrypted."""

from alembic import op

revision = "0010"
down_revision = "0009"

# `runs.credentials` are references by slot, never secrets.
STATEMENTS = """
CREATE TABLE credentials (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    provider text NOT NULL,
    type text NOT NULL,
    title text,
    username text,
    host text,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX credentials_newest ON credentials (user_id, created_at DESC, id DESC);
CREATE INDEX credentials_by_provider ON credentials (user_id, provider, created_at DESC, id DESC);
ALTER TABLE runs ADD COLUMN credentials json;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE runs DROP COLUMN credentials")
    op.execute("DROP TABLE credentials")
