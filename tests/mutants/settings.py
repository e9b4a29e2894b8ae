"""Mutants of settings, the database URL, the table of our revision, and files of users."""

from tests.mutants.mutant import mutant

_SOURCES = "config/sources.py"
_SETTINGS = "config/settings.py"
_URL = "config/database_url.py"
_VERSION_TABLE = "migrator/version_table.py"

_TEST_SETTINGS = "config/test_settings.py"
_TEST_URL = "config/test_database_url.py"
_TEST_DATABASE = "storage/test_database.py::TestConnectionSettings"
_TEST_VERSION_TABLE = "migrator/test_version_table.py"

MUTANTS = (
    mutant(
        "empty_variable_hides_others",
        _SOURCES,
        'if by_name.get(variable, "") != "":',
        "if variable in by_name:",
        _TEST_SETTINGS,
    ),
    mutant(
        "line_break_stays_in_secret",
        _SOURCES,
        'text.rstrip("\\r\\n")',
        "text",
        _TEST_SETTINGS,
    ),
    mutant(
        "unknown_variable_starts_production",
        _SETTINGS,
        'settings.environment == "production" or is_meant',
        "is_meant",
        _TEST_SETTINGS,
    ),
    mutant(
        "misspelt_environment_starts_development",
        _SETTINGS,
        'settings.environment == "production" or is_meant',
        'settings.environment == "production"',
        _TEST_SETTINGS,
    ),
    mutant(
        "slash_in_password_is_a_database",
        _URL,
        ' or "@" in database',
        "",
        _TEST_URL,
    ),
    mutant(
        "value_that_libpq_refuses_is_accepted",
        _URL,
        "    _check_values(url)\n",
        "",
        _TEST_URL,
    ),
    mutant(
        "pgoptions_are_dropped",
        "storage/driver/connect.py",
        "f\"{arguments['options']} {in_url['options']}\"",
        'arguments["options"]',
        _TEST_DATABASE,
    ),
    mutant(
        "revision_of_other_program_is_moved",
        _VERSION_TABLE,
        "bool_and(version_num IN ({known}))",
        "true",
        _TEST_VERSION_TABLE,
    ),
    mutant(
        "version_table_of_other_schema_is_moved",
        _VERSION_TABLE,
        "JOIN pg_class ours ON ours.relnamespace = former.relnamespace",
        "JOIN pg_class ours ON true",
        _TEST_VERSION_TABLE,
    ),
    mutant(
        "move_loses_privileges",
        _VERSION_TABLE,
        "AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')",
        "AND false",
        _TEST_VERSION_TABLE,
    ),
    mutant(
        "tables_of_other_programs_are_differences",
        "migrator/migrations.py",
        'return kind != "table" or name in metadata.tables',
        "return True",
        "migrator/test_migrations.py::TestCheck",
    ),
    mutant(
        "missing_table_is_served",
        "storage/readiness.py",
        "if state.missing_tables:",
        "if False:",
        "server/test_app.py::TestDatabase::test_missing_table_stops_serving",
    ),
    mutant(
        "open_production_is_no_warning",
        "cli/local/doctor.py",
        'if settings.environment == "development":\n        return Finding(subject',
        "if True:\n        return Finding(subject",
        "cli/test_app.py::TestDoctor",
    ),
    mutant(
        "doctor_accepts_any_password_keys",
        "cli/local/doctor.py",
        'return Finding("passwords", ok=False',
        'return Finding("passwords", ok=True',
        "cli/test_app.py::TestDoctor::test_doctor_reports_problem_with_remedy",
    ),
    mutant(
        "doctor_accepts_any_factor_keys",
        "cli/local/doctor.py",
        'return Finding("factors", ok=False',
        'return Finding("factors", ok=True',
        "cli/test_app.py::TestDoctor::test_doctor_reports_problem_with_remedy",
    ),
    mutant(
        "passkey_origin_may_be_outside_of_domain",
        "config/web_origins.py",
        'host.endswith(f".{domain}")',
        "host.endswith(domain)",
        "config/test_web_origins.py",
    ),
    mutant(
        "passkey_origin_may_be_unencrypted",
        "config/web_origins.py",
        'if match["scheme"] == "http" and',
        "if False and",
        "config/test_web_origins.py",
    ),
    mutant(
        "address_is_called_with_token_of_context",
        "cli/remote/service_selection.py",
        'if address is not None and "context" not in level:',
        "if False:",
        "cli/remote/test_service_selection.py",
    ),
    mutant(
        "token_of_variable_is_sent_to_named_context",
        "cli/remote/service_selection.py",
        'if "context" in options:',
        "if False:",
        "cli/remote/test_service_selection.py",
    ),
    mutant(
        "token_of_variable_is_sent_to_other_address",
        "cli/remote/service_selection.py",
        'options.get("address", named) == named',
        "True",
        "cli/remote/test_service_selection.py",
    ),
    mutant(
        "last_of_two_fields_wins",
        "cli/transfer/row_reader.py",
        "value if counts[name] == 1 else _TWICE",
        "value",
        "cli/transfer/test_row_reader.py",
    ),
)
