"""Every command as a separate process: its output and its exit code."""

import json
import os
import re
import shutil
import socket
import sys
from base64 import b64encode
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

import tamatar_auth
from tamatar_auth.migrator.revisions import head_revision
from tests.support.commands import BIN, ROOT, is_served, run, serving, tamatar
from tests.support.databases import TEMPLATE
from tests.support.waiting import until

UNREACHABLE = "postgresql://ada:hunter2@127.0.0.1:1/auth"
UNREADABLE = "postgresql://ada:hunter2@[127.0.0.1/auth"
KEY = "k" * 32
HELP = ("-h", "--help")
PASSWORD_KEYS = f"2026:{b64encode(b'p' * 32).decode()}"


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """A running server, for commands that call one."""
    name = f"cli_{os.getpid()}"
    url = postgres.create(name, TEMPLATE)
    with serving(cwd=tmp_path_factory.mktemp("server"), TAMATAR_DATABASE_URL=url) as server:
        yield server
    postgres.drop(name)


@pytest.fixture
def taken():
    """An address that another socket listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def rows(url, table):
    with psycopg.connect(url, row_factory=dict_row) as connection:
        every = sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(table))
        return connection.execute(every).fetchall()


def lines(ended):
    """Return the lines on stderr of a command that printed nothing else."""
    assert not ended.stdout
    return ended.stderr.splitlines()


def findings(ended):
    """Return the doctor's findings, as (ok, what, text)."""
    return [(level == "ok", what, text) for level, what, text in _lines(ended)]


def warnings(ended):
    """Return the texts of the doctor's warnings by subject."""
    return {what: text for level, what, text in _lines(ended) if level == "warn"}


def _lines(ended):
    split = (line.split(maxsplit=2) for line in ended.stdout.splitlines())
    return [found for found in split if found[1] != "scheduler"]  # it depends on the machine


class TestProgram:
    """Help, version and completion."""

    def test_version_is_printed(self, tmp_path):
        assert tamatar("version", cwd=tmp_path).stdout == f"{tamatar_auth.__version__}\n"
        in_json = tamatar("version", "-o", "json", cwd=tmp_path).stdout
        assert json.loads(in_json) == {"version": tamatar_auth.__version__}

    def test_version_option_prints_version(self, tmp_path):
        assert tamatar("--version", cwd=tmp_path).stdout == f"{tamatar_auth.__version__}\n"

    @pytest.mark.parametrize("words", ["user", "user list", "migrate up"])
    def test_help_and_version_options_are_everywhere(self, tmp_path, words):
        version = tamatar(*words.split(), "--version", cwd=tmp_path).stdout
        short, long = (tamatar(*words.split(), each, cwd=tmp_path).stdout for each in HELP)

        assert version == f"{tamatar_auth.__version__}\n"
        assert short == long
        assert short.startswith(f"Usage: tamatar-auth {words} ")

    def test_module_runs_as_command(self, tmp_path):
        module = run(BIN / "python", "-m", "tamatar_auth", "version", cwd=tmp_path)

        assert module.stdout == f"{tamatar_auth.__version__}\n"

    def test_help_lists_commands(self, tmp_path):
        said = tamatar("--help", cwd=tmp_path).stdout

        for command in ("serve", "migrate", "seed", "sweep", "healthcheck", "doctor", "config"):
            assert f"\n  {command} " in said

    def test_unknown_command_is_refused_with_hint(self, tmp_path):
        assert "No such command 'srve'" in tamatar("srve", cwd=tmp_path, code=2).stderr

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
    def test_shell_completes_commands(self, tmp_path):
        script = 'eval "$(tamatar-auth --show-completion)" && complete -p tamatar-auth'
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        assert "tamatar" in run("bash", "-c", script, cwd=tmp_path, PATH=path).stdout

        for words, count, completions in (
            ("mi", 1, ["migrate"]),
            ("--address x user li", 4, ["list"]),
            ("user list --cre", 3, ["--created-from", "--created-before"]),
            ("user list -o j", 4, ["json"]),
        ):
            asked = {"COMP_WORDS": f"tamatar-auth {words}", "COMP_CWORD": str(count)}
            given = tamatar(cwd=tmp_path, _TAMATAR_AUTH_COMPLETE="complete_bash", **asked)
            assert given.stdout.split() == completions


