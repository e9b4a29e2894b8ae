"""Migrations: up, down, concurrent, offline, and compared with the tables of the code."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg import errors
from sqlalchemy import create_engine

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.embedded.installation import Installation
from tamatar_auth.migrator import connection as migration_connection
from tamatar_auth.migrator.connection import connect
from tamatar_auth.migrator.migrations import MigrationError, Migrations, head_revision
from tamatar_auth.migrator.revisions import migrations_folder
from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock
from tamatar_auth.storage.tables import metadata
from tests.support.schema_dump import schema
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
HEAD = head_revision()
NEXT = f"{int(HEAD) + 1:04}"

FIRST, SECOND = "0001 Create users, profiles and sessions", "0002 Add users.full_name"

WAITING = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%CONCURRENTLY%'
      AND wait_event_type = 'Lock'
"""

HOLDER = """
    SELECT pid FROM pg_locks JOIN pg_database ON oid = database
    WHERE locktype = 'advisory' AND granted AND datname = current_database()
"""

INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"

MIGRATE = """
import sys
from tamatar_auth.migrator.migrations import Migrations
Migrations(sys.argv[1], report=print).upgrade()
"""


def run(url, *statements):
    """Run statements in one transaction, and return the rows of the last one."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def alembic(*arguments, url=None, folder=ROOT):
    environment = {"TAMATAR_DATABASE_URL": url} if url else {}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class TestCheck:
    """Differences between a database and the code."""

    def test_migrated_schema_equals_tables_of_code(self, migrated_database, empty_database):
        engine = create_engine(empty_database.replace("postgresql:", "postgresql+psycopg:"))
        metadata.create_all(engine)
        engine.dispose()

        assert schema(migrated_database, programs=False) == schema(empty_database, programs=False)

    def test_check_of_migrated_database_finds_nothing(self, migrated_database):
        assert Migrations(migrated_database).check() == []

    def test_alembic_check_of_migrated_database_finds_nothing(self, migrated_database):
        checked = alembic("check", url=migrated_database)

        assert (checked.returncode, checked.stdout.strip()) == (
            0,
            "No new upgrade operations detected.",
        )

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            ("ALTER TABLE users ADD nickname text", "op.drop_column('users', 'nickname')"),
            (
                "ALTER TABLE sessions DROP ip_address",
                (
                    "op.add_column('sessions', sa.Column('ip_address', postgresql.INET(),"
                    " nullable=True))"
                ),
            ),
            (
                "ALTER TABLE user_profiles ALTER bio TYPE varchar(9)",
                (
                    "op.alter_column('user_profiles', 'bio', existing_type=sa.VARCHAR(length=9),"
                    " type_=sa.String(length=2000), existing_nullable=True)"
                ),
            ),
            (
                "ALTER TABLE users ALTER is_active DROP DEFAULT",
                (
                    "op.alter_column('users', 'is_active', existing_type=sa.BOOLEAN(),"
                    " server_default=sa.text('true'), existing_nullable=False)"
                ),
            ),
            (
                "ALTER TABLE users ALTER version DROP NOT NULL",
                (
                    "op.alter_column('users', 'version', existing_type=sa.INTEGER(),"
                    " nullable=False, existing_server_default=sa.text('1'))"
                ),
            ),
            (
                "DROP INDEX idx_user_created",
                (
                    "op.create_index('idx_user_created', 'users', ['created_at', 'id'],"
                    " unique=False, postgresql_where=sa.text('deleted_at IS NULL'))"
                ),
            ),
            (
                "ALTER TABLE user_tokens DROP CONSTRAINT fk_user_tokens_user_id_users",
                (
                    "op.create_foreign_key(op.f('fk_user_tokens_user_id_users'), 'user_tokens',"
                    " 'users', ['user_id'], ['id'], ondelete='CASCADE')"
                ),
            ),
        ],
    )
    def test_check_reports_planted_difference(self, migrated_database, change, difference):
        run(migrated_database, change)

        assert Migrations(migrated_database).check() == [difference]

    def test_check_ignores_tables_of_other_programs(self, migrated_database):
        run(
            migrated_database,
            "CREATE TABLE orders (id int PRIMARY KEY)",
            "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
            "CREATE INDEX idx_orders ON orders (id)",
        )

        assert Migrations(migrated_database).check() == []
        checked = alembic("check", url=migrated_database)
        assert checked.returncode == 0, checked.stderr

    def test_head_revision_equals_alembic_head(self):
        assert head_revision() == ScriptDirectory(migrations_folder()).get_current_head()


class TestLocks:
    """Migrators at the same time, and locks."""

    def test_four_concurrent_migrators_all_succeed(self, empty_database):
        command = [sys.executable, "-c", MIGRATE, empty_database]
        migrators = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(4)
        ]
        said = [migrator.communicate()[0] for migrator in migrators]

        assert [migrator.returncode for migrator in migrators] == [0] * 4, said
        assert sum(f"{SECOND}: done" in text for text in said) == 1
        assert sum("Nothing to do." in text for text in said) == 3
        assert Migrations(empty_database).check() == []

    def test_migrator_that_times_out_names_lock_holder(self, empty_database):
        lines = []
        migrations = Migrations(
            empty_database, report=lines.append, lock_wait=timedelta(milliseconds=200)
        )
        with psycopg.connect(empty_database) as other:
            lock = (LOCK_NAMESPACE, AdvisoryLock.MIGRATION.value)
            # The lock ends with the transaction; the connection may end later.
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", lock)
            pid = other.info.backend_pid

            with pytest.raises(MigrationError, match=f"locked by process {pid} "):
                migrations.upgrade()

        assert [f"process {pid} of PostgreSQL" in line for line in lines] == [True]
        migrations.upgrade()

    def test_finished_migrator_releases_lock_before_connection_ends(self, empty_database):
        first, second, slow = [], [], []

        def slow_down(line):
            first.append(line)
            if not slow:
                ((pid,),) = run(empty_database, HOLDER)
                os.kill(pid, signal.SIGSTOP)
                slow.append(threading.Timer(1, os.kill, (pid, signal.SIGCONT)))
                slow[0].start()

        Migrations(empty_database, report=slow_down).upgrade("0001")
        Migrations(empty_database, report=second.append).upgrade("0001")
        slow[0].join()

        assert [line.split()[0] for line in first] == ["0001"]
        assert [line.partition(".")[0] for line in second] == ["Nothing to do"]

    def test_finished_migrator_does_not_wait_for_silent_server(self, empty_database, monkeypatch):
        monkeypatch.setattr(migration_connection, "RELEASE_SECONDS", 0.2)
        with (
            contextlib.ExitStack() as frozen,
            migration_connection.migration_lock(empty_database, print, timedelta(seconds=20)),
        ):
            ((pid,),) = run(empty_database, HOLDER)
            os.kill(pid, signal.SIGSTOP)
            frozen.callback(os.kill, pid, signal.SIGCONT)

    def test_migration_ignores_statement_timeout_of_service(self, empty_database):
        (name,) = run(empty_database, "SELECT current_database()")[0]
        run(empty_database, f"ALTER DATABASE {name} SET statement_timeout = '1ms'")

        with connect(f"{empty_database}?options=-c%20statement_timeout%3D1") as connection:
            limits = connection.execute(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            ).fetchone()

        assert limits == ("0", "1200ms")
        # Statements that queue behind a waiting migration must not time out.
        assert DatabaseSettings().lock_timeout > timedelta(milliseconds=1200)
        Migrations(empty_database).upgrade()

    def test_concurrent_index_waits_without_blocking(self, migrated_database):
        lines = []
        migrations = Migrations(migrated_database, report=lines.append)
        migrations.downgrade("0002")
        with ThreadPoolExecutor() as pool, psycopg.connect(migrated_database) as old:
            old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            old.execute("SELECT count(*) FROM users")
            migration = pool.submit(migrations.upgrade, "0003")
            until(lambda: run(migrated_database, WAITING))
            time.sleep(1.5)  # longer than the lock timeout
            run(
                migrated_database,
                "SET lock_timeout = '1s'",
                "UPDATE sessions SET is_valid = is_valid",
            )
            assert not migration.done()
            old.rollback()
            migration.result(timeout=PATIENCE)

        assert not [line for line in lines if "locked" in line]
        assert run(migrated_database, INVALID) == [(0,)]

    @pytest.mark.parametrize(
        ("revision", "index"),
        [
            ("0003", "idx_user_email"),
            ("0004", "idx_user_live_created"),
            ("0004", "idx_session_user_created"),
            ("0009", "idx_session_activity"),
            ("0014", "idx_user_created"),
            ("0014", "idx_user_deleted_username"),
        ],
    )
    def test_invalid_index_is_built_again(self, migrated_database, revision, index):
        Migrations(migrated_database).downgrade(revision)
        before = f"{int(revision) - 1:04}"
        with psycopg.connect(migrated_database) as connection:
            connection.execute("UPDATE tamatar_auth_version SET version_num = %s", [before])
            connection.execute(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [index]
            )

        Migrations(migrated_database).upgrade()

        assert run(migrated_database, INVALID) == [(0,)]


class TestOffline:
    """SQL that is printed."""

    def test_offline_sql_creates_same_schema(
        self, empty_database, migrated_database, capsys, tmp_path
    ):
        migrations = Migrations("postgresql://")

        migrations.sql()
        psql(empty_database, capsys.readouterr().out, tmp_path)
        assert schema(empty_database) == schema(migrated_database)
        assert Migrations(empty_database).status().pending == []

        migrations.sql(f"{HEAD}:base")
        psql(empty_database, capsys.readouterr().out, tmp_path)
        assert schema(empty_database) == set()

    def test_offline_sql_starts_at_given_revision(self, capsys):
        Migrations("postgresql://").sql("0001:0002")

        printed = capsys.readouterr().out
        assert "CREATE TABLE" not in printed
        assert "ADD COLUMN IF NOT EXISTS full_name" in printed

    def test_offline_sql_restores_lock_timeout(self, capsys):
        Migrations("postgresql://").sql()

        limits = [
            line for line in capsys.readouterr().out.splitlines() if "SET lock_timeout" in line
        ]
        assert "SET lock_timeout = 0;" in limits
        assert limits[-1] == limits[0] == "SET lock_timeout = '1200ms';"

    def test_offline_sql_fills_full_name_of_existing_rows(self, empty_database, capsys, tmp_path):
        Migrations(empty_database).upgrade("0001")
        run(
            empty_database,
            """INSERT INTO users (id, email, first_name, last_name)
           SELECT gen_random_uuid(), n || '@example.com', 'Ada', n
           FROM generate_series(1, 2500) n""",
        )

        Migrations("postgresql://").sql("0001:0002")
        psql(empty_database, capsys.readouterr().out, tmp_path)

        wrong = "SELECT count(*) FROM users WHERE full_name IS DISTINCT FROM 'Ada ' || last_name"
        assert run(empty_database, wrong) == [(0,)]


class TestUpgrade:
    """Upgrades and downgrades."""

    def test_upgrade_of_empty_database_reaches_head(self, empty_database):
        lines = []
        migrations = Migrations(empty_database, report=lines.append)
        before = migrations.status()

        migrations.upgrade()

        assert before[:2] == (None, HEAD)
        assert list(before.pending[:2]) == [FIRST, SECOND]
        assert [line.split()[0] for line in before.pending] == numbers()
        assert migrations.status() == (HEAD, HEAD, [])
        assert [line.partition(": done in ")[0] for line in lines] == before.pending

    def test_status_text_lists_pending_revisions(self, empty_database):
        migrations = Migrations(empty_database)
        lines = str(migrations.status()).splitlines()
        assert lines[:3] == [
            "There are no tables yet. Not yet applied:",
            f"  {FIRST}",
            f"  {SECOND}",
        ]
        assert len(lines) == 1 + len(numbers())

        migrations.upgrade("0001")
        assert str(migrations.status()).startswith("The tables are at 0001. Not yet applied:\n")

        migrations.upgrade()
        assert str(migrations.status()) == f"The tables are at {HEAD}, the newest revision."

    def test_downgrade_to_base_and_upgrade_restore_schema(self, migrated_database):
        before = schema(migrated_database)
        lines = []
        migrations = Migrations(migrated_database, report=lines.append)

        migrations.downgrade("base")
        assert schema(migrated_database) == set()

        migrations.upgrade()
        assert schema(migrated_database) == before
        undone = [line.split()[0] for line in lines if ": undone in " in line]
        assert undone == numbers()[::-1]

    def test_upgrade_at_head_reports_nothing_to_do(self, migrated_database):
        lines = []

        Migrations(migrated_database, report=lines.append).upgrade()

        assert lines == [f"Nothing to do. The tables are at {HEAD}, the newest revision."]

    def test_new_revision_gets_next_number_without_database(self, tmp_path):
        (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
        folder = tmp_path / "migrations"
        (folder / "versions").mkdir(parents=True)
        for file in ["env.py", "script.py.mako", *(f"versions/{f.name}" for f in versions())]:
            (folder / file).write_text((migrations_folder() / file).read_text())

        made = alembic("revision", "-m", "Add users.phone", folder=tmp_path)

        assert made.returncode == 0, made.stderr
        text = (folder / f"versions/{NEXT}_add_users_phone.py").read_text()
        assert text.startswith('"""Add users.phone.\n')
        assert f'revision = "{NEXT}"' in text
        assert f'down_revision = "{HEAD}"' in text
        compile(text, NEXT, "exec")


