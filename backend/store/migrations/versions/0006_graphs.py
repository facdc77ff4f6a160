"""Graphs that have versions, are found by name, deleted, or need no person to approve."""

from alembic import op

revision = "0006"
down_revision = "0005"

# `first_at` is the time of the first version: by it graphs are listed, so that a new version moves none. A graph that
# is deleted has no active version. `text_parts` are all pieces of one to three characters: what contains a text has all
# of its pieces, so an index of them finds it. (pg_trgm does that, but is not everywhere.) Longer texts are cut, for
# their pieces take time.
STATEMENTS = """
ALTER TABLE graph_settings
    ADD COLUMN human_in_the_loop_safe_mode boolean NOT NULL DEFAULT true,
    ADD COLUMN sensitive_action_safe_mode boolean NOT NULL DEFAULT false;
ALTER TABLE graphs
    ADD COLUMN first_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN deleted_at timestamptz,
    ADD COLUMN description text NOT NULL DEFAULT '';
UPDATE graphs SET first_at = created_at;
UPDATE graphs SET description = coalesce(document ->> 'description', '')
    WHERE position('\\u0000' IN document::text) = 0;
CREATE FUNCTION text_parts(text text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(DISTINCT substr(text, at, size)), '{}')
    FROM generate_series(1, length(text)) AS at, generate_series(1, 3) AS size WHERE at + size - 1 <= length(text)
$$;
DROP INDEX graphs_newest;
CREATE INDEX graphs_newest ON graphs (user_id, first_at DESC, id DESC) WHERE is_active AND included_in IS NULL;
CREATE UNIQUE INDEX graphs_active ON graphs (id) WHERE is_active;
CREATE INDEX graphs_versions ON graphs (id, created_at DESC);
CREATE INDEX graphs_included ON graphs (included_in) WHERE included_in IS NOT NULL;
CREATE INDEX graphs_deleted ON graphs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX graphs_searched ON graphs
    USING gin (text_parts(lower(left(name, 200) || chr(10) || left(description, 500))))
    WHERE is_active AND included_in IS NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX graphs_newest, graphs_active, graphs_versions, graphs_included, graphs_deleted")
    op.execute("DROP INDEX graphs_searched")
    op.execute("DROP FUNCTION text_parts")
    op.execute(
        "ALTER TABLE graph_settings DROP COLUMN human_in_the_loop_safe_mode, DROP COLUMN sensitive_action_safe_mode"
    )
    op.execute("ALTER TABLE graphs DROP COLUMN first_at, DROP COLUMN deleted_at, DROP COLUMN description")
    op.execute(
        "CREATE INDEX graphs_newest ON graphs (user_id, created_at DESC, id DESC)"
        " WHERE is_active AND included_in IS NULL"
    )
