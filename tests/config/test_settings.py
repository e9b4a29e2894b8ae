"""Settings: read from the environment and a file, and validated by name."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tamatar_auth.cli.local.config import MASK, example_file, setting_rows
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import OTHER_VARIABLES, REMOVED_VARIABLES, Sources
from tamatar_auth.config.types import format_duration

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    for setting in all_settings(Settings):
        for variable in setting.variables:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def place(variable):
    return Sources(Settings).find_origin([variable]).place


def unknown():
    return [str(each) for each in Sources(Settings).unknown()]


@pytest.fixture
def production(monkeypatch):
    monkeypatch.setenv("TAMATAR_ENVIRONMENT", "production")
    monkeypatch.setenv("TAMATAR_DATABASE_URL", "postgresql://db/x")
    monkeypatch.setenv("TAMATAR_PAGE_TOKEN_KEY", "k" * 32)
    monkeypatch.setenv("TAMATAR_PASSWORD_KEYS_FILE", "keys")


def complaint(**given):
    with pytest.raises(SettingsError) as refused:
        Settings.load(**given)
    return str(refused.value)


class TestErrors:
    """Settings that are refused."""

    @pytest.mark.parametrize(
        ("variable", "value", "must"),
        [
            ("TAMATAR_SESSION_LIFETIME", "soon", "must be a duration"),
            ("TAMATAR_SESSION_LIFETIME", "1s", "must be between 1m and 365d"),
            ("TAMATAR_SESSION_IDLE_LIMIT", "59s", "must be 0, or between 1m and 365d"),
            ("TAMATAR_BCRYPT_COST", "99", "less than or equal to 16"),
            ("TAMATAR_HASH_THREADS", "0", "greater than or equal to 1"),
            ("TAMATAR_HASH_THREADS", "257", "less than or equal to 256"),
            ("TAMATAR_HASH_QUEUE", "-1", "greater than or equal to 0"),
            ("TAMATAR_HASH_QUEUE", "10001", "less than or equal to 10000"),
            ("TAMATAR_LOCK_TIMEOUT", "1ms", "must be between 10ms and 10m"),
            ("TAMATAR_LISTEN", "nowhere", "must be host:port"),
            ("TAMATAR_LISTEN", "127.0.0.1:70000", "must be host:port"),
            ("TAMATAR_LISTEN", "", "at least 1 item"),
            ("TAMATAR_ENVIRONMENT", "staging", "'development' or 'production'"),
            ("TAMATAR_METRICS_ENABLED", "perhaps", "valid boolean"),
            ("METRICS_ENABLED", "perhaps", "valid boolean"),
        ],
    )
    def test_invalid_value_is_named_with_its_origin(self, monkeypatch, variable, value, must):
        monkeypatch.setenv(variable, value)

        said = complaint()

        assert said.startswith(f"{variable} (environment): ")
        assert must in said
        assert len(said.splitlines()) == 1

    def test_all_invalid_values_are_named_at_once(self, monkeypatch):
        Path(".env").write_text("TAMATAR_POOL_SIZE=0\n")
        monkeypatch.setenv("TAMATAR_BCRYPT_COST", "x")

        lines = complaint().splitlines()

        assert any(line.startswith("TAMATAR_POOL_SIZE (.env file): ") for line in lines)
        assert any(line.startswith("TAMATAR_BCRYPT_COST (environment): ") for line in lines)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("TAMATAR_DATABASE_URL", "mysql://root:hunter2@db/x"),
            ("TAMATAR_DATABASE_URL", "postgresql://root:hunter2%zz@db/x"),
            ("TAMATAR_DATABASE_URL", "postgresql://root:hunter2@db/x?hunter2=1"),
            ("TAMATAR_PAGE_TOKEN_KEY", "hunter2"),
        ],
    )
    def test_secret_value_is_never_shown(self, monkeypatch, variable, value):
        monkeypatch.setenv(variable, value)

        said = complaint()

        assert variable in said
        assert "hunter2" not in said

    @pytest.mark.parametrize(
        "address", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "auth.local:1"]
    )
    def test_address_open_to_others_is_refused(self, monkeypatch, address):
        monkeypatch.setenv("TAMATAR_LISTEN", f"127.0.0.1:50051,{address}")

        assert f"{address} can be reached from other machines" in complaint()

    def test_production_names_all_missing_settings_at_once(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_ENVIRONMENT", "production")
        monkeypatch.setenv("TAMATAR_LISTEN", "0.0.0.0:50051")
        monkeypatch.setenv("TAMATAR_PAGE_TOKEN_KEY", "")

        assert [line.partition(": ")[0] for line in complaint().splitlines()] == [
            "TAMATAR_LISTEN (environment)",
            "TAMATAR_DATABASE_URL (not set)",
            "TAMATAR_PAGE_TOKEN_KEY (environment)",
            "TAMATAR_PASSWORD_KEYS (not set)",
        ]

    def test_production_names_missing_settings_beside_wrong_ones(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_ENVIRONMENT", "production")
        monkeypatch.setenv("DATABASE_URL", "mysql://db/x")
        monkeypatch.setenv("TAMATAR_PAGE_TOKEN_KEY", "short")
        monkeypatch.setenv("TAMATAR_TLS_KEY_FILE", "tls.key")

        assert [line.partition(": ")[0] for line in complaint().splitlines()] == [
            "TAMATAR_PAGE_TOKEN_KEY (environment)",
            "DATABASE_URL (environment)",
            "TAMATAR_TLS_KEY_FILE (environment)",
            "TAMATAR_PASSWORD_KEYS (not set)",
        ]

    def test_production_needs_real_bcrypt_cost(self, production, monkeypatch):
        assert Settings.load().effective_log_level == "info"

        monkeypatch.setenv("TAMATAR_BCRYPT_COST", "4")
        assert complaint() == "TAMATAR_BCRYPT_COST (environment): must be 10 or more in production"

    def test_conflicting_settings_are_named_with_their_origin(self, monkeypatch):
        Path(".env").write_text("TAMATAR_TLS_KEY_FILE=key.pem\n")
        assert complaint() == (
            "TAMATAR_TLS_KEY_FILE (.env file): needs TAMATAR_TLS_CERTIFICATE_FILE beside it"
        )

        monkeypatch.setenv("TAMATAR_LISTEN", "127.0.0.1:1")
        said = complaint(listen="0.0.0.0:1").splitlines()[-1]
        assert said.startswith("TAMATAR_LISTEN (command line): 0.0.0.0:1 can be reached")


class TestValues:
    """Durations and addresses."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("250ms", timedelta(milliseconds=250)),
            ("10s", timedelta(seconds=10)),
            ("10", timedelta(seconds=10)),
            ("1.5m", timedelta(seconds=90)),
            ("1h", timedelta(hours=1)),
        ],
    )
    def test_durations_accept_units(self, monkeypatch, text, value):
        monkeypatch.setenv("TAMATAR_SLOW_QUERY", text)

        assert Settings.load().telemetry.slow_query == value

    @pytest.mark.parametrize("text", ["7d", "90s", "250ms", "0s", "12h", "30m"])
    def test_duration_is_formatted_as_it_is_parsed(self, text):
        units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
        number = text.rstrip("dhms")
        seconds = float(number) * units[text[len(number) :]]
        assert format_duration(timedelta(seconds=seconds)) == text

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:1", ListenAddress("127.0.0.1", 1)),
            ("[::1]:2", ListenAddress("::1", 2)),
            ("localhost:3", ListenAddress("localhost", 3)),
            ("unix:/run/a b.sock", ListenAddress("", 0, "/run/a b.sock")),
            ("unix:///run/a.sock", ListenAddress("", 0, "/run/a.sock")),
            ("unix:a.sock", ListenAddress("", 0, "a.sock")),
        ],
    )
    def test_listen_addresses_are_parsed_and_formatted(self, text, address):
        read = ListenAddress.parse(text)

        assert read == address
        assert read.is_local
        assert ListenAddress.parse(str(read)) == read