class TestDoctor:
    """`doctor` and `healthcheck`."""

    def test_doctor_with_all_well_reports_ok(self, tmp_path, migrated_database):
        given = {"TAMATAR_DATABASE_URL": migrated_database, "TAMATAR_LISTEN": "unix:auth.sock"}

        found = findings(tamatar("doctor", cwd=tmp_path, **given))

        assert " ".join(what for _, what, _ in found) == (
            "settings passwords factors passkeys grpcio callers certificate database clock"
            " standbys tables partitions port"
        )
        assert all(ok for ok, _, _ in found)
        assert urlsplit(migrated_database).password not in str(found)

    def test_doctor_prints_findings_as_json(self, tmp_path):
        given = {"TAMATAR_POOL_SIZE": "0"}

        ended = tamatar("doctor", "-o", "json", cwd=tmp_path, code=1, **given)

        (finding,) = json.loads(ended.stdout)["findings"]
        assert (finding["level"], finding["subject"]) == ("FAIL", "settings")
        assert finding["text"].startswith("TAMATAR_POOL_SIZE (environment): ")

    def test_doctor_in_development_needs_no_database(self, tmp_path):
        found = findings(tamatar("doctor", cwd=tmp_path, TAMATAR_LISTEN="127.0.0.1:0"))

        assert " ".join(what for _, what, _ in found) == (
            "settings passwords factors passkeys grpcio callers certificate database port"
        )

    @pytest.mark.parametrize(
        ("given", "what", "words"),
        [
            ({"TAMATAR_POOL_SIZE": "0"}, "settings", "TAMATAR_POOL_SIZE (environment): "),
            ({"TAMATAR_POOLSIZE": "9"}, "settings", "did you mean TAMATAR_POOL_SIZE?"),
            (
                {"TAMATAR_CONNECT_TIMEOUT": "5s"},
                "settings",
                "use connect_timeout in TAMATAR_DATABASE",
            ),
            (
                {"TAMATAR_PASSWORD_KEYS": "2026:c2hvcnQ="},
                "passwords",
                "TAMATAR_PASSWORD_KEYS: key 1 ",
            ),
            (
                {"TAMATAR_PASSWORD_KEYS_FILE": "missing"},
                "passwords",
                "TAMATAR_PASSWORD_KEYS_FILE: cannot be read",
            ),
            ({"TAMATAR_FACTOR_KEYS": "2026:c2hvcnQ="}, "factors", "TAMATAR_FACTOR_KEYS: key 1 "),
            ({"TAMATAR_DATABASE_URL": UNREACHABLE}, "database", "Check TAMATAR_DATABASE_URL"),
            (
                {"TAMATAR_DATABASE_URL": UNREADABLE},
                "settings",
                "TAMATAR_DATABASE_URL (environment): ",
            ),
        ],
    )
    def test_doctor_reports_problem_with_remedy(self, tmp_path, given, what, words):
        said = tamatar(
            "doctor", cwd=tmp_path, code=1, **({"TAMATAR_LISTEN": "127.0.0.1:0"} | given)
        )

        wrong = [finding for finding in findings(said) if not finding[0]]
        assert [each[1] for each in wrong] == [what]
        assert words in wrong[0][2]
        assert "hunter2" not in said.stdout + said.stderr

    def test_doctor_warns_of_open_production(self, tmp_path, migrated_database):
        production = {
            "TAMATAR_ENVIRONMENT": "production",
            "TAMATAR_DATABASE_URL": migrated_database,
            "TAMATAR_PAGE_TOKEN_KEY": KEY,
            "TAMATAR_PASSWORD_KEYS": PASSWORD_KEYS,
        }

        over_tcp = tamatar("doctor", cwd=tmp_path, **production, TAMATAR_LISTEN="127.0.0.1:0")
        on_socket = tamatar("doctor", cwd=tmp_path, **production, TAMATAR_LISTEN="unix:auth.sock")

        assert warnings(over_tcp) == {
            "callers": "none configured: every caller on this machine is an admin;"
            " set TAMATAR_CALLERS_FILE",
            "certificate": "none configured: calls are not encrypted;"
            " set TAMATAR_TLS_CERTIFICATE_FILE and TAMATAR_TLS_KEY_FILE, or use a unix socket",
            "factors": "no keys: users cannot add apps, recovery codes or passkeys;"
            " set TAMATAR_FACTOR_KEYS",
            "passkeys": "no domain: users cannot add or use passkeys;"
            " set TAMATAR_PASSKEY_RELYING_PARTY_ID and TAMATAR_PASSKEY_ORIGINS",
        }
        assert set(warnings(on_socket)) == {"callers", "factors", "passkeys"}

    def test_doctor_reports_outdated_tables(self, tmp_path, empty_database):
        given = {"TAMATAR_DATABASE_URL": empty_database, "TAMATAR_LISTEN": "127.0.0.1:0"}

        found = findings(tamatar("doctor", cwd=tmp_path, code=1, **given))

        assert (False, "tables", "not up to date; run `tamatar-auth migrate up`") in found

    def test_doctor_reports_missing_tables(self, tmp_path, empty_database, migrated_database):
        with psycopg.connect(migrated_database) as connection:
            connection.execute("DROP TABLE replaced_tokens")
        with psycopg.connect(empty_database) as connection:  # the version of another program
            connection.execute("CREATE TABLE alembic_version (version_num text)")
            connection.execute("INSERT INTO alembic_version VALUES (%s)", [head_revision()])
        given = {"TAMATAR_LISTEN": "127.0.0.1:0"}

        for url, words in (
            (migrated_database, "has no tables replaced_tokens: restore"),
            (empty_database, "not up to date; run `tamatar-auth migrate up`"),
        ):
            said = tamatar("doctor", cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=url, **given)
            (text,) = (text for ok, what, text in findings(said) if what == "tables" and not ok)
            assert words in text

    def test_doctor_reports_read_only_database(self, tmp_path, migrated_database):
        url = f"{migrated_database}?options=-c%20default_transaction_read_only%3Don"
        given = {"TAMATAR_DATABASE_URL": url, "TAMATAR_LISTEN": "127.0.0.1:0"}

        found = findings(tamatar("doctor", cwd=tmp_path, code=1, **given))

        (text,) = (text for ok, what, text in found if what == "database" and not ok)
        assert text.endswith("the database is read-only: set default_transaction_read_only to off")

    def test_doctor_recognises_own_server_on_port(self, tmp_path, server, taken):
        (ours,) = server.addresses

        def look():
            asked = tamatar("doctor", cwd=tmp_path, code=1, TAMATAR_LISTEN=f"{ours},{taken}")
            return [(ok, text) for ok, what, text in findings(asked) if what == "port"]

        served = (True, f"{ours} is answered by a server that is SERVING")
        ports = until(lambda: (found := look())[0] == served and found)
        assert not ports[1][0]
        assert ports[1][1].startswith(f"{taken} does not answer")

    def test_healthcheck_of_running_server_succeeds(self, tmp_path, server):
        (address,) = server.addresses

        until(lambda: is_served(cwd=tmp_path, TAMATAR_LISTEN=address))
        until(lambda: is_served("--address", address, cwd=tmp_path))
        asked = ("--address", address, "healthcheck", "-o", "json")
        assert json.loads(tamatar(*asked, cwd=tmp_path).stdout) == {"status": "SERVING"}

    def test_healthcheck_without_answer_fails(self, tmp_path, taken):
        asked = ("healthcheck", "--address", taken, "--timeout", "0.3")

        assert f"{taken} does not answer" in tamatar(*asked, cwd=tmp_path, code=1).stdout


