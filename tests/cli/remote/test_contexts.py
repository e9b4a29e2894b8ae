"""Contexts: the service to call and how, and the secrecy of the token."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tamatar_auth.security.callers import CallerToken
from tests.support.canaries import SUITE
from tests.support.certificates import Authority
from tests.support.commands import COMMAND, run, serving, tamatar
from tests.support.databases import TEMPLATE

TOKEN = CallerToken.issue()
WEAK = CallerToken.issue()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "contexts.toml"


@pytest.fixture
def mine(tmp_path, file):
    """Return a function that runs a command of a user without contexts."""

    def ask(*arguments, code=0, entered="", **env):
        given = {"TAMATAR_CONTEXTS_FILE": str(file)} | env
        return tamatar(*arguments, cwd=tmp_path, code=code, entered=entered, **given)

    return ask


def test_context_file_is_private_and_token_never_shown(mine, file):
    SUITE.add_secrets(TOKEN.text)
    added = mine(
        *("context", "add", "prod", "auth.example.com:50051", "--token-stdin"),
        *("--server-name", "auth.internal"),
        entered=f"{TOKEN.text}\n",
    )

    assert TOKEN.text in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    shown = json.loads(mine("context", "show", "-o", "json").stdout)
    assert shown == {
        "name": "prod",
        "address": "auth.example.com:50051",
        "token": "********",
        "server_name": "auth.internal",
    }
    assert "a token" in mine("context", "list").stdout
    assert "prod is auth.example.com:50051" in added.stderr


def test_first_context_is_current_until_another_is_used(mine):
    def current():
        listed = json.loads(mine("context", "list", "-o", "json").stdout)["contexts"]
        return [one["name"] for one in listed if one["is_current"]], len(listed)

    assert current() == (["local"], 1)
    mine("context", "add", "one", "127.0.0.1:1")
    mine("context", "add", "two", "127.0.0.1:2")
    assert current() == (["one"], 2)
    mine("context", "use", "two")
    assert current() == (["two"], 2)
    mine("context", "add", "three", "127.0.0.1:3", "--use")
    mine("context", "remove", "three")
    assert current() == (["local"], 3)
    assert "There is no context three" in mine("context", "use", "three", code=2).stderr
    assert "There is no context three" in mine("context", "remove", "three", code=2).stderr


def test_command_calls_service_of_its_context(mine, server_address):
    mine("context", "add", "away", "127.0.0.1:1")
    mine("context", "add", "here", server_address)

    assert "127.0.0.1:1 does not answer" in mine("user", "list", code=3).stderr
    mine("user", "list", "--context", "here")
    mine("user", "list", TAMATAR_CONTEXT="here")
    mine("user", "list", "--context", "here", TAMATAR_CONTEXT="away")
    assert "There is no context nope" in mine("user", "list", "--context", "nope", code=2).stderr


def test_missing_contexts_file_is_named(mine, file):
    said = mine("user", "list", code=2).stderr

    assert said.startswith(f"TAMATAR_CONTEXTS_FILE names {file}, which does not exist")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("contexts = 1", "must have a table"),
        ("[contexts.x]", "must have an address"),
        ('[contexts.x]\naddress = "a"\npassword = "b"', "must have an address"),
        ("[contexts.x]\naddress = 1", "must be a text"),
        ("not toml", "cannot be read"),
        ('current = "x"', "There is no context x"),
    ],
)
def test_invalid_contexts_file_is_reported(mine, file, text, words):
    file.parent.mkdir()
    file.write_text(text)

    said = mine("user", "list", code=2).stderr

    assert words in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "entered", "words"),
    [
        (("--token-stdin",), "hunter2\n", "The token in stdin is not valid"),
        (("--token-stdin",), "tms_hunter2\n", "The token in stdin is the token of a session"),
        (("--token-file", os.devnull), "", "The token in /dev/null is empty"),
        (("--token-file", "nothing"), "", "cannot be read"),
        (("--token-stdin", "--token-env", "X"), "", "Use only one"),
        (("--certificate", "x.pem"), "", "private_key must be used together"),
        (("--ca", "x.pem", "--plaintext"), "", "cannot be used with plain text"),
        (("--ca", "nothing.pem"), "", "nothing.pem cannot be read: No such file or directory."),
    ],
)
def test_unusable_context_is_not_saved(mine, file, options, entered, words):
    said = mine("context", "add", "x", "auth.example.com:1", *options, code=2, entered=entered)

    assert words in said.stderr
    assert "hunter2" not in said.stderr
    assert not file.exists()


@pytest.mark.parametrize(
    "address", ["nowhere:", "http://ada:hunter2@auth.example.com", "auth:70000", "a b"]
)
@pytest.mark.parametrize("options", [(), ("--token-env", "UNSET"), ("--token-file", "nothing")])
def test_context_with_malformed_address_is_not_saved(mine, file, address, options):
    said = mine("context", "add", "x", address, *options, code=2).stderr

    assert said.startswith("The address must be host:port, [address]:port, unix:path")
    assert "hunter2" not in said
    assert not file.exists()


@pytest.fixture(scope="module")
def guarded(postgres, tmp_path_factory):
    """A server that requires TLS and tokens, and the certificate of its authority."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority.make()
    certificate, key = authority.sign("localhost").write(folder)
    ca, _ = authority.root.write(folder, "ca")
    callers = folder / "callers.toml"
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    callers.write_text(
        "".join(
            f'[callers.{role}]\nroles = ["{role}"]\n[[callers.{role}.tokens]]\n'
            f'sha256 = "{token.digest.hex()}"\nexpires = {expires}\n'
            for role, token in (("admin", TOKEN), ("validator", WEAK))
        )
    )
    name = f"guarded_{os.getpid()}"
    server_url = postgres.create(name, TEMPLATE)
    given = {
        "TAMATAR_DATABASE_URL": server_url,
        "TAMATAR_CALLERS_FILE": str(callers),
        "TAMATAR_TLS_CERTIFICATE_FILE": str(certificate),
        "TAMATAR_TLS_KEY_FILE": str(key),
    }
    with serving(cwd=folder, **given) as server:
        yield server.addresses[0], ca
    postgres.drop(name)


