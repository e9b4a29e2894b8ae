"""Reserve password attempts: add the checks in progress to password_attempts.

The columns have defaults, so the code before this revision works with them. It counts the failures
of a user in the same row, before it checks the password. The downgrade keeps the columns, because
servers of the later release may still run.
"""

from tamatar_auth.migrator.steps import steps

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with steps() as step:
        step.together(
            "ALTER TABLE password_attempts"
            " ADD COLUMN IF NOT EXISTS pending integer DEFAULT 0 NOT NULL,"
            " ADD COLUMN IF NOT EXISTS pending_until timestamptz DEFAULT now() NOT NULL"
        )


def downgrade() -> None:
    pass