IMPORTED = """
import sys
from tamatar_auth.cli.app import main
try:
    main()
finally:
    print(*sys.modules, sep="\\n")
"""


class TestJobs:
    """`migrate`, `seed` and `sweep`."""

    @pytest.mark.parametrize("command", ["migrate up", "seed", "sweep --dry-run"])
    def test_unreachable_database_is_reported_in_one_line(self, tmp_path, command):
        said = lines(
            tamatar(*command.split(), cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=UNREACHABLE)
        )

        assert len(said) == 1
        assert said[0].startswith("The database cannot be reached: connection failed: ")
        assert "Connection refused" in said[0]
        assert "hunter2" not in said[0]

    @pytest.mark.parametrize("command", ["seed", "sweep"])
    def test_database_without_tables_is_reported_with_remedy(
        self, tmp_path, empty_database, command
    ):
        said = lines(tamatar(command, cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=empty_database))

        assert len(said) == 1
        assert "`tamatar-auth migrate up`" in said[0]

    @pytest.mark.timeout(300)
    def test_migrate_commands_upgrade_check_and_downgrade(self, tmp_path, empty_database):
        def migrate(*arguments, code=0):
            return tamatar(
                "migrate", *arguments, cwd=tmp_path, code=code, TAMATAR_DATABASE_URL=empty_database
            )

        pending = migrate("status", code=1).stdout.splitlines()
        assert "no tables yet" in pending[0]
        assert [line.split()[0] for line in pending[1:]][:2] == ["0001", "0002"]
        assert "0001" in lines(migrate("up", "0001"))[0]
        where, *pending = migrate("status", code=1).stdout.splitlines()
        assert "0001" in where
        numbers = [line.split()[0] for line in pending]
        assert numbers[0] == "0002"
        assert [line.split()[0] for line in lines(migrate("up"))] == numbers
        assert numbers[-1] in migrate("status").stdout
        assert "Nothing to do" in lines(migrate("up"))[0]
        assert json.loads(migrate("status", "-o", "json").stdout)["pending"] == []
        assert not migrate("check").stdout
        assert "undone" in lines(migrate("down", "0001"))[0]
        assert "full_name" in migrate("check", code=1).stdout
        assert json.loads(migrate("check", "-o", "json", code=1).stdout)["differences"]
        assert "There is no revision 0815" in lines(migrate("up", "0815", code=1))[0]

    def test_migrate_sql_prints_statements(self, tmp_path, empty_database):
        everything = tamatar("migrate", "sql", cwd=tmp_path).stdout
        second = tamatar("migrate", "sql", "0001:0002", cwd=tmp_path).stdout

        assert "CREATE TABLE users" in everything
        assert "CREATE TABLE users" not in second
        assert "full_name" in second

    def test_seed_command_repeated_changes_nothing(self, tmp_path, migrated_database):
        given = {"TAMATAR_DATABASE_URL": migrated_database, "TAMATAR_BCRYPT_COST": "4"}
        tables = ("users", "user_profiles", "sessions")
        addresses = ["admin@tamatar.dev", "test1@example.com", "test2@example.com"]

        first = lines(tamatar("seed", cwd=tmp_path, **given))
        before = [rows(migrated_database, table) for table in tables]
        again = lines(tamatar("seed", cwd=tmp_path, **given))

        assert first == [f"{address}: created" for address in addresses]
        assert again == [f"{address}: unchanged" for address in addresses]
        assert [rows(migrated_database, table) for table in tables] == before
        assert sorted(user["email"] for user in before[0]) == addresses

    def test_seed_command_in_production_needs_password(self, tmp_path, migrated_database):
        given = {
            "TAMATAR_ENVIRONMENT": "production",
            "TAMATAR_DATABASE_URL": migrated_database,
            "TAMATAR_PAGE_TOKEN_KEY": KEY,
            "TAMATAR_PASSWORD_KEYS": PASSWORD_KEYS,
            "TAMATAR_BCRYPT_COST": "10",
        }

        (refused,) = lines(tamatar("seed", cwd=tmp_path, code=1, **given))
        assert "TAMATAR_SEED_ADMIN_PASSWORD" in refused
        assert not rows(migrated_database, "users")

        given["TAMATAR_SEED_ADMIN_PASSWORD"] = "unguessed knows this one"
        assert lines(tamatar("seed", cwd=tmp_path, **given)) == ["admin@tamatar.dev: created"]

    def test_sweep_command_dry_run_counts_and_run_removes(self, tmp_path, migrated_database):
        def sweep(*arguments):
            return lines(
                tamatar("sweep", *arguments, cwd=tmp_path, TAMATAR_DATABASE_URL=migrated_database)
            )

        with psycopg.connect(migrated_database) as connection:
            connection.execute(
                "INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'a@b.example')"
            )
            connection.execute(
                "INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)"
                " SELECT gen_random_uuid(), id, sha256('x'),"
                " now() - interval '8d', now() - interval '1d' FROM users"
            )

        dry = sweep("--dry-run")
        assert "expired sessions: 1 to remove" in dry
        assert "ended sessions: 0 to remove" in dry
        assert len(rows(migrated_database, "sessions")) == 1
        assert "expired sessions: 1 removed" in sweep()
        assert not rows(migrated_database, "sessions")

    @pytest.mark.parametrize("command", ["seed", "sweep"])
    def test_job_command_imports_no_server_or_migrations(self, tmp_path, command):
        asked = (sys.executable, "-c", IMPORTED, command)
        ended = run(*asked, cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=UNREACHABLE)

        imported = ended.stdout.splitlines()
        assert "tamatar_auth.jobs.run" in imported
        needless = (
            r"(tamatar_auth\.(server|servicers|interceptors)|alembic|protovalidate|.*_pb2_grpc)\b"
        )
        assert not [name for name in imported if re.match(needless, name)]


