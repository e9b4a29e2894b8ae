"""Keep the ends of sessions in a table, session_ends, which the servers read four times a second.

The triggers of revision 0005 write a row instead of a notification. They still notify while a
server of the release before listens. The table is not logged, so its rows add nothing to the WAL,
and a crash or a failover empties it with session_end_log: servers recognise that by its epoch.
"""

from tamatar_auth.migrator.steps import steps

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Without a user, all sessions may have ended. The index lets readers find new rows, and lets
# remove_session_ends find old ones.
ENDS = """
CREATE UNLOGGED TABLE IF NOT EXISTS session_ends (
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    user_id uuid,
    session_id uuid
)
"""

INDEX = "CREATE INDEX IF NOT EXISTS idx_session_end_xid ON session_ends (xid)"

# Its one row: rows of transactions before `removed_before` may be missing, those of transactions
# before `removed_to` are, and those of transactions before `marked` will be removed next.
LOG = """
CREATE UNLOGGED TABLE IF NOT EXISTS session_end_log (
    id boolean DEFAULT true NOT NULL CONSTRAINT pk_session_end_log PRIMARY KEY
        CONSTRAINT ck_session_end_log_one_row CHECK (id),
    epoch uuid DEFAULT gen_random_uuid() NOT NULL,
    removed_before xid8 DEFAULT '0' NOT NULL,
    removed_to xid8 DEFAULT '0' NOT NULL,
    marked xid8 DEFAULT pg_snapshot_xmin(pg_current_snapshot()) NOT NULL,
    marked_at timestamptz DEFAULT now() NOT NULL
)
"""

# A server of the release before holds the 64 locks in shared mode while it listens. A transaction
# that gets one of them exclusively knows that none listens, and that none starts before it ends.
FUNCTION = """
CREATE OR REPLACE FUNCTION tell_session_end() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    payload text := 'all';
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO session_ends DEFAULT VALUES;
    ELSIF TG_TABLE_NAME = 'users' THEN
        payload := OLD.id;
        INSERT INTO session_ends (user_id) VALUES (OLD.id);
    ELSE
        payload := OLD.user_id || ' ' || OLD.id;
        INSERT INTO session_ends (user_id, session_id) VALUES (OLD.user_id, OLD.id);
    END IF;
    IF NOT pg_try_advisory_xact_lock(1953330277, pg_backend_pid() % 64) THEN
        PERFORM pg_notify('tamatar_session_ends', payload);
    END IF;
    RETURN NULL;
END
$$
"""

# The number of the lock is AdvisoryLock.SESSION_ENDS. A scan begins at `removed_to`, because
# removed rows stay in the index while any old snapshot may see them.
REMOVAL = """
CREATE OR REPLACE FUNCTION remove_session_ends(most integer) RETURNS bigint LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    removed bigint;
    last xid8;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1953330290, 3) THEN
        RETURN 0;
    END IF;
    INSERT INTO session_end_log DEFAULT VALUES ON CONFLICT DO NOTHING;
    UPDATE session_end_log
    SET removed_before = marked, marked = pg_snapshot_xmin(pg_current_snapshot()), marked_at = now()
    WHERE marked_at < now() - interval '10 s';
    WITH gone AS (
        DELETE FROM session_ends WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM session_ends
            WHERE xid >= (SELECT removed_to FROM session_end_log)
              AND xid < (SELECT removed_before FROM session_end_log)
            ORDER BY xid LIMIT most
        )) RETURNING xid
    ) SELECT count(*), max(xid) INTO removed, last FROM gone;
    UPDATE session_end_log
    SET removed_to = CASE WHEN removed = most THEN last ELSE removed_before END
    WHERE removed > 0;
    RETURN removed;
END
$$
"""

FORMER_FUNCTION = """
CREATE OR REPLACE FUNCTION tell_session_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payload text := 'all';
BEGIN
    IF TG_OP <> 'TRUNCATE' AND TG_TABLE_NAME = 'users' THEN
        payload := OLD.id;
    ELSIF TG_OP <> 'TRUNCATE' THEN
        payload := OLD.user_id || ' ' || OLD.id;
    END IF;
    IF NOT pg_try_advisory_xact_lock(1953330277, pg_backend_pid() % 64) THEN
        PERFORM pg_notify('tamatar_session_ends', payload);
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    with steps() as step:
        step.together(ENDS, INDEX, LOG)
        step.together(FUNCTION, REMOVAL)
        # Each waits for the transactions that may have run the former function. Afterwards every
        # end that commits has a row.
        step.together("LOCK TABLE sessions IN SHARE MODE")
        step.together("LOCK TABLE users IN SHARE MODE")


def downgrade() -> None:
    with steps() as step:
        step.together(
            FORMER_FUNCTION,
            "DROP FUNCTION IF EXISTS remove_session_ends(integer)",
        )
        step.together("DROP TABLE IF EXISTS session_ends", "DROP TABLE IF EXISTS session_end_log")
