"""Drop replaced_tokens.replaced_at, which nothing reads.

The column has a default, and no release names it in a statement. So the code before this revision
works without it, and the code after it works before the migration.
"""

from tamatar_auth.migrator.steps import steps

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with steps() as step:
        step.together(
            "-- squawk-ignore ban-drop-column\n"  # no release names it in a statement
            "ALTER TABLE replaced_tokens DROP COLUMN IF EXISTS replaced_at"
        )


def downgrade() -> None:
    with steps() as step:
        step.together(
            "ALTER TABLE replaced_tokens"
            " ADD COLUMN IF NOT EXISTS replaced_at timestamptz DEFAULT now() NOT NULL"
        )
