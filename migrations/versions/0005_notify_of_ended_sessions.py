"""Notify listeners of sessions that end.

Triggers send the notification in the transaction that ends a session, whichever release or
operator ends it. Changes of sessions that stay valid send nothing.
"""

from tamatar_auth.migrator.steps import steps

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Transactions with a NOTIFY commit one at a time, so none is sent without a listener. A listener
# holds all 64 locks in shared mode. A transaction that gets one of them exclusively knows that no
# listener exists, and that none can start before it ends: a listener waits for the lock first.
# A TRUNCATE sends 'all', which is no session's end: listeners treat it as a gap.
FUNCTION = """
CREATE OR REPLACE FUNCTION tell_session_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told text := 'all';
BEGIN
    IF pg_try_advisory_xact_lock(1953330277, pg_backend_pid() % 64) THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'TRUNCATE' AND TG_TABLE_NAME = 'users' THEN
        told := OLD.id;
    ELSIF TG_OP <> 'TRUNCATE' THEN
        told := OLD.user_id || ' ' || OLD.id;
    END IF;
    PERFORM pg_notify('tamatar_session_ends', told);
    RETURN NULL;
END
$$
"""

# Limited to these columns, so that other updates do not evaluate the condition.
WHEN_ENDED = """
CREATE OR REPLACE TRIGGER sessions_tell_end
AFTER UPDATE OF is_valid, expires_at ON sessions FOR EACH ROW
WHEN (OLD.is_valid AND NOT NEW.is_valid OR NEW.expires_at < OLD.expires_at)
EXECUTE FUNCTION tell_session_end()
"""

# Not for sessions that had ended before a sweep removes them.
WHEN_DELETED = """
CREATE OR REPLACE TRIGGER sessions_tell_deletion
AFTER DELETE ON sessions FOR EACH ROW WHEN (OLD.is_valid AND OLD.expires_at > now())
EXECUTE FUNCTION tell_session_end()
"""

WHEN_TRUNCATED = """
CREATE OR REPLACE TRIGGER sessions_tell_truncation
AFTER TRUNCATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION tell_session_end()
"""

WHEN_INACTIVE = """
CREATE OR REPLACE TRIGGER users_tell_end
AFTER UPDATE OF is_active ON users FOR EACH ROW WHEN (OLD.is_active AND NOT NEW.is_active)
EXECUTE FUNCTION tell_session_end()
"""


def upgrade() -> None:
    with steps() as step:
        step.together(FUNCTION, WHEN_ENDED, WHEN_DELETED, WHEN_TRUNCATED)
        step.together(WHEN_INACTIVE)


def downgrade() -> None:
    with steps() as step:
        step.together("DROP TRIGGER IF EXISTS users_tell_end ON users")
        step.together(
            "DROP TRIGGER IF EXISTS sessions_tell_end ON sessions",
            "DROP TRIGGER IF EXISTS sessions_tell_deletion ON sessions",
            "DROP TRIGGER IF EXISTS sessions_tell_truncation ON sessions",
            "DROP FUNCTION IF EXISTS tell_session_end()",
        )