class TestServe:
    """`serve`."""

    def test_production_refuses_sample_users(self, tmp_path, migrated_database):
        given = {
            "TAMATAR_ENVIRONMENT": "production",
            "TAMATAR_DATABASE_URL": migrated_database,
            "TAMATAR_PAGE_TOKEN_KEY": KEY,
            "TAMATAR_PASSWORD_KEYS": PASSWORD_KEYS,
        }

        (refused,) = lines(tamatar("serve", "--dev", cwd=tmp_path, code=2, **given))

        assert "not for production" in refused
        assert not rows(migrated_database, "users")

    def test_serve_without_database_is_refused(self, tmp_path):
        said = lines(tamatar("serve", cwd=tmp_path, code=2))

        assert len(said) == 1
        assert "TAMATAR_DATABASE_URL" in said[0]
        assert "serve --dev" in said[0]

    @pytest.mark.parametrize(("command", "code"), [("serve", 2), ("seed", 2), ("doctor", 1)])
    def test_production_without_settings_names_all_it_lacks(self, tmp_path, command, code):
        said = tamatar(command, cwd=tmp_path, code=code, TAMATAR_ENVIRONMENT="production")

        missing = re.findall(
            r"(TAMATAR_\w+) \(not set\): production needs it: \w", said.stdout + said.stderr
        )
        assert missing == [
            "TAMATAR_DATABASE_URL",
            "TAMATAR_PAGE_TOKEN_KEY",
            "TAMATAR_PASSWORD_KEYS",
        ]

    def test_serve_on_taken_port_is_reported_in_one_line(self, tmp_path, server, taken):
        for address in (*server.addresses, taken, taken.replace("127.0.0.1", "localhost")):
            refused = tamatar(
                "serve", "--listen", address, cwd=tmp_path, code=2, TAMATAR_DATABASE_URL=UNREACHABLE
            )
            assert lines(refused) == [
                f"{address} is in use by another process: end that, or set TAMATAR_LISTEN."
            ]