class TestSources:
    """The environment, the file and the defaults."""

    def test_settings_have_defaults_in_development(self):
        settings = Settings.load()

        assert settings.environment == "development"
        assert settings.sessions.lifetime == timedelta(days=7)
        assert [str(address) for address in settings.listen] == ["127.0.0.1:50051"]
        assert str(settings.telemetry.metrics_listen) == "127.0.0.1:9464"
        assert settings.effective_log_level == "debug"

    def test_import_of_settings_loads_no_driver(self):
        code = "import sys; import tamatar_auth.config.settings; print(*sys.modules)"
        modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()

        assert "pydantic" in modules
        assert not {"psycopg", "sqlalchemy"}.intersection(modules)

    def test_environment_overrides_env_file(self, monkeypatch):
        Path(".env").write_text("TAMATAR_POOL_SIZE=3\nTAMATAR_BCRYPT_COST=11\n")
        monkeypatch.setenv("TAMATAR_BCRYPT_COST", "13")

        settings = Settings.load()

        assert (settings.database.pool_size, settings.passwords.bcrypt_cost) == (3, 13)
        assert place("TAMATAR_POOL_SIZE") == ".env file"
        assert place("TAMATAR_BCRYPT_COST") == "environment"
        assert place("TAMATAR_SLOW_QUERY") == "default"

    @pytest.mark.parametrize("variable", ["TAMATAR_DATABASE_URL", "DATABASE_URL"])
    def test_database_url_has_two_names(self, monkeypatch, variable):
        monkeypatch.setenv(variable, "postgresql://ada:hunter2@db/auth")

        settings = Settings.load()

        assert settings.database.url.get_secret_value().endswith("@db/auth")
        assert "hunter2" not in repr(settings) + str(setting_rows(settings))
        assert MASK in str(setting_rows(settings))
        assert f"'{variable}'" in str(setting_rows(settings))

    def test_own_name_of_database_url_wins(self, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", "postgresql://theirs/x")
        monkeypatch.setenv("TAMATAR_DATABASE_URL", "postgresql://ours/x")

        assert Settings.load().database.url.get_secret_value() == "postgresql://ours/x"

    def test_empty_variable_hides_no_other_name(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_DATABASE_URL", "")
        monkeypatch.setenv("DATABASE_URL", "postgresql://theirs/x")

        assert Settings.load().database.url.get_secret_value() == "postgresql://theirs/x"
        assert Sources(Settings).find_origin(["TAMATAR_DATABASE_URL", "DATABASE_URL"]) == (
            "DATABASE_URL",
            "environment",
        )

    def test_empty_variable_hides_no_env_file(self, monkeypatch):
        Path(".env").write_text("TAMATAR_CALLERS_FILE=callers.toml\nDATABASE_URL=postgresql:///x\n")
        for variable in ("TAMATAR_CALLERS_FILE", "TAMATAR_DATABASE_URL", "DATABASE_URL"):
            monkeypatch.setenv(variable, "")

        assert Settings.load().callers_file == Path("callers.toml")
        assert place("DATABASE_URL") == ".env file"

    @pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
    def test_line_break_at_end_of_value_is_ignored(self, monkeypatch, ending):
        monkeypatch.setenv("TAMATAR_DATABASE_URL", f"postgresql://db/x{ending}")
        monkeypatch.setenv("TAMATAR_SEED_ADMIN_PASSWORD", f"twelve spaces {ending}")
        Path(".env").write_text(f'TAMATAR_PAGE_TOKEN_KEY="{"k" * 32}{ending}"\n')
        monkeypatch.setenv("TAMATAR_CALLERS_FILE", ending)

        settings = Settings.load()

        assert settings.database.url == SecretStr("postgresql://db/x")
        assert settings.seed_admin_password == SecretStr("twelve spaces ")
        assert settings.page_token_key == SecretStr("k" * 32)
        assert settings.callers_file is None

    def test_env_example_lists_all_settings_with_defaults(self, monkeypatch):
        text = (ROOT / ".env.example").read_text()

        assert text == example_file()
        Path(".env").write_text(text)
        defaults = Settings.load()
        assert defaults.model_dump() == Settings.load(env_file=None).model_dump()

    def test_unknown_variable_is_found(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_BCRYPT_COSTS", "12")
        Path(".env").write_text("tamatar_pool_sise=3\nTAMATAR_POOL_SIZE=3\nOTHER=1\n")

        assert unknown() == [
            "TAMATAR_BCRYPT_COSTS (environment): is not known; did you mean TAMATAR_BCRYPT_COST?",
            "tamatar_pool_sise (.env file): is not known; did you mean TAMATAR_POOL_SIZE?",
        ]

    @pytest.mark.parametrize(
        ("variable", "advice"),
        [
            ("TAMATAR_CALLER_FILE", "did you mean TAMATAR_CALLERS_FILE?"),
            ("TAMATAR_CALLERS", "did you mean TAMATAR_CALLERS_FILE?"),
            ("TAMATAR_TLS_CERT_FILE", "did you mean TAMATAR_TLS_CERTIFICATE_FILE?"),
            ("TAMATAR_DB_URL", "did you mean TAMATAR_DATABASE_URL?"),
            ("TAMATAR_XYZZY", "remove it"),
        ],
    )
    def test_unknown_variable_stops_production(self, production, monkeypatch, variable, advice):
        monkeypatch.setenv(variable, "hunter2")

        assert complaint() == f"{variable} (environment): is not known; {advice}"
        monkeypatch.setenv("TAMATAR_ENVIRONMENT", "development")
        assert Settings.load().environment == "development"

    @pytest.mark.parametrize("variable", ["TAMATAR_ENVIRONMNET", "TAMATAR_ENV"])
    def test_misspelt_environment_stops_development(self, monkeypatch, variable):
        monkeypatch.setenv(variable, "production")

        assert "did you mean TAMATAR_ENVIRONMENT?" in complaint()

    def test_unknown_variable_is_named_beside_missing_one(self, production, monkeypatch):
        monkeypatch.delenv("TAMATAR_PAGE_TOKEN_KEY")
        monkeypatch.setenv("TAMATAR_PAGE_TOKEN_KEYS", "k" * 32)

        first, second = complaint().splitlines()

        assert first.startswith("TAMATAR_PAGE_TOKEN_KEY (not set): production needs it")
        assert second.endswith("did you mean TAMATAR_PAGE_TOKEN_KEY?")

    def test_variables_of_our_tools_are_known(self, production, monkeypatch):
        for variable in sorted(OTHER_VARIABLES):
            monkeypatch.setenv(variable, "1")
        monkeypatch.setenv("_TAMATAR_AUTH_COMPLETE", "1")
        monkeypatch.setenv("TAMATAR_POOL_WAIT", "1s")  # removed ones are warnings only

        assert Settings.load().environment == "production"

    @pytest.mark.parametrize("service", ["TAMATAR", "TAMATAR_AUTH"])
    def test_service_links_of_kubernetes_are_known(self, production, monkeypatch, service):
        for end in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT"):
            monkeypatch.setenv(f"{service}_{end}", "10.0.0.1")
        for end in ("", "_PROTO", "_PORT", "_ADDR"):
            monkeypatch.setenv(f"{service}_PORT_50051_TCP{end}", "tcp")
        assert Settings.load().environment == "production"

        monkeypatch.setenv("TAMATAR_OTHER_PORT", "tcp://10.0.0.1:1")
        assert complaint().startswith("TAMATAR_OTHER_PORT (environment): is not known")

    @pytest.mark.parametrize("line", ["TAMATAR_CALLERS_FILE", "TAMATAR_CALLERS_FILE: x", "=x"])
    def test_unreadable_line_of_env_file_stops_production(self, production, line):
        Path(".env").write_text(f"# ours\nOTHER\n\n{line}\n")

        assert complaint() == "line 4 (.env file): cannot be read; write NAME=VALUE"

    def test_byte_order_mark_hides_no_line_of_env_file(self):
        Path(".env").write_text("TAMATAR_ENVIRONMENT=production\n", encoding="utf-8-sig")

        assert "TAMATAR_PAGE_TOKEN_KEY (not set): production needs it" in complaint()

    def test_env_file_that_is_not_utf8_is_refused(self):
        Path(".env").write_bytes("TAMATAR_SEED_ADMIN_PASSWORD=m\u00fcnchen".encode("latin-1"))

        assert complaint() == ".env file: cannot be read; save it as UTF-8"

    def test_settings_can_be_pointed_at_another_database(self):
        settings = Settings.load().with_database("postgresql://db/x")

        assert settings.database.url == SecretStr("postgresql://db/x")

    def test_removed_variable_is_reported_apart_from_unknown_ones(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_POOL_WAIT", "1s")
        Path(".env").write_text("TAMATAR_POOL_RECYCLE=30m\n")
        sources = Sources(Settings)

        assert ("TAMATAR_POOL_WAIT", "environment") in sources.removed()
        assert ("TAMATAR_POOL_RECYCLE", ".env file") in sources.removed()
        assert unknown() == []

    def test_removed_variables_are_no_settings(self):
        known = {variable for setting in all_settings(Settings) for variable in setting.variables}

        assert not known & REMOVED_VARIABLES.keys()

    def test_override_that_is_no_setting_raises(self):
        with pytest.raises(TypeError, match="TAMATAR_POOL_SISE"):
            Settings.load(pool_sise=3)
