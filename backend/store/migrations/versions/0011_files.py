"""Files that belong to users."""

from alembic import op

revision = "0011"
down_revision = "0010"

# What is in a file has an id of its own: a file that is replaced keeps its own, and whoever is reading the old content
# sees that it goes away, and no mixture.
STATEMENTS = """
CREATE TABLE files (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    content uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE INDEX files_newest ON files (user_id, created_at DESC, id DESC);
CREATE INDEX files_by_name ON files (user_id, name);
CREATE INDEX files_to_expire ON files (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE file_chunks (
    content uuid NOT NULL,
    number integer NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (content, number)
);
ALTER TABLE file_chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE file_chunks, files")