def versions():
    return (migrations_folder() / "versions").glob("0*.py")


def numbers():
    """Return the numbers of all revisions in order."""
    return sorted(file.name.partition("_")[0] for file in versions())


def psql(url, script, folder):
    file = folder / "migration.sql"
    file.write_text(script)
    binaries = Installation.find(15).binaries
    subprocess.run(
        [binaries / "psql", url, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file],
        capture_output=True,
        check=True,
    )


class TestErrors:
    """Databases and revisions that are refused."""

    def test_failed_upgrade_changes_nothing(self, empty_database):
        run(empty_database, "CREATE TABLE sessions (id int)")

        with pytest.raises(MigrationError, match='relation "sessions" already exists'):
            Migrations(empty_database).upgrade()

        assert {table for table, _, _ in schema(empty_database)} == {"sessions"}

    def test_missing_tables_are_named(self, migrated_database):
        run(migrated_database, "DROP TABLE replaced_tokens, user_tokens")
        migrations = Migrations(migrated_database)

        for ask in (migrations.status, migrations.upgrade):
            with pytest.raises(MigrationError, match=r"has no tables .*replaced_tokens.*restore"):
                ask()

    @pytest.mark.parametrize("revision", ["0042", "nonsense", "0001:0042", "0042:0001"])
    def test_unknown_revision_is_refused(self, migrated_database, revision):
        migrations = Migrations(migrated_database)

        with pytest.raises(MigrationError, match=r"no revision (0042|nonsense): the newest one is"):
            migrations.sql(revision)
        if ":" not in revision:
            with pytest.raises(MigrationError, match="no revision"):
                migrations.upgrade(revision)

    def test_database_of_newer_release_is_recognised(self, migrated_database):
        run(migrated_database, "UPDATE tamatar_auth_version SET version_num = '0042'")
        migrations = Migrations(migrated_database)

        for ask in (migrations.status, migrations.upgrade, lambda: migrations.downgrade("0001")):
            with pytest.raises(MigrationError, match="at revision 0042, which is newer"):
                ask()

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://me:Hunter2@127.0.0.1:1/auth",
            "postgresql://me:x@Hunter2@127.0.0.1:1/auth",
            "postgresql://me:Hunter2%zz@127.0.0.1:1/auth",
            "postgresql://me:Hunter2@127.0.0.1:one/auth",
        ],
    )
    def test_unreachable_database_error_hides_password(self, url):
        with pytest.raises(MigrationError, match=r"cannot be r|special characters") as refusal:
            Migrations(url).upgrade()

        assert "Hunter2" not in "".join(traceback.format_exception(refusal.value))

    def test_lost_connection_is_reported_in_one_sentence(self, empty_database, monkeypatch):
        def lose(*_):
            raise errors.AdminShutdown

        monkeypatch.setattr("tamatar_auth.migrator.migrations.produce_migrations", lose)

        with pytest.raises(MigrationError, match="the connection was lost"):
            Migrations(empty_database).check()
