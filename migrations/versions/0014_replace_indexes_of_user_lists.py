"""Replace the indexes of lists of users, and add the statistics that estimates need.

Eight indexes of live users serve all calls, where there were thirteen. The code before this
revision works without the others, but its ListUsers sorts all users in most orders; the page on
upgrading says how to avoid that.
"""

from collections.abc import Iterable, Mapping

from tamatar_auth.migrator.steps import Steps, steps

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Old definitions, and the new ones under the same names.
REDEFINED = {
    "idx_user_status": (
        "users (email_verified, is_active)",
        "users (email_verified, is_active, created_at, id) WHERE deleted_at IS NULL",
    ),
    "idx_user_created": (
        "users (created_at)",
        "users (created_at, id) WHERE deleted_at IS NULL",
    ),
    "idx_user_active_updated": (
        "users (is_active, updated_at)",
        "users (is_active, email_verified, updated_at, id) WHERE deleted_at IS NULL",
    ),
}

ADDED = {
    "idx_user_deleted_username": "users (username) WHERE deleted_at IS NOT NULL",
    "idx_user_deleted": "users (deleted_at) WHERE deleted_at > '-infinity'",
}

DROPPED = {
    "idx_user_email": "users (email)",
    "idx_user_username": "users (username)",
    "idx_user_live_created": "users (deleted_at, created_at, id)",
    "idx_user_live_updated": "users (deleted_at, updated_at, id)",
    "idx_user_flags_created": (
        "users (email_verified, is_active, created_at, id) WHERE deleted_at IS NULL"
    ),
    "idx_user_flags_updated": (
        "users (email_verified, is_active, updated_at, id) WHERE deleted_at IS NULL"
    ),
}

# Of a combination of flags and deletion. Alone, they would count as independent of each other.
STATISTICS = """
CREATE STATISTICS IF NOT EXISTS stat_user_status (mcv)
    ON email_verified, is_active, deleted_at FROM users
"""

# A count reads the row of each entry on a page that changed since the last VACUUM. Each sign-in
# changes a row, and by default VACUUM waits for a fifth of them.
VACUUM_SOONER = """
ALTER TABLE users SET
    (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)
"""
VACUUM_LATER = """
ALTER TABLE users RESET
    (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor)
"""


def upgrade() -> None:
    with steps() as step:
        step.unhurried(*_create(ADDED))
        _redefine(step, {name: new for name, (_, new) in REDEFINED.items()})
        step.unhurried(*_drop(DROPPED))
        step.together(STATISTICS, VACUUM_SOONER)
        step.unhurried("ANALYZE users")


def downgrade() -> None:
    with steps() as step:
        step.together("DROP STATISTICS IF EXISTS stat_user_status", VACUUM_LATER)
        step.unhurried(*_create(DROPPED))
        _redefine(step, {name: old for name, (old, _) in REDEFINED.items()})
        step.unhurried(*_drop(ADDED))


def _redefine(step: Steps, definitions: Mapping[str, str]) -> None:
    """Build indexes beside those of the same names, and swap the names."""
    step.unhurried(*_drop(f"{name}_old" for name in definitions))
    step.unhurried(*_create({f"{name}_new": columns for name, columns in definitions.items()}))
    step.together(
        *(
            f"-- squawk-ignore renaming-object\nALTER INDEX IF EXISTS {before} RENAME TO {after}"
            for name in definitions
            for before, after in ((name, f"{name}_old"), (f"{name}_new", name))
        )
    )
    step.unhurried(*_drop(f"{name}_old" for name in definitions))


def _create(definitions: Mapping[str, str]) -> list[str]:
    # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
    return [
        statement
        for name, columns in definitions.items()
        for statement in (
            f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {columns}",
        )
    ]


def _drop(names: Iterable[str]) -> list[str]:
    return [f"DROP INDEX CONCURRENTLY IF EXISTS {name}" for name in names]
