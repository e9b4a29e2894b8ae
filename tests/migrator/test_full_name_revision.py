"""Revision 0002: users.full_name is added beside live traffic."""

import contextlib
import itertools
import re
import threading

import psycopg
import pytest
from alembic.runtime.migration import MigrationContext
from psycopg import errors

from tamatar_auth.migrator import steps as migration_steps
from tamatar_auth.migrator.migrations import MigrationError, Migrations
from tamatar_auth.migrator.steps import Steps
from tests.support.schema_dump import schema

NAMES = [
    ("Ada", "Lovelace", "Ada Lovelace"),
    ("Ada", None, "Ada"),
    (None, "Lovelace", "Lovelace"),
    (None, None, ""),
    ("", "", ""),
    ("  ", " Lovelace ", "Lovelace"),
    (" Ada ", "  ", "Ada"),
    ("Ada Augusta", "King-Noel", "Ada Augusta King-Noel"),
    ("a" * 100, "b" * 100, "a" * 100 + " " + "b" * 100),
]

# The statements of the code before 0002, which does not use the column.
OLD_INSERT = """
    INSERT INTO users (id, email, first_name, last_name)
    VALUES (gen_random_uuid(), gen_random_uuid() || '@example.com', %s, %s)
"""
OLD_UPDATE = "UPDATE users SET first_name = %s, version = version + 1 WHERE email = %s"

WRONG = """
    SELECT count(*) FROM users
    WHERE full_name IS DISTINCT FROM
          concat_ws(' ', nullif(btrim(first_name), ''), nullif(btrim(last_name), ''))
"""


@pytest.fixture
def old_database(migrated_database):
    """A database at 0001."""
    Migrations(migrated_database).downgrade("0001")
    return migrated_database


@pytest.fixture
def connection(old_database):
    with psycopg.connect(old_database, autocommit=True) as connection:
        yield connection


def fill(connection, count):
    connection.execute(
        """
        INSERT INTO users (id, email, first_name, last_name)
        SELECT gen_random_uuid(), n || '@example.com',
               CASE WHEN mod(n, 3) > 0 THEN 'Ada' END, CASE WHEN mod(n, 2) > 0 THEN n::text END
        FROM generate_series(1, %s) AS n
        """,
        [count],
    )


def names(connection):
    cursor = connection.execute("SELECT first_name, last_name, full_name FROM users ORDER BY id")
    return cursor.fetchall()


def wrong(connection):
    return connection.execute(WRONG).fetchone()[0]


