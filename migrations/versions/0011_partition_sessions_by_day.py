"""Partition sessions and replaced_tokens by the day on which a session expires.

The live tables become the first partitions, so no row moves. The code before this revision works
with the new tables: its rows of replaced_tokens go to the first partition. The first partition of
sessions ends a week after the last session expires, or would expire if it began now. So its check
refuses no session of that code.
There are no foreign keys, because each new or dropped partition would lock the table they
reference: a trigger of users deletes the sessions of a purged user.
"""

from alembic import op
from sqlalchemy import text

from tamatar_auth.migrator.steps import steps

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMN = """
ALTER TABLE replaced_tokens
    ADD COLUMN IF NOT EXISTS expires_at timestamptz DEFAULT '-infinity' NOT NULL
"""

DELETE_SESSIONS = """
CREATE OR REPLACE FUNCTION users_delete_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sessions WHERE user_id = OLD.id;
    RETURN NULL;
END
$$
"""

WHEN_PURGED = """
CREATE OR REPLACE TRIGGER users_delete_sessions AFTER DELETE ON users
FOR EACH ROW EXECUTE FUNCTION users_delete_sessions()
"""

# A new partition is created apart and then attached, because CREATE TABLE ... PARTITION OF would
# lock out all statements on the parent. Days are 24 hours long in UTC, in every time zone.
# Rows that are deleted at once reserve pages, which VACUUM does not give back. In a partition of a
# few pages the plans of prepared statements would read the whole partition, and would go on doing
# so while it grows, until it is analyzed.
MAKE_DAYS = """
CREATE OR REPLACE FUNCTION make_session_days(until timestamptz, width integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    parent text;
    child text;
    first timestamptz;
BEGIN
    FOREACH parent IN ARRAY ARRAY['sessions', 'replaced_tokens'] LOOP
        first := session_days_end(parent);
        CONTINUE WHEN first >= until;
        EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', parent);
        first := greatest(session_days_end(parent), date_trunc('day', now(), 'UTC'));
        WHILE first < until LOOP
            child := parent || to_char(first AT TIME ZONE 'UTC', '_YYYYMMDD');
            EXECUTE format(
                'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
                ' WITH (fillfactor = 10, vacuum_truncate = false,'
                ' autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)',
                child, parent
            );
            EXECUTE format(
                CASE parent WHEN 'sessions' THEN
                    'INSERT INTO %I (id, user_id, token_digest, created_at, expires_at, user_agent)'
                    ' SELECT gen_random_uuid(), gen_random_uuid(), sha256(n::text::bytea),'
                    ' ''-infinity'', %L, repeat(''-'', 512) FROM generate_series(1, 16) n'
                ELSE
                    'INSERT INTO %I (token_digest, session_id, expires_at)'
                    ' SELECT sha256(n::text::bytea), gen_random_uuid(), %L'
                    ' FROM generate_series(1, 160) n'
                END, child, first
            );
            EXECUTE format('DELETE FROM %I', child);
            EXECUTE format(
                'ALTER TABLE %I SET (fillfactor = %s)',
                child, CASE parent WHEN 'sessions' THEN 80 ELSE 100 END
            );
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, child, first, first + make_interval(hours => 24 * width)
            );
            first := first + make_interval(hours => 24 * width);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$
"""

DAYS_END = r"""
CREATE OR REPLACE FUNCTION session_days_end(parent text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT max(substring(pg_get_expr(relpartbound, oid) FROM 'TO \(''(.*)''\)')::timestamptz)
    FROM pg_inherits JOIN pg_class ON oid = inhrelid
    WHERE inhparent = parent::regclass AND NOT inhdetachpending
$$
"""

NO_FOREIGN_KEYS = """
ALTER TABLE replaced_tokens
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT IF EXISTS fk_replaced_tokens_session_id_sessions;
ALTER TABLE sessions
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT IF EXISTS fk_sessions_user_id_users
"""

# Of the live tables, which become the first partitions. The B-tree on expires_at stays there for
# the sweep. The partitions of days have a BRIN index instead: a statement that names the day of a
# token would else read the whole day along the B-tree.
INDEXES = {
    "pk_sessions_first": "UNIQUE INDEX {} ON sessions (id, expires_at)",
    "uq_sessions_first_token_digest": "UNIQUE INDEX {} ON sessions (token_digest, expires_at)",
    "uq_sessions_first_previous_digest": (
        "UNIQUE INDEX {} ON sessions (previous_digest, expires_at)"
        " WHERE previous_digest IS NOT NULL"
    ),
    "idx_session_first_day": "INDEX {} ON sessions USING brin (expires_at)",
    "pk_replaced_tokens_first": "UNIQUE INDEX {} ON replaced_tokens (token_digest, expires_at)",
}

