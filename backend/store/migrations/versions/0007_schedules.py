"""Schedules: when runs begin by themselves."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    pass
