"""Add user_tokens.new_email, the address that a token of CreateEmailChange sets.

The code before this revision writes no such tokens, and leaves the column NULL. The code after it
names the column for such tokens only, so all other calls work before the migration.
"""

from tamatar_auth.migrator.steps import steps

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMN = 'ALTER TABLE user_tokens ADD COLUMN IF NOT EXISTS new_email varchar(255) COLLATE "C"'

CHECK = """
ALTER TABLE user_tokens
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT IF EXISTS ck_user_tokens_new_email_of_change,
    ADD CONSTRAINT ck_user_tokens_new_email_of_change
        CHECK ((new_email IS NOT NULL) = (purpose = 'email_change')) NOT VALID
"""

VALIDATION = "ALTER TABLE user_tokens VALIDATE CONSTRAINT ck_user_tokens_new_email_of_change"


def upgrade() -> None:
    with steps() as step:
        step.together(COLUMN, CHECK)
        step.together(VALIDATION)


def downgrade() -> None:
    with steps() as step:
        step.together(
            # Without their address these tokens would break the constraint of a later upgrade.
            "DELETE FROM user_tokens WHERE purpose = 'email_change'",
            "ALTER TABLE user_tokens DROP COLUMN IF EXISTS new_email",  # with its constraint
        )
