"""A real PgBouncer between the service and PostgreSQL."""

import asyncio

import pytest
import structlog

from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.driver import pooler
from tests.server.test_app import NOT_SERVING, channel_to, is_serving, said, status_of
from tests.support.calls import ada, sign_in, validate, verify
from tests.support.commands import tamatar
from tests.support.pgbouncer import PgBouncer
from tests.support.session_watchers import End, watching
from tests.support.waiting import PATIENCE, eventually

ADVICE = "use PgBouncer 1.24 or newer with max_prepared_statements=200, or pool_mode=session"


@pytest.fixture
def pgbouncer(tmp_path):
    return PgBouncer(tmp_path)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Allow the database to answer slowly."""
    monkeypatch.setattr(pooler, "PROBE_TIMEOUT", PATIENCE)


@pytest.fixture
def doctor(tmp_path):
    """Run the doctor on a database; return its failed findings."""

    def examine(url):
        given = {"TAMATAR_DATABASE_URL": url, "TAMATAR_LISTEN": "127.0.0.1:0"}
        ended = tamatar("doctor", cwd=tmp_path, code=None, **given)
        return [line for line in ended.stdout.splitlines() if line.startswith("FAIL")]

    return examine


async def make_calls(service, channel):
    """Make each statement often enough on each connection for psycopg to prepare it."""
    users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
    await verify(service.database, (await users.CreateUser(ada())).user)
    for _ in range(8):
        started = await asyncio.gather(*(sessions.CreateSession(sign_in()) for _ in range(4)))
        await asyncio.gather(*(validate(sessions, each.session_token) for each in started))


async def watch_an_end(sessions):
    started = await sessions.CreateSession(sign_in())
    session_id = started.session.session_id
    async with watching(sessions) as watch:
        await sessions.RevokeSession(RevokeSessionRequest(session_id=session_id))
        await watch.wait_for(End(started.user.user_id, session_id))


class TestLosesStatements:
    """PgBouncer in a mode in which it loses prepared statements."""

    async def test_server_behind_it_is_not_serving(self, settings, migrated_database, pgbouncer):
        with (
            pgbouncer.between(migrated_database, "transaction") as url,
            structlog.testing.capture_logs() as logs,
        ):
            async with (
                run_service(settings.with_database(url)) as service,
                channel_to(service) as channel,
            ):
                await eventually(lambda: said(logs, ADVICE))
                assert await status_of(channel) == NOT_SERVING

    @pytest.mark.parametrize("mode", ["transaction", "statement"])
    def test_doctor_names_version_and_setting(self, migrated_database, pgbouncer, doctor, mode):
        with pgbouncer.between(migrated_database, mode) as url:
            assert any(ADVICE in line for line in doctor(url))

    def test_migration_through_it_is_refused(self, empty_database, pgbouncer, tmp_path):
        with pgbouncer.between(empty_database, "transaction") as url:
            ended = tamatar("migrate", "up", cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=url)

        assert ended.stderr.startswith("A pooler in transaction mode is between: ")


class TestKeepsStatements:
    """PgBouncer in a mode in which every call works."""

    @pytest.mark.parametrize(("mode", "tracked"), [("session", 0), ("transaction", 200)])
    async def test_calls_through_it_succeed(
        self, settings, migrated_database, pgbouncer, doctor, mode, tracked
    ):
        if tracked and not pgbouncer.tracks_statements:
            pytest.skip("this PgBouncer tracks no prepared statements; 1.21 and newer ones do")
        with pgbouncer.between(migrated_database, mode, tracked=tracked) as url:
            assert await asyncio.to_thread(doctor, url) == []
            async with (
                run_service(settings.with_database(url)) as service,
                channel_to(service) as channel,
            ):
                await eventually(lambda: is_serving(channel))
                await make_calls(service, channel)
                await watch_an_end(SessionServiceStub(channel))
