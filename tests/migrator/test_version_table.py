"""The table of our revision: the move from alembic's own, and the tables of other programs."""

import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tamatar_auth.migrator.migrations import MigrationError, Migrations, head_revision
from tests.migrator.test_migrations import MIGRATE, psql, run
from tests.support.waiting import PATIENCE

HEAD = head_revision()
LAST = "0006"
"""The newest revision of the releases that used alembic's table."""

FORMER = "SELECT version_num FROM alembic_version"
OWN = "SELECT version_num FROM tamatar_auth_version"
INSERT = "INSERT INTO alembic_version VALUES ('{}')"
KIND = "SELECT relkind FROM pg_class WHERE relname = 'alembic_version'"


def make_former(url):
    """Give a database the version table that a former release would have made."""
    run(
        url,
        "ALTER TABLE tamatar_auth_version RENAME TO alembic_version",
        "ALTER TABLE alembic_version"
        " RENAME CONSTRAINT tamatar_auth_version_pkc TO alembic_version_pkc",
    )


@pytest.fixture
def former(empty_database):
    """The URL of a database that the release before the move has migrated."""
    Migrations(empty_database).upgrade(LAST)
    make_former(empty_database)
    return empty_database


def add_alien(url, *revisions):
    run(
        url,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        *(INSERT.format(revision) for revision in revisions),
    )


class TestOtherPrograms:
    """The version table of another program."""

    @pytest.mark.parametrize("revisions", [(), ("0005",), (HEAD,), ("0001", "0002"), ("f00d",)])
    def test_revision_of_other_program_is_not_believed(self, empty_database, revisions):
        add_alien(empty_database, *revisions)
        migrations = Migrations(empty_database)

        assert migrations.status().current is None
        migrations.upgrade()

        assert migrations.status() == (HEAD, HEAD, [])
        assert {row[0] for row in run(empty_database, FORMER)} == set(revisions)
        assert run(empty_database, KIND) == [("r",)]

    @pytest.mark.parametrize("revision", ["0005", "f00d"])
    def test_table_of_other_program_survives_later_runs(self, migrated_database, revision):
        add_alien(migrated_database, revision)
        migrations = Migrations(migrated_database)

        migrations.downgrade("0001")
        migrations.upgrade()
        migrations.downgrade("base")
        migrations.upgrade()

        assert run(migrated_database, FORMER) == [(revision,)]

    def test_users_of_other_program_are_not_touched(self, empty_database):
        add_alien(empty_database, "0005")
        run(empty_database, "CREATE TABLE users (id int)", "CREATE TABLE sessions (id int)")

        with pytest.raises(MigrationError, match="already exists"):
            Migrations(empty_database).upgrade()

        assert run(empty_database, FORMER) == [("0005",)]

    @pytest.mark.parametrize("revisions", [("f00d",), ("0005", "0006")])
    def test_unknown_revision_beside_our_tables_stays(self, former, revisions):
        run(former, "DELETE FROM alembic_version")
        for revision in revisions:
            run(former, INSERT.format(revision))

        with pytest.raises(MigrationError, match="already exists"):
            Migrations(former).upgrade()

        assert run(former, KIND) == [("r",)]

    def test_table_in_other_schema_is_not_ours(self, former):
        run(former, "CREATE SCHEMA other", "ALTER TABLE alembic_version SET SCHEMA other")

        status = Migrations(f"{former}?options=-csearch_path%3Dpublic,other").status()

        assert status.current is None


class TestMove:
    """The move of our revision from alembic's table to our own."""

    def test_upgrade_moves_our_revision(self, former):
        lines = []
        migrations = Migrations(former, report=lines.append)
        move, *later = migrations.status().pending

        migrations.upgrade()

        assert move == "Move the revision from alembic_version to tamatar_auth_version"
        done = [line for line in lines if ": done in " in line]
        assert [line[:4] for line in later] == [line[:4] for line in done]
        assert lines[0] == "The revision moved from alembic_version to tamatar_auth_version."
        assert migrations.status() == (HEAD, HEAD, [])
        assert migrations.check() == []

    def test_status_moves_nothing(self, former):
        assert Migrations(former).status().current == LAST
        assert run(former, KIND) == [("r",)]

    def test_former_release_reads_and_writes_through_view(self, former):
        migrations = Migrations(former)
        migrations.upgrade()
        assert run(former, FORMER) == [(HEAD,)]

        migrations.downgrade("0005")
        assert run(former, FORMER) == [("0005",)]
        changed = run(former, "UPDATE alembic_version SET version_num = '0006' RETURNING 1")
        assert changed == [(1,)]
        assert migrations.status().current == "0006"

    def test_reader_sees_revision_throughout_move(self, former):
        seen, done = set(), threading.Event()

        def read():
            with psycopg.connect(former, autocommit=True, prepare_threshold=0) as connection:
                while not done.is_set():
                    seen.update(connection.execute(FORMER).fetchall())

        with ThreadPoolExecutor() as pool:
            reading = pool.submit(read)
            Migrations(former).upgrade()
            done.set()
            reading.result()
        assert {row[0] for row in seen} <= {LAST, HEAD, *(f"{n:04}" for n in range(7, int(HEAD)))}

    def test_move_keeps_privileges(self, former):
        role = f'reader "{uuid.uuid4().hex[:6]}'
        quoted = '"' + role.replace('"', '""') + '"'
        run(
            former,
            f"CREATE ROLE {quoted}",
            f"GRANT SELECT ON alembic_version TO {quoted}, PUBLIC",
        )

        Migrations(former).upgrade()

        for query in (FORMER, OWN):
            assert run(former, f"SET ROLE {quoted}", query) == [(HEAD,)]
        run(former, f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")

    def test_four_concurrent_migrators_all_move(self, former):
        command = [sys.executable, "-c", MIGRATE, former]
        migrators = [subprocess.Popen(command) for _ in range(4)]

        assert [migrator.wait(PATIENCE) for migrator in migrators] == [0] * 4
        assert Migrations(former).status() == (HEAD, HEAD, [])

    def test_move_waits_for_long_reader(self, former):
        lines = []

        with psycopg.connect(former) as reader:
            reader.execute(FORMER)

            def report(line):
                lines.append(line)
                if "locked" in line:
                    reader.rollback()

            Migrations(former, report=report).upgrade()

        assert "The tables are locked" in lines[0]
        assert run(former, OWN) == [(HEAD,)]

    def test_offline_sql_moves_our_revision(self, former, capsys, tmp_path):
        Migrations("postgresql://").sql(f"{LAST}:{HEAD}")
        script = capsys.readouterr().out

        psql(former, script, tmp_path)

        assert Migrations(former).status() == (HEAD, HEAD, [])
        assert run(former, KIND) == [("v",)]

    def test_offline_sql_leaves_other_programs_alone(self, empty_database, capsys, tmp_path):
        Migrations(empty_database).upgrade(LAST)
        add_alien(empty_database, "0005")
        Migrations("postgresql://").sql(f"{LAST}:{HEAD}")

        psql(empty_database, capsys.readouterr().out, tmp_path)

        assert run(empty_database, FORMER) == [("0005",)]
        assert run(empty_database, OWN) == [(HEAD,)]
