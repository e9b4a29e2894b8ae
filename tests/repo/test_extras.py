"""The wheel with the packages of an extra, and without: what works, and what is named."""

import os
import tomllib

import pytest

from tamatar_auth.__main__ import SERVER_COMMANDS
from tamatar_auth.cli.commands import COMMANDS
from tamatar_auth.cli.lazy import LazyCommand
from tests.support.commands import ROOT, run, serving
from tests.support.databases import TEMPLATE
from tests.support.environments import borrow_requirements, make_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT = PROJECT["dependencies"]
SUBCOMMANDS = {"config": ["show"], "caller": ["list"], "migrate": ["status"]}
CLI = [*CLIENT, *PROJECT["optional-dependencies"]["cli"]]


@pytest.fixture(scope="module")
def client_only(tmp_path_factory, wheel):
    """The command of an environment without extras."""
    folder = tmp_path_factory.mktemp("client")
    borrow_requirements(make_environment(folder, wheel), CLIENT)
    return folder / "bin/tamatar-auth"


@pytest.fixture(scope="module")
def with_cli(tmp_path_factory, wheel):
    """The command of an environment with the extra `cli` alone."""
    folder = tmp_path_factory.mktemp("cli")
    borrow_requirements(make_environment(folder, wheel), CLI)
    return folder / "bin/tamatar-auth"


@pytest.fixture(scope="module")
def address(postgres, tmp_path_factory):
    name = f"extras_{os.getpid()}"
    folder = tmp_path_factory.mktemp("server")
    with serving(cwd=folder, TAMATAR_DATABASE_URL=postgres.create(name, TEMPLATE)) as server:
        yield server.addresses[0]
    postgres.drop(name)


def targets(command):
    """Yield the functions of a command, or of the commands in a group."""
    if isinstance(command, LazyCommand):
        yield command._target
    else:
        for each in command.commands.values():
            yield from targets(each)


def test_server_commands_are_those_of_local_modules():
    local = {
        name
        for name, command in COMMANDS.items()
        if any(module.startswith("cli.local.") for module in targets(command))
    }

    assert local == SERVER_COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_command_without_extras_names_its_extra(client_only, tmp_path, name):
    said = run(client_only, name, "--help", cwd=tmp_path, code=2).stderr

    extra = "server" if name in SERVER_COMMANDS else "cli"
    assert said == (
        f"The package typer is missing. Install it with: pip install 'tamatar-auth[{extra}]'\n"
    )


@pytest.mark.parametrize("name", sorted(SERVER_COMMANDS))
def test_server_command_with_cli_extra_names_server(with_cli, tmp_path, name):
    said = run(with_cli, name, *SUBCOMMANDS.get(name, []), cwd=tmp_path, code=2).stderr

    assert said.endswith("pip install 'tamatar-auth[server]'\n")
    assert len(said.splitlines()) == 1


def test_cli_extra_alone_calls_a_service(with_cli, tmp_path, address):
    def ask(*words):
        return run(with_cli, *words, "--address", address, cwd=tmp_path).stdout

    assert ask("healthcheck", "--timeout", "60") == "SERVING\n"
    assert ask("whoami", "-o", "name") == "local\n"
    assert ask("user", "list", "-o", "name") == ""


def test_cli_extra_alone_writes_protoset(with_cli, tmp_path):
    run(with_cli, "protoset", "auth.binpb", cwd=tmp_path)

    assert b"tamatar.auth.v1" in (tmp_path / "auth.binpb").read_bytes()
