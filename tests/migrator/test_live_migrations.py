"""Migrations beside servers and calls, and migrations that were killed."""

import asyncio
import contextlib
import subprocess
from uuid import uuid4

import grpc
import psycopg
import pytest

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import GetUserRequest, ListUsersRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tests.support.calls import ada, change, refresh, sign_in, validate
from tests.support.commands import COMMAND, environment, serving
from tests.support.schema_dump import schema
from tests.support.waiting import until

BEFORE_INDEXES = "0003"
"""Revision 0004 builds indexes on sessions and on users."""

SERVED = "0015"
"""The oldest revision whose tables this release reads. The later ones only change indexes."""

BUILDING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'
      AND wait_event_type = 'Lock'
"""

INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


def run(url, statement, *values):
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement, values or None).fetchone()
    return row[0] if row else None


async def test_four_servers_starting_on_empty_database_all_answer(empty_database, tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    with contextlib.ExitStack() as stack:
        for folder in folders:
            folder.mkdir()
        servers = [
            stack.enter_context(serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=empty_database))
            for folder in folders
        ]
        for server in servers:
            (address,) = await asyncio.to_thread(lambda server=server: server.addresses)
            async with grpc.aio.insecure_channel(address) as channel:
                await UserServiceStub(channel).GetUser(GetUserRequest(email="test1@example.com"))

    assert Migrations(empty_database).check() == []
    assert run(empty_database, "SELECT count(*) - count(DISTINCT email) FROM users") == 0


async def story(users, sessions):
    """Make the calls of a user's life."""
    email = f"{uuid4()}@example.com"
    created = await users.CreateUser(ada(email=email, email_verified=True))
    started = await sessions.CreateSession(sign_in(email=email))
    fresh = await refresh(sessions, started.session_token)
    await validate(sessions, fresh.session_token)
    await users.ListUsers(ListUsersRequest(page_size=10))
    await change(users, created.user)


async def test_calls_succeed_while_indexes_are_dropped_and_built(settings, migrated_database):
    # Both releases meet these changes of indexes while one replaces the other.
    migrations = Migrations(migrated_database)
    async with (
        run_service(settings.with_database(migrated_database)) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        stubs = UserServiceStub(channel), SessionServiceStub(channel)

        async def client():
            while True:
                await story(*stubs)

        clients = [asyncio.create_task(client()) for _ in range(3)]
        for move in (lambda: migrations.downgrade(SERVED), migrations.upgrade):
            await asyncio.to_thread(move)
            await story(*stubs)
        for task in clients:
            task.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)

    assert [type(error) for error in ended] == [asyncio.CancelledError] * 3
    assert migrations.check() == []


def kill_the_migrator(url, migrator):
    """Kill the process; PostgreSQL does not notice, so the index is still built."""
    migrator.kill()


def end_the_connection(url, migrator):
    """End the connection that builds the index, which stays invalid."""
    pid = run(url, BUILDING)
    run(url, "SELECT pg_terminate_backend(%s, 5000)", pid)
    assert run(url, INVALID) == 1


def do_both(url, migrator):
    migrator.kill()
    end_the_connection(url, migrator)


@pytest.mark.parametrize("interrupt", [kill_the_migrator, end_the_connection, do_both])
def test_interrupted_concurrent_index_is_built_by_next_migrator(
    migrated_database, tmp_path, interrupt
):
    expected = schema(migrated_database)
    migrations = Migrations(migrated_database)
    migrations.downgrade(BEFORE_INDEXES)
    command = [COMMAND, "migrate", "up"]
    given = {"TAMATAR_DATABASE_URL": migrated_database}
    with psycopg.connect(migrated_database) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT count(*) FROM sessions")
        first = start(command, tmp_path, given)
        until(lambda: run(migrated_database, BUILDING))

        interrupt(migrated_database, first)

        first.wait()
        assert first.returncode != 0
        second = start(command, tmp_path, given)
        until(lambda: run(migrated_database, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
        old.rollback()
    assert second.wait() == 0

    assert run(migrated_database, INVALID) == 0
    assert schema(migrated_database) == expected
    assert migrations.status().pending == []


def start(command, folder, given):
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(given),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