class TestConfig:
    """Settings that are shown, and settings that are wrong."""

    def test_config_show_lists_origins_and_hides_secrets(self, tmp_path):
        (tmp_path / ".env").write_text(f"TAMATAR_POOL_SIZE=7\nTAMATAR_PAGE_TOKEN_KEY={KEY}\n")
        given = {"DATABASE_URL": UNREACHABLE, "TAMATAR_CALLERS_FILE": "[red]auth"}
        expected = {
            "DATABASE_URL": ("********", "environment"),
            "TAMATAR_CALLERS_FILE": ("[red]auth", "environment"),
            "TAMATAR_POOL_SIZE": ("7", ".env file"),
            "TAMATAR_PAGE_TOKEN_KEY": ("********", ".env file"),
            "TAMATAR_LISTEN": ("127.0.0.1:50051", "default"),
            "TAMATAR_SEED_ADMIN_PASSWORD": ("-", "default"),
        }

        as_json = tamatar("config", "show", "-o", "json", cwd=tmp_path, **given).stdout
        table = tamatar("config", "show", cwd=tmp_path, **given).stdout

        shown = {
            row["variable"]: (row["value"], row["place"]) for row in json.loads(as_json)["settings"]
        }
        assert shown.items() >= expected.items()
        header, *body = table.splitlines()
        assert header.split()[:3] == ["Setting", "Value", "From"]
        assert [line.split()[0] for line in body] == list(shown)
        for variable, (value, place) in expected.items():
            (line,) = (line for line in body if line.startswith(f"{variable} "))
            assert line.removeprefix(variable).lstrip().startswith(value)
            assert f" {place} " in line
        assert "hunter2" not in as_json + table
        assert KEY not in as_json + table

    def test_config_show_reports_unused_variables_on_stderr(self, tmp_path):
        given = {"TAMATAR_POOLSIZE": "1", "TAMATAR_POOL_WAIT": "1s"}

        said = tamatar("config", "show", "-o", "json", cwd=tmp_path, **given)

        removed = "TAMATAR_POOL_WAIT (environment) was removed: calls always wait up to 1s"
        unknown = "TAMATAR_POOLSIZE (environment): is not known; did you mean TAMATAR_POOL_SIZE?"
        assert said.stderr.splitlines() == [unknown, removed]
        json.loads(said.stdout)

    def test_config_example_equals_file_of_repository(self, tmp_path):
        printed = tamatar("config", "example", cwd=tmp_path, TAMATAR_POOL_SIZE="7").stdout

        assert printed == (ROOT / ".env.example").read_text()

    def test_copy_of_config_example_changes_nothing(self, tmp_path):
        shutil.copy(ROOT / ".env.example", tmp_path / ".env")

        shown = json.loads(
            tamatar("config", "show", "-o", "json", cwd=tmp_path, DATABASE_URL=UNREACHABLE).stdout
        )
        said = lines(tamatar("migrate", "status", cwd=tmp_path, code=1, DATABASE_URL=UNREACHABLE))

        places = {row["variable"]: row["place"] for row in shown["settings"]}
        assert places.pop("DATABASE_URL") == "environment"
        assert set(places.values()) == {".env file"}
        assert "cannot be reached" in said[0]

    @pytest.mark.parametrize("command", ["serve", "config show"])
    def test_invalid_settings_are_named_with_origins(self, tmp_path, command):
        (tmp_path / ".env").write_text("TAMATAR_POOL_SIZE=0\n")
        wrong = {
            "TAMATAR_LISTEN": "nowhere",
            "TAMATAR_BCRYPT_COST": "99",
            "DATABASE_URL": UNREADABLE,
        }

        first, *said = lines(tamatar(*command.split(), cwd=tmp_path, code=2, **wrong))

        assert first == "The settings are wrong:"
        assert sorted(line.partition(": ")[0] for line in said) == [
            "DATABASE_URL (environment)",
            "TAMATAR_BCRYPT_COST (environment)",
            "TAMATAR_LISTEN (environment)",
            "TAMATAR_POOL_SIZE (.env file)",
        ]
        assert "hunter2" not in "".join(said)

    def test_invalid_option_is_named(self, tmp_path):
        said = tamatar("serve", "--listen", "nowhere", cwd=tmp_path, code=2).stderr

        assert "Invalid value for '--listen': must be host:port" in said

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (
                {"TAMATAR_LISTEN": "0.0.0.0:50051"},
                "TAMATAR_LISTEN (environment): 0.0.0.0:50051 can",
            ),
            (
                {"TAMATAR_PAGE_TOKEN_KEY": ""},
                "TAMATAR_PAGE_TOKEN_KEY (environment): production needs it",
            ),
            (
                {"TAMATAR_PASSWORD_KEYS": ""},
                "TAMATAR_PASSWORD_KEYS (environment): production needs it",
            ),
            ({"TAMATAR_PASSWORD_KEYS": "1:hunter2"}, "TAMATAR_PASSWORD_KEYS: key 1 must be base64"),
            (
                {"TAMATAR_PASSWORD_KEYS_FILE": "nothing"},
                "TAMATAR_PASSWORD_KEYS_FILE: cannot be read",
            ),
            ({"TAMATAR_BCRYPT_COST": "4"}, "must be 10 or more in production"),
            ({"TAMATAR_CALLER_FILE": "callers.toml"}, "did you mean TAMATAR_CALLERS_FILE?"),
            (
                {"TAMATAR_DATABASE_URL": ""},
                "TAMATAR_DATABASE_URL (environment): production needs it",
            ),
        ],
    )
    def test_production_refuses_unsafe_settings(self, tmp_path, given, words):
        whole = {
            "TAMATAR_ENVIRONMENT": "production",
            "TAMATAR_DATABASE_URL": UNREACHABLE,
            "TAMATAR_PAGE_TOKEN_KEY": KEY,
            "TAMATAR_PASSWORD_KEYS": PASSWORD_KEYS,
            "TAMATAR_LISTEN": "127.0.0.1:0",
        }

        said = lines(tamatar("serve", cwd=tmp_path, code=2, **(whole | given)))

        assert words in said[-1]
        assert "hunter2" not in "".join(said)
