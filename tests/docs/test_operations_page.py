"""docs/operate/operations.md: its commands, settings and figures are right."""

import configparser
import os
import re
import shlex
from base64 import b64encode
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector, libpq_url
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tests.conftest import CONNECTION_LIMITS
from tests.support.calls import ada, sign_in
from tests.support.certificates import Authority
from tests.support.commands import BIN, QUICK, ROOT, run, tamatar
from tests.support.factors import challenge, complete, enrol, forget_steps
from tests.support.schema_dump import schema
from tests.support.settings import changed

PAGE = (ROOT / "docs/operate/operations.md").read_text()


def blocks(language, page=PAGE):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def section(title):
    """Return the text below a headline, up to the next one."""
    return re.split(r"^#+ ", PAGE.partition(f" {title}\n")[2], flags=re.MULTILINE)[0]


def values():
    """Return the PostgreSQL settings of the page."""
    lines = "".join(blocks("ini")).splitlines()
    return [tuple(part.strip(" '") for part in line.split("=", 1)) for line in lines]


def channel_to(service):
    return grpc.aio.insecure_channel(str(service.addresses[0]))


def fill(url):
    with psycopg.connect(url) as connection:
        connection.execute(
            """
            WITH owner AS (
                INSERT INTO users (id, email, first_name)
                VALUES (gen_random_uuid(), 'ada@example.com', 'Ada') RETURNING id
            )
            INSERT INTO sessions (id, user_id, token_digest, expires_at)
            SELECT gen_random_uuid(), id, sha256('1'), now() + interval '1 day' FROM owner
            """
        )


class TestPostgresql:
    """Settings, connections and statements for PostgreSQL."""

    def test_operations_page_settings_exist_in_postgresql(self, tmp_path):
        given = dict(values())
        standbys = given.pop("synchronous_standby_names")  # there are none here to wait for

        with (
            EmbeddedPostgres(tmp_path, settings=given | {"fsync": "off"}) as server,
            psycopg.connect(server.url(), autocommit=True) as connection,
        ):
            taken = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in given}
            set_it = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}")
            connection.execute(set_it.format(sql.Literal(standbys)))

        assert taken == given

    def test_operations_page_connection_count_is_right(self):
        pool = DatabaseSettings().pool_size
        most = 4 * 2 * (pool + 8 + 3)

        assert f"= {most} at most, and {4 * 2 * pool} more" in PAGE
        assert most + 4 * 2 * pool < int(dict(values())["max_connections"])

    def test_operations_page_defaults_are_those_of_settings(self, tmp_path):
        shown = run(BIN / "tamatar-auth", "config", "example", cwd=tmp_path).stdout
        defaults = dict(re.findall(r"^#?\s*(TAMATAR_\w+)=(\S+)$", shown, re.MULTILINE))
        rows = re.findall(r"^\| `(TAMATAR_\w+)` \| (\S+) \|", PAGE, re.MULTILINE)

        assert len(rows) >= 3
        assert [row for row in rows if defaults[row[0]] != row[1]] == []

    def test_operations_page_parameters_have_driver_defaults(self):
        rows = dict(re.findall(r"^\| `(\w+)`? ?[^|]*\| (\S+) \|", PAGE, re.MULTILINE))
        option = r"^\| `options=-c%20(\w+)%3D\w+` \| (\S+) \|"

        assert rows["connect_timeout"] == f"{CONNECTION_LIMITS['CONNECT_TIMEOUT']}"
        assert rows["tcp_user_timeout"] == f"{limits.TCP_USER_TIMEOUT * 1000:g}"
        assert rows["application_name"] == limits.APPLICATION_NAME
        idle = f"{CONNECTION_LIMITS['IDLE_IN_TRANSACTION_TIMEOUT']}s"
        found = re.findall(option, PAGE, re.MULTILINE)
        assert found == [("idle_in_transaction_session_timeout", idle)]

    def test_operations_page_url_is_understood(self):
        (line,) = (text for text in blocks("text") if text.startswith("TAMATAR_DATABASE_URL="))
        url = line.strip().partition("=")[2]

        said = psycopg.conninfo.conninfo_to_dict(
            libpq_url(Settings.load(env_file=None, database_url=url).database)
        )

        assert said["host"] == "pg1,pg2,pg3"
        assert said["target_session_attrs"] == "read-write"

    @pytest.mark.parametrize("number", range(len(blocks("sql"))))
    def test_operations_page_sql_runs_and_keeps_schema(self, migrated_database, number):
        fill(migrated_database)

        with psycopg.connect(migrated_database) as connection:
            for statement in blocks("sql")[number].strip().split(";\n"):
                connection.execute(statement.encode())
            if "ALTER ROLE" in blocks("sql")[number]:  # other tests have the same role
                connection.rollback()

        assert Migrations(migrated_database).check() == []

    async def test_passfile_is_read_for_each_connection(
        self, settings, migrated_database, tmp_path
    ):
        url = urlsplit(migrated_database)
        passfile = tmp_path / "pgpass"
        bare = url._replace(netloc=f"{url.username}@{url.hostname}:{url.port}")
        mine = settings.with_database(bare._replace(query=f"passfile={passfile}").geturl())

        async def connects(password):
            passfile.write_text(f"*:*:*:*:{password}\n")
            passfile.chmod(0o600)
            try:
                await (await connector(mine.database, OrphanedStatements())()).close()
            except psycopg.OperationalError:
                return False
            return True

        assert not await connects("another one")
        assert await connects(url.password)


