"""Calls that PostgreSQL rolled back are retried; over a real channel, on a real database."""

import asyncio
from uuid import UUID

import grpc
import psycopg
import pytest
import structlog
from grpc import StatusCode
from sqlalchemy import text

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.interceptors.retries import MAX_RETRIES, RetryInterceptor
from tests.support.calls import ada, refused
from tests.support.waiting import eventually, lock_is_waited_for


async def test_deadlocked_call_is_retried_and_succeeds(users, database, service):
    """A call and a transaction of the test change two users in opposite orders."""
    first = (await users.CreateUser(ada(email="a@example.com", password=""))).user
    second = (await users.CreateUser(ada(email="b@example.com", password=""))).user
    runs = []

    async def cross(_request, _context):
        runs.append(1)
        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            await tx.users.update(UUID(second.user_id), {"last_name": "call"})
            met.set()
            if len(runs) == 1:  # the first to wait checks for a deadlock only once
                await eventually(lambda: lock_is_waited_for(database))
            await tx.users.update(UUID(first.user_id), {"last_name": "call"})
        return b""

    met = asyncio.Event()
    async with serving({"Cross": cross}) as call:
        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL deadlock_timeout = '10s'"))
            await tx.users.update(UUID(first.user_id), {"first_name": "test"})
            answer = asyncio.ensure_future(call("Cross"))
            await met.wait()
            await tx.users.update(UUID(second.user_id), {"first_name": "test"})
        await answer

    assert len(runs) == 2
    read = await users.GetUser(pb.GetUserRequest(user_id=first.user_id))
    assert (read.user.first_name, read.user.last_name) == ("test", "call")


async def test_call_always_rolled_back_is_aborted_with_retry_delay(database):
    runs = []

    async def never(_request, _context):
        runs.append(1)
        async with database.transaction() as tx:
            await tx.connection.execute(
                text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")
            )

    with structlog.testing.capture_logs() as logs:
        async with serving({"Never": never}) as call:
            said = await refused(call("Never"))

    assert (said.code, said.reason) == (StatusCode.ABORTED, "TRANSACTION_CONFLICT")
    assert said.retry_seconds
    assert len(runs) == 1 + MAX_RETRIES
    assert len([entry for entry in logs if entry["event"] == "call runs again"]) == MAX_RETRIES


async def test_rollback_without_sqlalchemy_is_retried(database_url):
    runs = []

    async def once(_request, _context):
        runs.append(1)
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            if len(runs) == 1:
                await connection.execute(
                    "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"
                )
        return b"answered"

    async with serving({"Once": once}) as call:
        assert await call("Once") == b"answered"

    assert len(runs) == 2


async def test_transaction_conflict_is_retried():
    runs = []

    async def once(_request, _context):
        runs.append(1)
        if len(runs) == 1:
            raise TransactionConflict
        return b"answered"

    async with serving({"Once": once}) as call:
        assert await call("Once") == b"answered"

    assert len(runs) == 2


@pytest.mark.parametrize("sqlstate", ["57P01", "55P03", "23505"])
async def test_other_errors_are_not_retried(database, sqlstate):
    runs = []

    async def fails(_request, _context):
        runs.append(1)
        async with database.transaction() as tx:
            await tx.connection.execute(
                text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")
            )

    async with serving({"Fails": fails}) as call:
        await refused(call("Fails"))

    assert len(runs) == 1


class serving:  # noqa: N801 - reads as a statement
    """Serve some handlers behind the interceptors under test."""

    def __init__(self, handlers):
        self._server = grpc.aio.server()
        answered = HandlerRegistry(self._server, [ErrorInterceptor(), RetryInterceptor()])
        methods = {
            name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()
        }
        answered.add_registered_method_handlers("t.Service", methods)

    async def __aenter__(self):
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return lambda name: self._channel.unary_unary(f"/t.Service/{name}")(b"")

    async def __aexit__(self, *_):
        await self._channel.close()
        await self._server.stop(None)