# Without a session there is nothing to wait for: PARTITIONS then ends the partition today.
CHECKS = """
DO $$
DECLARE
    bound timestamptz := (
        SELECT date_trunc('day', latest + interval '8 days', 'UTC')
        FROM sessions, greatest(expires_at, now() + (expires_at - created_at)) AS latest
        ORDER BY expires_at DESC LIMIT 1
    );
BEGIN
    IF bound IS NOT NULL THEN
        EXECUTE format(
            'ALTER TABLE sessions DROP CONSTRAINT IF EXISTS ck_sessions_first,'
            ' ADD CONSTRAINT ck_sessions_first CHECK (expires_at < %L) NOT VALID', bound
        );
        EXECUTE format(
            'ALTER TABLE replaced_tokens DROP CONSTRAINT IF EXISTS ck_replaced_tokens_first,'
            ' ADD CONSTRAINT ck_replaced_tokens_first CHECK (expires_at < %L) NOT VALID', bound
        );
    END IF;
END
$$
"""

VALIDATION = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint WHERE conname = 'ck_{table}_first'
               AND conrelid = '{table}'::regclass) THEN
        ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_first;
    END IF;
END
$$
"""

# The validated checks spare ATTACH PARTITION the reading of the tables. The triggers move from
# the first partition to the parent, whose partitions inherit them.
PARTITIONS = r"""
DO $$
DECLARE
    bound timestamptz;
    lifetime interval;
    triggers text[];
    command text;
    given record;
