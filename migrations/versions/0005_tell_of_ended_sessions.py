"""Tell who listens of sessions that end.

By triggers: they tell in the transaction that decides it, whichever release of the code or
person ends a session, and nothing of what happens to sessions that go on.
"""

from tamatar_auth.maintenance.migration_steps import steps

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SESSION_FUNCTION = """
CREATE OR REPLACE FUNCTION sessions_tell_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tamatar_session_ends', OLD.user_id || ' ' || OLD.id);
    RETURN NULL;
END
$$
"""

USER_FUNCTION = """
CREATE OR REPLACE FUNCTION users_tell_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tamatar_session_ends', OLD.id::text);
    RETURN NULL;
END
$$
"""

# What goes all at once is no session's end: who listens takes it as a gap.
ALL_FUNCTION = """
CREATE OR REPLACE FUNCTION sessions_tell_end_of_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tamatar_session_ends', 'all');
    RETURN NULL;
END
$$
"""

# Of these columns alone, so that an update of others does not even look at them.
WHEN_ENDED = """
CREATE OR REPLACE TRIGGER sessions_tell_end
AFTER UPDATE OF is_valid, expires_at ON sessions FOR EACH ROW
WHEN (OLD.is_valid AND NOT NEW.is_valid OR NEW.expires_at < OLD.expires_at)
EXECUTE FUNCTION sessions_tell_end()
"""

# A sweep removes those that ended before.
WHEN_DELETED = """
CREATE OR REPLACE TRIGGER sessions_tell_deletion
AFTER DELETE ON sessions FOR EACH ROW WHEN (OLD.is_valid AND OLD.expires_at > now())
EXECUTE FUNCTION sessions_tell_end()
"""

WHEN_TRUNCATED = """
CREATE OR REPLACE TRIGGER sessions_tell_truncation
AFTER TRUNCATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION sessions_tell_end_of_all()
"""

WHEN_INACTIVE = """
CREATE OR REPLACE TRIGGER users_tell_end
AFTER UPDATE OF is_active ON users FOR EACH ROW WHEN (OLD.is_active AND NOT NEW.is_active)
EXECUTE FUNCTION users_tell_end()
"""


def upgrade() -> None:
    with steps() as step:
        step.together(SESSION_FUNCTION, ALL_FUNCTION, WHEN_ENDED, WHEN_DELETED, WHEN_TRUNCATED)
        step.together(USER_FUNCTION, WHEN_INACTIVE)


def downgrade() -> None:
    with steps() as step:
        step.together(
            "DROP TRIGGER IF EXISTS users_tell_end ON users",
            "DROP FUNCTION IF EXISTS users_tell_end()",
        )
        step.together(
            "DROP TRIGGER IF EXISTS sessions_tell_end ON sessions",
            "DROP TRIGGER IF EXISTS sessions_tell_deletion ON sessions",
            "DROP TRIGGER IF EXISTS sessions_tell_truncation ON sessions",
            "DROP FUNCTION IF EXISTS sessions_tell_end(), sessions_tell_end_of_all()",
        )
