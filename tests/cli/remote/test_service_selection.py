"""The service that a command calls: options, variables and contexts, and their order."""

import os

import pytest

from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support.canaries import SUITE
from tests.support.certificates import DAY
from tests.support.commands import serving, tamatar
from tests.support.databases import TEMPLATE

CONTEXTS = """
current = "current"
[contexts.current]
address = "127.0.0.1:1"
[contexts.other]
address = "127.0.0.1:2"
"""
ADDRESS = "127.0.0.1:3"


@pytest.fixture
def called(tmp_path):
    """Return a function that runs a command, and returns the address that it calls."""
    (tmp_path / "contexts.toml").write_text(CONTEXTS)

    def ask(*arguments, **env):
        given = {"TAMATAR_CONTEXTS_FILE": str(tmp_path / "contexts.toml"), **env}
        said = tamatar(*arguments, cwd=tmp_path, code=3, **given).stderr
        return said.partition(" does not answer")[0]

    return ask


@pytest.mark.parametrize(
    "words",
    [
        ("--address", ADDRESS, "user", "list"),
        ("user", "--address", ADDRESS, "list"),
        ("user", "list", "--address", ADDRESS),
        ("--address", "127.0.0.1:4", "user", "list", "--address", ADDRESS),
    ],
)
def test_address_is_accepted_before_and_after_words(called, words):
    assert called(*words) == ADDRESS


@pytest.mark.parametrize(
    ("options", "env", "address"),
    [
        ((), {}, "127.0.0.1:1"),
        ((), {"TAMATAR_CONTEXT": "other"}, "127.0.0.1:2"),
        ((), {"TAMATAR_ADDRESS": ADDRESS}, ADDRESS),
        ((), {"TAMATAR_ADDRESS": ADDRESS, "TAMATAR_CONTEXT": "other"}, ADDRESS),
        (("--context", "other"), {"TAMATAR_ADDRESS": ADDRESS}, "127.0.0.1:2"),
        (("--context", "other"), {"TAMATAR_CONTEXT": "current"}, "127.0.0.1:2"),
        (("--address", ADDRESS), {"TAMATAR_ADDRESS": "127.0.0.1:4"}, ADDRESS),
        (("--address", ADDRESS, "--context", "other"), {}, ADDRESS),
        ((), {"TAMATAR_ADDRESS": "", "TAMATAR_CONTEXT": "", "TAMATAR_TOKEN": ""}, "127.0.0.1:1"),
    ],
)
def test_service_is_chosen_by_option_variable_or_context(called, options, env, address):
    assert called(*options, "session", "list", "ada@example.com", **env) == address


@pytest.fixture(scope="module")
def callers(tmp_path_factory):
    return tmp_path_factory.mktemp("callers") / "callers.toml"


@pytest.fixture(scope="module")
def token(callers):
    issued = CallerFile(callers).add("operator", [Role.ACCOUNTS], DAY)
    SUITE.add_secrets(issued.text)
    return issued.text


@pytest.fixture(scope="module")
def guarded(postgres, tmp_path_factory, callers, token):
    """The address of a server that requires the token."""
    name = f"selection_{os.getpid()}"
    given = {
        "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
        "TAMATAR_CALLERS_FILE": str(callers),
    }
    with serving(cwd=tmp_path_factory.mktemp("guarded"), **given) as server:
        yield server.addresses[0]
    postgres.drop(name)


@pytest.fixture
def ask(tmp_path, guarded, token):
    """Return a function that lists users, with a current context that has the token."""
    file = tmp_path / "contexts.toml"
    file.write_text(
        f'current = "x"\n[contexts.x]\naddress = "{guarded}"\ntoken = "{token}"\n'
        f'[contexts.bare]\naddress = "{guarded}"\n'
    )

    def run(*options, code=0, entered="", **env):
        given = {"TAMATAR_CONTEXTS_FILE": str(file), **env}
        return tamatar(*options, "user", "list", cwd=tmp_path, code=code, entered=entered, **given)

    return run


def test_address_is_not_called_with_token_of_current_context(ask, guarded):
    ask()
    ask("--address", guarded, "--context", "x")
    assert "CALLER_UNKNOWN" in ask("--address", guarded, code=5).stderr
    assert "CALLER_UNKNOWN" in ask(code=5, TAMATAR_ADDRESS=guarded).stderr
    assert "CALLER_UNKNOWN" in ask("--address", guarded, code=5, TAMATAR_CONTEXT="x").stderr


def test_caller_token_comes_from_option_file_input_or_variable(ask, tmp_path, guarded, token):
    other = f"tmc_{'A' * 43}"
    (tmp_path / "token").write_text(f"{token}\n")

    ask("--address", guarded, "--token", token, TAMATAR_TOKEN=other)
    ask("--address", guarded, "--token-file", "token")
    ask("--address", guarded, "--token-file", "/dev/stdin", entered=f"{token}\n")
    ask("--context", "bare", "--token", token)
    ask(TAMATAR_CONTEXT="bare", TAMATAR_TOKEN=token)
    ask("--address", guarded, TAMATAR_TOKEN=token)
    ask("--address", guarded, TAMATAR_ADDRESS=guarded, TAMATAR_TOKEN=token)
    ask(TAMATAR_ADDRESS=guarded, TAMATAR_TOKEN=token)
    assert "CALLER_UNKNOWN" in ask("--token", other, code=5).stderr


def test_variable_token_is_not_sent_to_service_of_options(ask, guarded, token):
    other = f"tmc_{'A' * 43}"
    elsewhere = {"TAMATAR_ADDRESS": "127.0.0.1:1", "TAMATAR_TOKEN": token}

    ask("--context", "x", TAMATAR_TOKEN=other)
    ask("--context", "x", "--address", guarded, TAMATAR_TOKEN=other)
    assert "CALLER_UNKNOWN" in ask("--context", "bare", code=5, TAMATAR_TOKEN=token).stderr
    assert "CALLER_UNKNOWN" in ask("--address", guarded, code=5, **elsewhere).stderr
    of_context = {"TAMATAR_CONTEXT": "x", "TAMATAR_TOKEN": token}
    assert "CALLER_UNKNOWN" in ask("--address", guarded, code=5, **of_context).stderr


def test_wrong_service_options_are_named(ask, tmp_path):
    hunter = "hunter2"
    for options, words in (
        (("--token", ""), "'--token': is empty"),
        (("--address", ""), "'--address': is empty"),
        (("--token", hunter), "The token of --token is not valid"),
        (("--token", hunter, "--token-file", "x"), "Use only one of --token and --token-file"),
        (("--token-file", "x"), "x cannot be read"),
        (("--address", "a:b:c"), "The service a:b:c cannot be called: the address must be"),
        (("--context", "nope"), "There is no context nope"),
    ):
        said = ask(*options, code=2).stderr
        assert words in said
        assert hunter not in said
    said = ask(code=2, TAMATAR_TOKEN=hunter).stderr
    assert "The token in TAMATAR_TOKEN is not valid" in said
    assert hunter not in said


def test_service_options_before_local_command_are_refused(tmp_path):
    said = tamatar("--context", "x", "config", "show", cwd=tmp_path, code=2).stderr

    assert "show does not use --context, because it calls no service." in said
