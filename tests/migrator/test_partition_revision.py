"""Revision 0011, which makes the live tables the first partitions."""

import psycopg
import pytest

from tamatar_auth.migrator.migrations import Migrations
from tests.support.schema_dump import schema

BEFORE, REVISION = "0010", "0011"

USER = "INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')"

# As the release before writes them.
SESSION = """
    INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)
    SELECT gen_random_uuid(), id, sha256(gen_random_uuid()::text::bytea),
           least(now(), now() + %(life)s::interval - interval '1 day'),
           now() + %(life)s::interval
    FROM users RETURNING id
"""
TOKEN = """
    INSERT INTO replaced_tokens (token_digest, session_id)
    SELECT sha256(token_digest), id FROM sessions WHERE id = %(session)s
"""

# As after a month without sign-ins.
REVOKED_SESSION = """
    INSERT INTO sessions (
        id, user_id, token_digest, created_at, expires_at, is_valid, revoked_at
    )
    SELECT gen_random_uuid(), id, sha256(''), now() - interval '20 days',
           now() - interval '13 days', false, now() - interval '20 days'
    FROM users
"""

PARTITIONS = "SELECT tableoid::regclass::text FROM {} ORDER BY expires_at"
BOUND = """
    SELECT substring(pg_get_expr(relpartbound, oid) FROM 'TO .''(.*)''.')::timestamptz
           - (SELECT max(expires_at) FROM sessions_first)
    FROM pg_class WHERE relname = 'sessions_first'
"""
BOUND_AHEAD = """
    SELECT substring(pg_get_expr(relpartbound, oid) FROM 'TO .''(.*)''.')::timestamptz - now()
    FROM pg_class WHERE relname = 'sessions_first'
"""
DIFFERENT_ROLE = "SELECT has_table_privilege('reader', 'sessions', 'SELECT')"


class Scene:
    """A database of the release before, with a user."""

    def __init__(self, url, connection):
        self.url = url
        self.connection = connection
        self.migrations = Migrations(url)

    def value(self, statement, **values):
        row = self.connection.execute(statement, values or None).fetchone()
        return row[0] if row else None

    def start(self, life):
        """Add a session with a replaced token, and return its id."""
        session = self.value(SESSION, life=life)
        self.connection.execute(TOKEN, {"session": session})
        return session

    def partitions(self, table):
        return [name for (name,) in self.connection.execute(PARTITIONS.format(table))]


@pytest.fixture
def scene(migrated_database):
    Migrations(migrated_database).downgrade(BEFORE)
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(USER)
        yield Scene(migrated_database, connection)


def test_upgrade_keeps_rows_in_first_partitions(scene):
    scene.start("-3 days")
    scene.start("7 days")

    scene.migrations.upgrade()

    assert scene.partitions("sessions") == ["sessions_first"] * 2
    assert scene.partitions("replaced_tokens") == ["replaced_tokens_first"] * 2
    assert 7 <= scene.value(BOUND).total_seconds() / 86400 <= 8


def test_first_partition_takes_a_sign_in_after_a_quiet_month(scene):
    scene.connection.execute(REVOKED_SESSION)

    scene.migrations.upgrade()

    # The check of this bound is there before the tables are swapped, and sign-ins go on.
    assert 14 <= scene.value(BOUND_AHEAD).total_seconds() / 86400 <= 15


def test_release_before_writes_to_upgraded_tables(scene):
    scene.start("7 days")
    scene.migrations.upgrade()

    session = scene.start("8 days")
    # A week later its sessions would expire a week later.
    later = scene.start("14 days")

    assert set(scene.partitions("replaced_tokens")) == {"replaced_tokens_first"}
    found = scene.connection.execute("SELECT id FROM sessions ORDER BY expires_at").fetchall()
    assert [key for (key,) in found[1:]] == [session, later]


def test_purge_by_release_before_deletes_sessions(scene):
    scene.start("7 days")
    scene.migrations.upgrade()
    scene.start("7 days")

    scene.connection.execute("DELETE FROM users")

    assert scene.value("SELECT count(*) FROM sessions") == 0


def test_upgrade_to_partitions_keeps_privileges(scene):
    with scene.connection.transaction():
        scene.connection.execute(
            "DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        scene.connection.execute("GRANT SELECT ON sessions TO reader")

    scene.migrations.upgrade()

    assert scene.value(DIFFERENT_ROLE)
    scene.connection.execute("DROP OWNED BY reader")


@pytest.mark.parametrize("life", ["-3 days", "7 days"])
def test_partition_downgrade_and_upgrade_keep_sessions(scene, life):
    before = schema(scene.url)
    session = scene.start(life)
    scene.migrations.upgrade()
    scene.migrations.downgrade(BEFORE)

    # The column stays, because servers of the later release may run.
    kept = {entry for entry in schema(scene.url) if entry[:2] != ("replaced_tokens", "expires_at")}
    assert kept == {entry for entry in before if entry[:2] != ("replaced_tokens", "expires_at")}
    assert scene.value("SELECT id FROM sessions") == session
    assert scene.value("SELECT session_id FROM replaced_tokens") == session

    scene.migrations.upgrade()
    assert scene.partitions("sessions") == ["sessions_first"]


def test_interrupted_upgrade_to_partitions_is_repeated(scene):
    """The revision is recorded after its last step, and a killed migrator records none."""
    scene.start("7 days")
    scene.migrations.upgrade()
    expected = schema(scene.url)

    scene.connection.execute("UPDATE tamatar_auth_version SET version_num = %s", [BEFORE])
    scene.migrations.upgrade()

    assert schema(scene.url) == expected
    assert scene.partitions("sessions") == ["sessions_first"]


def test_upgrade_after_interrupted_steps_succeeds(scene):
    scene.start("7 days")
    scene.connection.execute("CREATE UNIQUE INDEX pk_sessions_first ON sessions (id)")
    scene.connection.execute(
        "ALTER TABLE sessions ADD CONSTRAINT ck_sessions_first CHECK (expires_at < 'infinity')"
    )

    scene.migrations.upgrade()

    assert scene.migrations.check() == []
    assert 7 <= scene.value(BOUND).total_seconds() / 86400 <= 8