def test_context_authenticates_with_its_token(mine, tmp_path, guarded):
    server_address, ca = guarded
    known = ("context", "add", "x", server_address, "--ca", str(ca), "--server-name", "localhost")
    (tmp_path / "token").write_text(f"{TOKEN.text}\n")

    mine(*known, "--token-file", "token")
    mine("user", "list")
    mine(*known, "--token-env", "MY_TOKEN")
    mine("user", "list", MY_TOKEN=TOKEN.text)
    assert "MY_TOKEN is not set" in mine("user", "list", code=2).stderr
    said = mine("user", "list", code=2, MY_TOKEN="hunter2").stderr
    assert "The token in MY_TOKEN is not valid" in said
    mine(*known)
    assert "CALLER_UNKNOWN" in mine("user", "list", code=5).stderr


def test_command_without_role_prints_sufficient_roles(mine, guarded):
    server_address, ca = guarded
    known = ("context", "add", "x", server_address, "--ca", str(ca), "--server-name", "localhost")
    mine(*known, "--token-env", "MY_TOKEN")

    said = mine("user", "list", code=5, MY_TOKEN=WEAK.text).stderr

    assert "(CALLER_NOT_ALLOWED)" in said
    assert "The call needs one of these roles: accounts,admin." in said


def test_shell_completes_contexts(mine, tmp_path, file):
    mine("context", "add", "production", "127.0.0.1:1")
    asked = {"COMP_WORDS": "tamatar-auth context use pro", "COMP_CWORD": "3"}

    given = mine(_TAMATAR_AUTH_COMPLETE="complete_bash", **asked)

    assert given.stdout.split() == ["production"]


WITHOUT_THE_SERVER = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "alembic", "bcrypt", "cryptography", "email_validator", "grpc_health", "grpc_status",
            "opentelemetry", "dotenv", "protovalidate", "psycopg", "sqlalchemy",
            "structlog", "tomlkit", "uuid_utils", "uvloop", "zxcvbn",
        }:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
from tamatar_auth.__main__ import main
main()
"""


def test_remote_commands_need_no_server_packages(tmp_path, surroundings):
    for command in (("user", "list"), ("context", "list"), ("version",)):
        run(sys.executable, "-c", WITHOUT_THE_SERVER, *command, cwd=tmp_path, **surroundings)
    said = run(sys.executable, "-c", WITHOUT_THE_SERVER, "seed", cwd=tmp_path, code=2).stderr
    assert "tamatar-auth[server]" in said


def test_cli_app_imports_no_client(tmp_path):
    code = "import sys; from tamatar_auth.cli import app; print(*sys.modules)"
    imported = run(sys.executable, "-c", code, cwd=tmp_path).stdout.split()

    assert "tamatar_auth.cli.app" in imported
    assert not {"grpc", "google.protobuf", "tamatar_auth.client"} & set(imported)
    assert COMMAND.exists()
