"""Index lists of users and sessions.

Each combination of filter and order of ListUsers has an index in that order. The sessions of a
user have one too.
"""

from tamatar_auth.migrator.steps import steps

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_user_live_created": "users (deleted_at, created_at, id)",
    "idx_user_live_updated": "users (deleted_at, updated_at, id)",
    "idx_user_flags_created": (
        "users (email_verified, is_active, created_at, id) WHERE deleted_at IS NULL"
    ),
    "idx_user_flags_updated": (
        "users (email_verified, is_active, updated_at, id) WHERE deleted_at IS NULL"
    ),
    "idx_user_flags_email": (
        "users (email_verified, is_active, email, id) WHERE deleted_at IS NULL"
    ),
    "idx_user_deleted_created": "users (created_at, id) WHERE deleted_at IS NOT NULL",
    "idx_user_deleted_updated": "users (updated_at, id) WHERE deleted_at IS NOT NULL",
    "idx_user_deleted_email": "users (email, id) WHERE deleted_at IS NOT NULL",
    "idx_session_user_created": "sessions (user_id, created_at, id)",
}


def upgrade() -> None:
    with steps() as step:
        for name, columns in INDEXES.items():
            step.unhurried(
                # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
                f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {columns}",
            )


def downgrade() -> None:
    with steps() as step:
        step.unhurried(*(f"DROP INDEX CONCURRENTLY IF EXISTS {name}" for name in INDEXES))
