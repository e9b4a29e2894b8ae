"""Clients of the real service, of both kinds, and of a scripted service."""

import grpc
import pytest

from tamatar_auth import client
from tamatar_auth.client import aio
from tests.support.calls import ada, sign_in, verify
from tests.support.fake_service import fake
from tests.support.replicas import replicas, shared_replicas
from tests.support.sample_service import sample_address
from tests.support.scripted_service import Scripted

__all__ = [
    "auth",
    "blocking",
    "fake",
    "replicas",
    "sample_address",
    "scripted",
    "shared_replicas",
    "signed_in",
]


@pytest.fixture
async def auth(service):
    async with aio.connect(str(service.addresses[0])) as auth:
        yield auth


@pytest.fixture
def blocking(service):
    """A client to call from other threads."""
    with client.connect(str(service.addresses[0])) as auth:
        yield auth


@pytest.fixture
async def scripted():
    server, script = grpc.aio.server(), Scripted()
    server.add_generic_rpc_handlers([script])
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield script
    await server.stop(None)


@pytest.fixture
async def signed_in(auth, database):
    """Return a function that signs a user in and returns the response."""

    async def start(email="ada@example.com"):
        user = (await auth.users.CreateUser(ada(email=email))).user
        await verify(database, user)
        return await auth.sessions.CreateSession(sign_in(email=email))

    return start
