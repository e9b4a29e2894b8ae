"""Add users.full_name.

A trigger derives it from the first and the last name. So the code before this revision writes
correct rows too.
"""

from tamatar_auth.migrator.steps import steps

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMN = "ALTER TABLE users ADD COLUMN IF NOT EXISTS full_name varchar(201)"

FUNCTION = """
CREATE OR REPLACE FUNCTION users_full_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.full_name := concat_ws(
        ' ', nullif(btrim(NEW.first_name), ''), nullif(btrim(NEW.last_name), '')
    );
    RETURN NEW;
END
$$
"""

TRIGGER = """
CREATE OR REPLACE TRIGGER users_full_name
BEFORE INSERT OR UPDATE OF first_name, last_name, full_name ON users
FOR EACH ROW EXECUTE FUNCTION users_full_name()
"""

# The trigger replaces the value that is written here. A batch is a range of the primary key, not
# "the next rows without a name": PostgreSQL has no statistics of a new column, so it would read
# the whole table for each batch.
BACKFILL = """
DO $$
DECLARE
    first uuid := '00000000-0000-0000-0000-000000000000';
    last uuid;
    batch bigint;
    total bigint := 0;
    reported bigint := 0;
BEGIN
    LOOP
        SELECT (array_agg(id ORDER BY id DESC))[1] INTO last
        FROM (SELECT id FROM users WHERE id >= first ORDER BY id LIMIT 1001) AS stretch;
        UPDATE users SET full_name = ''
        WHERE id BETWEEN first AND last AND full_name IS NULL;
        GET DIAGNOSTICS batch = ROW_COUNT;
        COMMIT;
        total := total + batch;
        IF total >= reported + 100000 OR (total > reported AND last = first) THEN
            RAISE INFO 'users.full_name: % rows written', total;
            reported := total;
        END IF;
        EXIT WHEN last IS NULL OR last = first;
        first := last;
    END LOOP;
END
$$
"""

NOT_NULL_CHECK = """
ALTER TABLE users
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT IF EXISTS ck_users_full_name_not_null,
    ADD CONSTRAINT ck_users_full_name_not_null CHECK (full_name IS NOT NULL) NOT VALID
"""

VALIDATION = "ALTER TABLE users VALIDATE CONSTRAINT ck_users_full_name_not_null"

# PostgreSQL relies on the validated constraint and does not read the table under the lock.
NOT_NULL = """
-- squawk-ignore prefer-robust-stmts
ALTER TABLE users ALTER full_name SET NOT NULL, ALTER full_name SET DEFAULT ''
"""

NO_CHECK = """
-- squawk-ignore ban-drop-constraint
ALTER TABLE users DROP CONSTRAINT IF EXISTS ck_users_full_name_not_null
"""


def upgrade() -> None:
    with steps() as step:
        step.together(COLUMN, FUNCTION, TRIGGER)
        step.alone(BACKFILL)
        step.together(NOT_NULL_CHECK)
        step.together(VALIDATION)
        step.together(NOT_NULL, NO_CHECK)


def downgrade() -> None:
    with steps() as step:
        step.together(
            "DROP TRIGGER IF EXISTS users_full_name ON users",
            "DROP FUNCTION IF EXISTS users_full_name()",
            "ALTER TABLE users DROP COLUMN IF EXISTS full_name",
        )