class TestProcedures:
    """Backups, and keys, tokens and certificates that are replaced."""

    def test_operations_page_restore_ends_all_sessions(self, migrated_database):
        fill(migrated_database)
        (statements,) = blocks("sql", section("Restoring"))

        with psycopg.connect(migrated_database) as connection:
            connection.execute(statements.encode())
            live = connection.execute("SELECT count(*) FROM sessions WHERE is_valid").fetchone()

        assert live == (0,)

    async def test_operations_page_rotates_password_keys(self, settings, migrated_database):
        old, new = (f"{name}:{b64encode(name.encode() * 8).decode()}" for name in ("2026", "2027"))
        (count,) = blocks("sql", section("Password keys"))
        named = []

        async def sign_in_with(*keys):
            secret = SecretStr(" ".join(keys))
            mine = settings.with_database(migrated_database)
            mine = changed(mine, password_keys=secret)
            async with run_service(mine) as service, channel_to(service) as channel:
                if not named:
                    await UserServiceStub(channel).CreateUser(ada(email_verified=True))
                await SessionServiceStub(channel).CreateSession(sign_in())
            with psycopg.connect(migrated_database) as connection:
                named.append(connection.execute(count.encode()).fetchall())

        for keys in ([old], [new, old], [old, new], [new]):
            await sign_in_with(*keys)

        assert named == [[("2026", 1)], [("2026", 1)], [("2027", 1)], [("2027", 1)]]

    async def test_operations_page_rotates_factor_keys(self, settings, migrated_database):
        old, new = (f"{name}:{b64encode(name.encode() * 8).decode()}" for name in ("2026", "2027"))
        (count,) = blocks("sql", section("Factor keys"))
        app, named = None, []

        for keys in ([old], [new, old], [old, new], [new]):
            mine = settings.with_database(migrated_database)
            mine = changed(mine, factor_keys=SecretStr(" ".join(keys)))
            async with run_service(mine) as service, channel_to(service) as channel:
                factors, sessions = FactorServiceStub(channel), SessionServiceStub(channel)
                if app is None:
                    created = await UserServiceStub(channel).CreateUser(ada(email_verified=True))
                    app = await enrol(factors, created.user, service.database)
                await forget_steps(service.database)
                await complete(sessions, await challenge(sessions), totp_code=app.code())
            with psycopg.connect(migrated_database) as connection:
                named += connection.execute(count.encode()).fetchall()

        assert named == [(key, "totp", 1) for key in ("2026", "2026", "2027", "2027")]

    def test_operations_page_rotates_caller_tokens(self, tmp_path):
        given = {"TAMATAR_CALLERS_FILE": str(tmp_path / "callers.toml")}
        tamatar("caller", "add", "gateway", "--role", "validator", cwd=tmp_path, **given)
        (commands,) = blocks("console", section("Callers"))

        said = [tamatar(*line.split()[1:], cwd=tmp_path, **given) for line in commands.splitlines()]

        assert said[0].stdout.startswith("tmc_")
        assert "gateway" in said[1].stdout

    def test_operations_page_prints_end_of_certificate(self, tmp_path):
        certificate, _ = Authority.make().sign("localhost").write(tmp_path)
        (command,) = blocks("console", section("Certificates"))

        printed = run(
            "sh", "-c", command, cwd=tmp_path, TAMATAR_TLS_CERTIFICATE_FILE=str(certificate)
        )

        assert re.fullmatch(r"notAfter=.* GMT\n", printed.stdout)

    def test_operations_page_dump_can_be_restored(self, migrated_database, postgres, tmp_path):
        fill(migrated_database)
        name = f"restored_{uuid4().hex}"
        commands = [
            line
            for block in blocks("console", section("Backups") + section("Restoring"))
            for line in block.splitlines()
        ]
        assert [shlex.split(line)[0] for line in commands[:2]] == ["pg_dump", "pg_restore"]
        installation = Installation.find(15)
        restored = postgres.create(name)
        given = QUICK | {
            "PATH": os.pathsep.join([str(installation.binaries), str(BIN), os.environ["PATH"]]),
            "PGSERVICEFILE": str(service_file(tmp_path, auth=migrated_database, restored=restored)),
        }
        try:
            for command in commands:
                run("sh", "-c", command, cwd=tmp_path, **given)

            assert schema(restored) == schema(migrated_database)
            with psycopg.connect(restored) as connection:
                users = connection.execute("SELECT email FROM users").fetchall()
            assert users == [("ada@example.com",)]
        finally:
            postgres.drop(name)


def service_file(folder, **urls):
    """Write the service file of the page for these databases, and a passfile."""
    (page,) = (text for text in blocks("text", section("Backups")) if "passfile=" in text)
    named = configparser.ConfigParser()
    named.read_string(page)
    assert named.sections() == list(urls)
    passfile, file = folder / "pgpass", folder / "pg_service.conf"
    for name, url in urls.items():
        parts = urlsplit(url)
        named[name].update(
            host=parts.hostname,
            port=str(parts.port),
            dbname=parts.path[1:],
            user=parts.username,
            passfile=str(passfile),
        )
        passfile.write_text(f"*:*:*:*:{parts.password}\n")
    passfile.chmod(0o600)
    with file.open("w") as lines:
        named.write(lines, space_around_delimiters=False)
    return file
