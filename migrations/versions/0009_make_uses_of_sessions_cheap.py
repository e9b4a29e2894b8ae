"""Make uses of sessions cheap: idx_session_activity becomes a BRIN index, pages keep free space.

An update of last_activity_at then writes no index and stays on its page (HOT) from PostgreSQL 16
on. The code before this revision works with the new index: its sweep of idle sessions alone reads
it.
"""

from tamatar_auth.migrator.steps import steps

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NEW, OLD = "idx_session_activity_new", "idx_session_activity"


def replacement(columns: str) -> tuple[str, ...]:
    """Return the statements that replace the index by one of this kind and columns."""
    return (
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        f"DROP INDEX CONCURRENTLY IF EXISTS {NEW}",
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {NEW} ON sessions USING {columns}",
        f"DROP INDEX CONCURRENTLY IF EXISTS {OLD}",
        f"-- squawk-ignore renaming-object\nALTER INDEX IF EXISTS {NEW} RENAME TO {OLD}",
    )


def upgrade() -> None:
    with steps() as step:
        step.together("ALTER TABLE sessions SET (fillfactor = 80)")
        step.unhurried(*replacement("brin (last_activity_at)"))


def downgrade() -> None:
    with steps() as step:
        step.unhurried(*replacement("btree (last_activity_at)"))
        step.together("ALTER TABLE sessions RESET (fillfactor)")
