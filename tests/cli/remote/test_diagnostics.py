"""`tamatar-auth whoami` and `tamatar-auth db`: what the service and its database report."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tamatar_auth.migrator.revisions import head_revision


def test_whoami_prints_name_and_roles(cli):
    assert json.loads(cli("whoami", "-o", "json").stdout) == {"name": "local", "roles": ["admin"]}
    assert cli("whoami", "-o", "name").stdout == "local\n"
    assert [line.split() for line in cli("whoami").stdout.splitlines()] == [
        ["Field", "Value"],
        ["name", "local"],
        ["roles", "admin"],
    ]


def test_database_info_prints_versions_and_connections(cli):
    found = json.loads(cli("db", "info", "-o", "json").stdout)

    assert found["schema_revision"] == head_revision()
    assert found["connections"]["total"] >= 1
    assert "server_version" in cli("db", "info").stdout


def test_slowest_queries_are_shortened_in_tables_only(cli):
    cli("user", "list")
    found = json.loads(cli("db", "slowest", "-o", "json").stdout)["queries"]
    if not found:
        pytest.skip("this PostgreSQL has no pg_stat_statements")

    table = cli("db", "slowest").stdout.splitlines()
    wide = cli("db", "slowest", "-o", "wide").stdout

    assert table[0].split() == ["Query", "Seconds", "Mean", "Calls", "Rows"]
    assert max(map(len, table)) < 120
    assert "…" in "".join(table)
    assert "…" not in wide


def test_call_that_an_older_service_lacks_is_named(cli):
    older = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{older.add_insecure_port('127.0.0.1:0')}"
    older.start()

    said = cli("whoami", "--address", address, code=1).stderr
    older.stop(None)

    assert said == f"{address} does not know this call: its version may be older.\n"
