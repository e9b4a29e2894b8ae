"""The URL of the database: what is accepted, and the sentence about what is not."""

import pytest

from tamatar_auth.config.database_url import (
    FOREIGN_PARAMETERS,
    check_database_url,
    effective_parameters,
)
from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.settings import Settings

ENCODE = "must have special characters of the user and the password as %XX"


def rule(url):
    with pytest.raises(ValueError, match=r".") as refused:
        check_database_url(url)
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def service_file(monkeypatch, tmp_path):
    """A service `auth` with options and a name, and the variables of libpq beside it."""
    file = tmp_path / "services"
    file.write_text("[auth]\nhost=db\noptions=-csearch_path=auth\napplication_name=of-file\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))


class TestAccepted:
    """URLs that libpq reads."""

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:///auth",
            "postgres://ada@db/auth",
            "postgresql://ada:secret@db:5432,standby:5433/auth?target_session_attrs=read-write",
            "postgresql://ada:secret@[::1]:5432/auth",
            "postgresql://ada:secret@%2Frun%2Fpostgresql/auth",
            "postgresql://ada@db?sslmode=verify-full&sslrootcert=system",
            "postgresql://ada@db/auth?ssl=true",
            "postgresql:///auth?user=ada@server&host=db",
        ],
    )
    def test_url_of_libpq_is_accepted(self, url):
        check_database_url(url)

    @pytest.mark.parametrize("password", ["a[b", "a]b", "a?b", "a#b", "a:b", "%2F%40%25", "a&b=c"])
    def test_password_that_libpq_reads_is_accepted(self, password):
        url = f"postgresql://ada:{password}@db/auth"

        check_database_url(url)

        parameters = effective_parameters(url)
        assert parameters["password"] == password.replace("%2F%40%25", "/@%")

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
    def test_driver_of_sqlalchemy_is_ignored(self, driver):
        Settings.load(env_file=None, database_url=f"postgresql+{driver}://ada@db/auth")


class TestRefused:
    """URLs that libpq does not read, or reads otherwise than they are meant."""

    @pytest.mark.parametrize(
        "password",
        [
            "hunter2/x",
            "hunter2@x",
            "hunter2%zz",
            "hunter2%",
            "12/hunter2",
            "1/x?hunter2=x",
            "1/x?schema=hunter2",
            "1@x?hunter2=1",
            "x@1/hunter2?schema=1",
            "x@[hunter2",
            "x@h:hunter2",
        ],
    )
    def test_unencoded_password_is_named_as_the_cause(self, password):
        assert rule(f"postgresql://ada:{password}@db/auth").startswith(ENCODE)

    @pytest.mark.parametrize("url", ["mysql://ada:hunter2@db/x", "host=db password=hunter2", "x"])
    def test_other_scheme_is_refused(self, url):
        assert rule(url) == "must be a URL that begins with postgresql://"

    @pytest.mark.parametrize(
        ("query", "advice"),
        [
            ("schema=public", "schema (write options=-csearch_path%3DNAME)"),
            ("currentSchema=auth", "currentSchema (write options=-csearch_path%3DNAME)"),
            ("sslmode=require&pgbouncer=true", "pgbouncer (remove it)"),
            ("connection_limit=5", "connection_limit (set TAMATAR_POOL_SIZE)"),
            ("ssl=require", "ssl (use sslmode and sslrootcert)"),
            ("ssl=false", "ssl (use sslmode and sslrootcert)"),
            ("sslMode=require", "parameter 1 after the question mark (write sslmode)"),
            ("sslmod=require", "parameter 1 after the question mark (write sslmode)"),
            ("sslmode=require&hunter2=1", "parameter 2 after the question mark (remove it)"),
            ("hunter2", "parameter 1 after the question mark (write NAME=VALUE)"),
        ],
    )
    def test_foreign_parameter_is_named_with_a_remedy(self, query, advice):
        said = rule(f"postgresql://ada:secret@db/auth?{query}")

        assert said == f"has parameters that libpq does not know: {advice}"

    def test_all_foreign_parameters_are_named_at_once(self):
        said = rule("postgresql://db/auth?schema=a&pool_timeout=3")

        assert "schema (" in said
        assert "pool_timeout (remove it)" in said

    @pytest.mark.parametrize("name", ["sslmode", "target_session_attrs", "channel_binding"])
    def test_value_that_libpq_does_not_know_is_refused(self, name):
        said = rule(f"postgresql://ada:secret@db/auth?{name}=no-hunter2")

        assert said == f"has a value of {name} that libpq does not know"

    @pytest.mark.usefixtures("service_file")
    def test_unknown_service_is_refused(self):
        said = rule("postgresql:///?service=hunter2")

        assert said == "names a service that no service file defines"

    def test_foreign_parameters_are_written_in_lower_case(self):
        assert [name for name in FOREIGN_PARAMETERS if name != name.lower()] == []

    def test_rule_stands_behind_the_variable(self):
        with pytest.raises(SettingsError, match=r"^TAMATAR_DATABASE_URL \(command line\): has par"):
            Settings.load(env_file=None, database_url="postgresql://db/auth?schema=public")


@pytest.mark.usefixtures("service_file")
class TestEffectiveParameters:
    """The URL, its service file, and the variables of libpq, in this order."""

    def test_service_file_of_url_is_read(self):
        parameters = effective_parameters("postgresql:///?service=auth")

        assert parameters["options"] == "-csearch_path=auth"
        assert parameters["application_name"] == "of-file"

    def test_url_overrides_service_file(self):
        url = "postgresql:///?service=auth&application_name=of-url"

        assert effective_parameters(url)["application_name"] == "of-url"

    def test_service_file_overrides_variables(self, monkeypatch):
        monkeypatch.setenv("PGAPPNAME", "of-variable")
        monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")

        parameters = effective_parameters("postgresql:///?service=auth")

        assert (parameters["application_name"], parameters["connect_timeout"]) == ("of-file", "7")

    def test_unset_parameter_is_absent(self):
        assert "options" not in effective_parameters("postgresql://ada@db/auth")
