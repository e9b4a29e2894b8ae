"""A pool in full use is a busy server; only a database that is away is unavailable."""

import asyncio
from uuid import UUID

from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import GetUserRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tests.chaos.faulty_wire import Wire
from tests.server.test_app import channel_to, held_connections
from tests.support.calls import ada, refusal, sign_in
from tests.support.settings import changed

UNKNOWN_USER = GetUserRequest(user_id=str(UUID(int=7)))


async def test_crowd_of_sign_ins_never_finds_database_unavailable(impatient, database):
    few = changed(impatient, pool_size=2)
    async with run_service(few) as service, channel_to(service) as channel:
        users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
        addresses = [f"user{number}@example.com" for number in range(20)]
        for address in addresses:
            await users.CreateUser(ada(email=address, email_verified=True))
        # The pool is full: on a busy machine a new connection may take longer than a call waits.
        async with held_connections(service.database, 2):
            pass
        calls = [sessions.CreateSession(sign_in(email=one)) for one in addresses * 10]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    refused_with = {one.code() for one in outcomes if isinstance(one, Exception)}
    assert StatusCode.UNAVAILABLE not in refused_with


async def test_crowd_finds_database_unavailable_if_none_can_connect(
    impatient, database, database_url
):
    async with Wire.to(database_url) as wire:
        few = changed(impatient.with_database(wire.url), pool_size=2)
        async with run_service(few) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            await refusal(users.GetUser(UNKNOWN_USER))
            wire.freeze()
            wire.cut()
            calls = [refusal(users.GetUser(UNKNOWN_USER)) for _ in range(20)]
            outcomes = set(await asyncio.gather(*calls))
            wire.heal()

    assert outcomes == {(StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")}