BEGIN
    LOCK TABLE sessions, replaced_tokens IN ACCESS EXCLUSIVE MODE;
    SELECT substring(pg_get_constraintdef(oid) FROM '''(.*)''')::timestamptz INTO bound
    FROM pg_constraint WHERE conname = 'ck_sessions_first';
    SELECT coalesce(
               bound, date_trunc('day', max(expires_at) + interval '8 days', 'UTC'),
               date_trunc('day', now(), 'UTC')
           )
    INTO bound FROM sessions;
    SELECT expires_at - created_at INTO lifetime FROM sessions ORDER BY expires_at DESC LIMIT 1;
    SELECT array_agg(pg_get_triggerdef(oid)) INTO triggers
    FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal;
    FOR command IN
        SELECT format('DROP TRIGGER %I ON sessions', tgname)
        FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal
    LOOP
        EXECUTE command;
    END LOOP;

    ALTER TABLE sessions DROP CONSTRAINT pk_sessions;
    DROP INDEX uq_sessions_token_digest, uq_sessions_previous_digest;
    ALTER TABLE sessions ADD CONSTRAINT pk_sessions_first PRIMARY KEY USING INDEX pk_sessions_first;
    ALTER TABLE replaced_tokens DROP CONSTRAINT pk_replaced_tokens;
    ALTER TABLE replaced_tokens
        ADD CONSTRAINT pk_replaced_tokens_first PRIMARY KEY USING INDEX pk_replaced_tokens_first;
    ALTER INDEX idx_session_user_valid RENAME TO idx_session_first_user_valid;
    ALTER INDEX idx_session_user_created RENAME TO idx_session_first_user_created;
    ALTER INDEX idx_session_expires RENAME TO idx_session_first_expires;
    ALTER INDEX idx_session_activity RENAME TO idx_session_first_activity;
    ALTER INDEX idx_session_revoked RENAME TO idx_session_first_revoked;
    ALTER TABLE sessions RENAME TO sessions_first;
    ALTER TABLE replaced_tokens RENAME TO replaced_tokens_first;

    CREATE TABLE sessions (LIKE sessions_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (expires_at);
    ALTER TABLE sessions DROP CONSTRAINT IF EXISTS ck_sessions_first;
    ALTER TABLE sessions ADD CONSTRAINT pk_sessions PRIMARY KEY (id, expires_at);
    CREATE UNIQUE INDEX uq_sessions_token_digest ON sessions (token_digest, expires_at);
    CREATE UNIQUE INDEX uq_sessions_previous_digest ON sessions (previous_digest, expires_at)
        WHERE previous_digest IS NOT NULL;
    CREATE INDEX idx_session_user_valid ON sessions (user_id, is_valid, expires_at);
    CREATE INDEX idx_session_user_created ON sessions (user_id, created_at, id);
    CREATE INDEX idx_session_expires ON sessions USING brin (expires_at);
    CREATE INDEX idx_session_activity ON sessions USING brin (last_activity_at);
    CREATE INDEX idx_session_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
    CREATE TABLE replaced_tokens (
        LIKE replaced_tokens_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS
    ) PARTITION BY RANGE (expires_at);
    ALTER TABLE replaced_tokens DROP CONSTRAINT IF EXISTS ck_replaced_tokens_first;
    ALTER TABLE replaced_tokens
        ADD CONSTRAINT pk_replaced_tokens PRIMARY KEY (token_digest, expires_at);

    FOR given IN
        SELECT replace(relname, '_first', '') AS name, privilege_type AS privilege,
               CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
        FROM pg_class, aclexplode(relacl)
        WHERE oid IN ('sessions_first'::regclass, 'replaced_tokens_first'::regclass)
          AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
    LOOP
        EXECUTE format('GRANT %s ON %I TO %s', given.privilege, given.name, given.role);
    END LOOP;

    EXECUTE format(
        'ALTER TABLE sessions ATTACH PARTITION sessions_first'
        ' FOR VALUES FROM (MINVALUE) TO (%L)', bound
    );
    EXECUTE format(
        'ALTER TABLE replaced_tokens ATTACH PARTITION replaced_tokens_first'
        ' FOR VALUES FROM (MINVALUE) TO (%L)', bound
    );
    ALTER TABLE sessions_first DROP CONSTRAINT IF EXISTS ck_sessions_first;
    ALTER TABLE replaced_tokens_first DROP CONSTRAINT IF EXISTS ck_replaced_tokens_first;
    IF triggers IS NOT NULL THEN
        FOREACH command IN ARRAY triggers LOOP
            EXECUTE command;
        END LOOP;
    END IF;
    PERFORM make_session_days(
        greatest(bound, now() + coalesce(lifetime, interval '7 days')) + interval '7 days', 1
    );
END
$$
"""

# Calls wait until the rows are copied, so this is for releases that are withdrawn for good.
ONE_TABLE = """
DO $$
DECLARE
    triggers text[];
    command text;
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'sessions'::regclass) = 'r' THEN
        RETURN;
    END IF;
    LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE sessions, replaced_tokens IN ACCESS EXCLUSIVE MODE;
    SELECT array_agg(pg_get_triggerdef(oid)) INTO triggers
    FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal;
    CREATE TABLE sessions_whole (LIKE sessions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
        WITH (fillfactor = 80);
    CREATE TABLE replaced_tokens_whole (
        LIKE replaced_tokens INCLUDING DEFAULTS INCLUDING CONSTRAINTS
    );
    INSERT INTO sessions_whole
    SELECT * FROM sessions WHERE EXISTS (SELECT FROM users WHERE users.id = user_id);
    INSERT INTO replaced_tokens_whole
    SELECT * FROM replaced_tokens
    WHERE EXISTS (SELECT FROM sessions_whole WHERE sessions_whole.id = session_id);
    DROP TABLE replaced_tokens, sessions;
    ALTER TABLE sessions_whole RENAME TO sessions;
    ALTER TABLE replaced_tokens_whole RENAME TO replaced_tokens;
    ALTER TABLE sessions
        ADD CONSTRAINT pk_sessions PRIMARY KEY (id),
        ADD CONSTRAINT fk_sessions_user_id_users
            FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
    CREATE UNIQUE INDEX uq_sessions_token_digest ON sessions (token_digest);
    CREATE UNIQUE INDEX uq_sessions_previous_digest ON sessions (previous_digest)
        WHERE previous_digest IS NOT NULL;
    CREATE INDEX idx_session_user_valid ON sessions (user_id, is_valid, expires_at);
    CREATE INDEX idx_session_user_created ON sessions (user_id, created_at, id);
    CREATE INDEX idx_session_expires ON sessions (expires_at);
    CREATE INDEX idx_session_activity ON sessions USING brin (last_activity_at);
    CREATE INDEX idx_session_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
    ALTER TABLE replaced_tokens
        ADD CONSTRAINT pk_replaced_tokens PRIMARY KEY (token_digest),
        ADD CONSTRAINT fk_replaced_tokens_session_id_sessions
            FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE;
    CREATE INDEX idx_replaced_token_session ON replaced_tokens (session_id);
    IF triggers IS NOT NULL THEN
        FOREACH command IN ARRAY triggers LOOP
            EXECUTE command;
        END LOOP;
    END IF;
    DROP TRIGGER users_delete_sessions ON users;
    DROP FUNCTION users_delete_sessions();
    DROP FUNCTION make_session_days(timestamptz, integer);
    DROP FUNCTION session_days_end(text);
END
$$
"""

_IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = 'sessions'::regclass"


def is_partitioned() -> bool:
    """Return whether an interrupted migration has replaced the tables already."""
    if op.get_context().as_sql:
        return False
    return bool(op.get_bind().execute(text(_IS_PARTITIONED)).scalar_one())


def upgrade() -> None:
    with steps() as step:
        if is_partitioned():
            return
        step.together(COLUMN, DELETE_SESSIONS, DAYS_END, MAKE_DAYS)
        step.together(WHEN_PURGED, *NO_FOREIGN_KEYS.split(";"))
        for name, index in INDEXES.items():
            step.unhurried(
                # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
                f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
                f"CREATE {index.format(f'CONCURRENTLY IF NOT EXISTS {name}')}",
            )
        step.together(CHECKS)
        for table in ("sessions", "replaced_tokens"):
            step.together(VALIDATION.format(table=table))
        step.together(PARTITIONS)


def downgrade() -> None:
    # The column replaced_tokens.expires_at stays, because servers of the later release may run.
    with steps() as step:
        step.together(ONE_TABLE)
        step.together("ANALYZE sessions", "ANALYZE replaced_tokens")