@contextlib.contextmanager
def live_traffic(url):
    """Write and read as the old code does; yield the errors.

    A statement fails if a migration holds a lock, or waits for one, without giving way.
    """
    ended, failures = threading.Event(), []

    def work(number):
        options = "-c lock_timeout=20s -c statement_timeout=20s"
        try:
            with psycopg.connect(url, autocommit=True, options=options) as connection:
                while not ended.is_set():
                    connection.execute(OLD_INSERT, ["Live", str(number)])
                    connection.execute(OLD_UPDATE, ["Changed", f"{number}@example.com"])
                    connection.execute("SELECT id, email, first_name FROM users LIMIT 1")
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class TestLocks:
    """Live traffic, locks and interruptions."""

    def test_live_traffic_during_upgrade_sees_no_errors(self, old_database, connection):
        fill(connection, 5000)
        migrations = Migrations(old_database)

        with live_traffic(old_database) as failures:
            migrations.upgrade()
            migrations.downgrade("0001")
            migrations.upgrade()

        assert failures == []
        assert wrong(connection) == 0

    def test_upgrade_gives_way_to_traffic_behind_its_lock(
        self, old_database, connection, monkeypatch
    ):
        monkeypatch.setattr(migration_steps, "PAUSE_SECONDS", 0.1)
        fill(connection, 10)
        lines = []

        def report(line):
            lines.append(line)
            reader.rollback()  # the reader ends after the first attempt

        with psycopg.connect(old_database) as reader, live_traffic(old_database) as failures:
            reader.execute("SELECT 1 FROM users")
            pid = reader.info.backend_pid
            Migrations(old_database, report=report).upgrade()

        # A process of the traffic may hold a lock too, and is then named as well.
        message = r"The tables are locked by process ([\d, ]+) of PostgreSQL: attempt 1 of 10\."
        assert str(pid) in re.fullmatch(message, lines[0])[1].split(", ")
        assert failures == []
        assert wrong(connection) == 0

    def test_upgrade_behind_lasting_lock_fails(self, old_database, connection, monkeypatch):
        monkeypatch.setattr(migration_steps, "ATTEMPTS", 1)
        before = schema(old_database)
        with psycopg.connect(old_database) as reader:
            reader.execute("SELECT 1 FROM users")
            pid = reader.info.backend_pid

            with pytest.raises(MigrationError, match=f"stayed locked by process {pid} "):
                Migrations(old_database).upgrade()

        assert schema(old_database) == before

    def test_upgrade_after_locked_row_resumes_at_its_batch(
        self, old_database, connection, monkeypatch
    ):
        fill(connection, 2500)
        migrations = Migrations(old_database)
        with psycopg.connect(old_database) as writer:
            lock = "SELECT id FROM users ORDER BY id DESC LIMIT 1 FOR UPDATE"
            monkeypatch.setattr(migration_steps, "ATTEMPTS", 1)
            before_each_step(lambda step: step == 3 and writer.execute(lock), monkeypatch)
            with pytest.raises(MigrationError, match="stayed locked"):
                migrations.upgrade()
            monkeypatch.undo()
        assert 0 < wrong(connection) < 1000
        assert migrations.status().current == "0001"

        migrations.upgrade()

        assert wrong(connection) == 0

    @pytest.mark.parametrize("done", range(8))
    def test_interrupted_upgrade_can_be_repeated(self, old_database, connection, monkeypatch, done):
        expected = expected_schema(old_database)
        fill(connection, 10)

        def interrupt(step):
            if step == done:
                raise KeyboardInterrupt

        before_each_step(interrupt, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            Migrations(old_database).upgrade()
        monkeypatch.undo()
        connection.execute(OLD_INSERT, ["Written", "Later"])

        Migrations(old_database).upgrade()

        assert schema(old_database) == expected
        assert wrong(connection) == 0


def before_each_step(do, monkeypatch):
    """Call `do` with the number of each step before it runs, and after the last one.

    Steps 0 and 1 are before and after the move of the revision to its table.
    """
    begun = itertools.count()
    run, leave = Steps._run, MigrationContext.autocommit_block

    def run_step(self, statements, *, together):
        do(next(begun))
        run(self, statements, together=together)

    @contextlib.contextmanager
    def autocommit_block(self):
        with leave(self):
            yield
            do(next(begun))

    monkeypatch.setattr(Steps, "_run", run_step)
    monkeypatch.setattr(MigrationContext, "autocommit_block", autocommit_block)


def expected_schema(url):
    migrations = Migrations(url)
    migrations.upgrade()
    expected = schema(url)
    migrations.downgrade("0001")
    return expected


class TestRows:
    """The full names of rows."""

    def test_upgrade_fills_full_name_of_existing_rows(self, old_database, connection):
        for first, last, _ in NAMES:
            connection.execute(OLD_INSERT, [first, last])

        Migrations(old_database).upgrade()

        assert sorted(names(connection), key=str) == sorted(NAMES, key=str)

    def test_rows_of_old_code_get_full_name_after_upgrade(self, old_database, connection):
        Migrations(old_database).upgrade()

        for first, last, _ in NAMES:
            connection.execute(OLD_INSERT, [first, last])
        assert sorted(names(connection), key=str) == sorted(NAMES, key=str)

        connection.execute("UPDATE users SET first_name = 'Grace', last_name = NULL")
        assert {full_name for _, _, full_name in names(connection)} == {"Grace"}

    def test_full_name_cannot_be_set_directly(self, old_database, connection):
        Migrations(old_database).upgrade()
        connection.execute(OLD_INSERT, ["Ada", "Lovelace"])

        connection.execute("UPDATE users SET full_name = 'Somebody Else'")

        assert names(connection) == [("Ada", "Lovelace", "Ada Lovelace")]

    def test_upgrade_keeps_versions_and_times_of_users(self, old_database, connection):
        fill(connection, 10)
        query = "SELECT id, version, created_at, updated_at FROM users ORDER BY id"
        before = connection.execute(query).fetchall()

        Migrations(old_database).upgrade()

        assert connection.execute(query).fetchall() == before

    @pytest.mark.parametrize("count", [0, 1, 1000, 1001, 3333])
    def test_upgrade_fills_every_batch(self, old_database, connection, count):
        fill(connection, count)
        lines = []

        Migrations(old_database, report=lines.append).upgrade()

        assert wrong(connection) == 0
        said = [line for line in lines if "rows written" in line]
        assert said == ([f"users.full_name: {count} rows written"] if count else [])

    def test_upgrade_fills_user_with_zero_id(self, old_database, connection):
        connection.execute(
            "INSERT INTO users (id, email) VALUES ('00000000-0000-0000-0000-000000000000', 'a@b.c')"
        )

        Migrations(old_database).upgrade()

        assert names(connection) == [(None, None, "")]

    def test_downgrade_and_upgrade_restore_schema_and_rows(self, old_database, connection):
        fill(connection, 10)
        migrations = Migrations(old_database)
        old = schema(old_database)

        migrations.upgrade()
        new, filled = schema(old_database), names(connection)
        migrations.downgrade("0001")
        assert schema(old_database) == old
        migrations.upgrade()

        assert schema(old_database) == new
        assert names(connection) == filled

    def test_full_name_column_refuses_null(self, old_database, connection):
        Migrations(old_database).upgrade()

        with pytest.raises(errors.NotNullViolation):
            connection.execute(
                "ALTER TABLE users DISABLE TRIGGER users_full_name;"
                "INSERT INTO users (id, email, full_name) VALUES (gen_random_uuid(), 'a@b.c', NULL)"
            )
