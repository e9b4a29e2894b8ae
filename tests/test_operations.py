"""What docs/operations.md says can be done, and does what it says."""

import os
import re
import shlex
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tamatar_auth.maintenance.embedded_binaries import Installation
from tamatar_auth.maintenance.embedded_postgres import EmbeddedPostgres
from tamatar_auth.maintenance.migrating import Migrations
from tamatar_auth.setting_fields import SettingFields
from tamatar_auth.settings import Settings
from tamatar_auth.storage.connecting import libpq_url
from tests.commands import BIN, QUICK, ROOT, run
from tests.schemas import schema

PAGE = (ROOT / "docs/operations.md").read_text()


def blocks(language, page=PAGE):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def section(title):
    """What stands below a headline, up to the next one."""
    return re.split(r"^#+ ", PAGE.partition(f" {title}\n")[2], flags=re.MULTILINE)[0]


def values():
    """The settings of PostgreSQL that the page gives."""
    lines = "".join(blocks("ini")).splitlines()
    return [tuple(part.strip(" '") for part in line.split("=", 1)) for line in lines]


def fill(url):
    with psycopg.connect(url) as connection:
        connection.execute(
            """
            WITH somebody AS (
                INSERT INTO users (id, email, first_name)
                VALUES (gen_random_uuid(), 'ada@example.com', 'Ada') RETURNING id
            )
            INSERT INTO sessions (id, user_id, token_digest, expires_at)
            SELECT gen_random_uuid(), id, sha256('1'), now() + interval '1 day' FROM somebody
            """
        )


def test_every_setting_is_one_that_postgresql_takes(tmp_path):
    given = dict(values())
    standbys = given.pop("synchronous_standby_names")  # not here, and nothing shall wait for them

    with (
        EmbeddedPostgres(tmp_path, settings=given | {"fsync": "off"}) as server,
        psycopg.connect(server.url(), autocommit=True) as connection,
    ):
        taken = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in given}
        set_it = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}")
        connection.execute(set_it.format(sql.Literal(standbys)))

    assert taken == given


def test_there_are_enough_connections_for_the_service_of_the_page():
    pool = SettingFields.model_fields["pool_size"].default
    most = 4 * 2 * (pool + 8 + 2)

    assert f"= {most} at most, and {4 * 2 * pool} more" in PAGE
    assert most + 4 * 2 * pool < int(dict(values())["max_connections"])


def test_every_default_of_the_page_is_the_one_of_the_settings(tmp_path):
    shown = run(BIN / "tamatar-auth", "config", "example", cwd=tmp_path).stdout
    defaults = dict(re.findall(r"^#?\s*(TAMATAR_\w+)=(\S+)$", shown, re.MULTILINE))
    rows = re.findall(r"^\| `(TAMATAR_\w+)` \| (\S+) \|", PAGE, re.MULTILINE)

    assert len(rows) > 5
    assert [row for row in rows if defaults[row[0]] != row[1]] == []


def test_the_url_of_the_page_is_understood():
    (line,) = blocks("text")
    name, _, url = line.strip().partition("=")
    assert name == "TAMATAR_DATABASE_URL"

    said = psycopg.conninfo.conninfo_to_dict(libpq_url(Settings(_env_file=None, database_url=url)))

    assert said["host"] == "pg1,pg2,pg3"
    assert said["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("number", range(len(blocks("sql"))))
def test_the_sql_of_the_page_runs_and_keeps_the_tables(migrated_database, number):
    fill(migrated_database)

    with psycopg.connect(migrated_database) as connection:
        for statement in blocks("sql")[number].strip().split(";\n"):
            connection.execute(statement.encode())

    assert Migrations(migrated_database).check() == []


def test_after_a_restore_no_session_is_good(migrated_database):
    fill(migrated_database)
    (statements,) = blocks("sql", section("Restoring"))

    with psycopg.connect(migrated_database) as connection:
        connection.execute(statements.encode())
        live = connection.execute("SELECT count(*) FROM sessions WHERE is_valid").fetchone()

    assert live == (0,)


def test_a_dump_is_restored_as_the_page_says(migrated_database, postgres, tmp_path):
    fill(migrated_database)
    name = f"restored_{uuid4().hex}"
    commands = [
        line
        for block in blocks("console", section("Backups") + section("Restoring"))
        for line in block.splitlines()
    ]
    assert [shlex.split(line)[0] for line in commands[:2]] == ["pg_dump", "pg_restore"]
    installation = Installation.find(15)
    given = QUICK | {
        "PATH": os.pathsep.join([str(installation.binaries), str(BIN), os.environ["PATH"]]),
        "TAMATAR_DATABASE_URL": migrated_database,
        "RESTORED_URL": postgres.create(name),
    }
    try:
        for command in commands:
            run("sh", "-c", command, cwd=tmp_path, **given)

        assert schema(given["RESTORED_URL"]) == schema(migrated_database)
        with psycopg.connect(given["RESTORED_URL"]) as connection:
            users = connection.execute("SELECT email FROM users").fetchall()
        assert users == [("ada@example.com",)]
    finally:
        postgres.drop(name)
