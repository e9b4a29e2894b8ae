"""Fixtures for commands that call a server, each as a separate process."""

import os

import grpc
import pytest

from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.support.commands import serving, tamatar
from tests.support.databases import TEMPLATE


@pytest.fixture(scope="module")
def server_url(postgres):
    """The database of the server."""
    name = f"people_{os.getpid()}"
    yield postgres.create(name, TEMPLATE)
    postgres.drop(name)


@pytest.fixture(scope="module")
def server_address(server_url, tmp_path_factory):
    """The address of a server that only these tests call."""
    with serving(cwd=tmp_path_factory.mktemp("server"), TAMATAR_DATABASE_URL=server_url) as server:
        (found,) = server.addresses
        yield found


@pytest.fixture
def surroundings(tmp_path, server_address):
    """The environment of a user whose current context is the server."""
    file = tmp_path / "contexts.toml"
    file.write_text(f'current = "here"\n[contexts.here]\naddress = "{server_address}"\n')
    return {"TAMATAR_CONTEXTS_FILE": str(file)}


@pytest.fixture
def cli(tmp_path, surroundings):
    """Return a function that runs a command."""

    def ask(*arguments, code=0, entered="", **env):
        given = surroundings | env
        return tamatar(*arguments, cwd=tmp_path, code=code, entered=entered, **given)

    return ask


@pytest.fixture
async def remote_users(server_address):
    async with grpc.aio.insecure_channel(server_address) as channel:
        yield UserServiceStub(channel)
