"""A primary that goes on after its standby was promoted: no session is validated there.

`PERIOD` after the promotion is measured by the clock of the deposed primary. A busy machine only
makes it longer.
"""

import asyncio
import contextlib
from datetime import timedelta
from urllib.parse import urlsplit

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import DATABASE
from tamatar_auth.server.app import run_service, start
from tests.chaos.replication import Pair, ask, until_waiting
from tests.chaos.test_standby_away import END_THE_CONNECTION, END_THE_WAIT
from tests.support.calls import ada, refusal, sign_in, validate
from tests.support.session_watchers import watching
from tests.support.settings import changed
from tests.support.waiting import eventually, until

WITHIN = timedelta(seconds=3)
SESSIONS = 200
PER_USER = 100

NOT_CONFIRMED = (StatusCode.UNAVAILABLE, "PRIMARY_NOT_CONFIRMED")
REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")

REVOKE_ALL = "UPDATE sessions SET is_valid = false, revoked_at = now()"
ACKNOWLEDGED_AT = "SELECT nullif(acknowledged_at, '-infinity') FROM primary_heartbeat"
SENT_AT = "SELECT nullif(sent_at, '-infinity') FROM primary_heartbeat"
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tamatar-auth%'"


class Deposed:
    """A pair whose primary is listed first, and goes on after it was deposed."""

    def __init__(self, pair):
        self._pair = pair
        self.old, self.new = pair.primary, pair.standby
        owner = urlsplit(self.old.url()).netloc.rpartition("@")[0]
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.old, self.new))
        self.url = f"postgresql://{owner}@{hosts}/{DATABASE}?target_session_attrs=read-write"
        self._deposed_at = None

    def depose(self):
        """Promote the standby, and end all sessions there."""
        self._pair.promote()
        ask(self.new, REVOKE_ALL)
        self._deposed_at = ask(self.old, "SELECT clock_timestamp()")

    def wait_for_bound(self):
        """Wait until the bound has passed on the clock of the deposed primary."""
        bound = self._deposed_at + WITHIN + timedelta(seconds=1)
        until(lambda: ask(self.old, "SELECT clock_timestamp() > %s", bound))


@pytest.fixture
def servers(tmp_path):
    with Pair(tmp_path) as pair:
        yield Deposed(pair)


@pytest.fixture
def mine(settings, servers):
    return changed(settings.with_database(servers.url), primary_acknowledged_within=WITHIN)


@contextlib.asynccontextmanager
async def unwatched(settings):
    """Run a service whose database nothing checks unless the test does."""
    service = await start(settings)
    try:
        yield service
    finally:
        await service.stop()


@contextlib.asynccontextmanager
async def stubs_of(service):
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        yield UserServiceStub(channel), SessionServiceStub(channel)


async def signed_in(users, sessions, count=1):
    """Sign in that often; return the tokens."""
    tokens = []
    for number in range(0, count, PER_USER):
        email = f"ada{number}@example.com"
        await users.CreateUser(ada(email=email, email_verified=True))
        for _ in range(min(count - number, PER_USER)):
            started = await sessions.CreateSession(sign_in(email=email))
            tokens.append(started.session_token)
    return tokens


async def until_confirmed(sessions, token):
    """Wait until a session is validated: the standby has acknowledged a heartbeat."""

    async def is_validated():
        with contextlib.suppress(grpc.aio.AioRpcError):
            await validate(sessions, token)
            return True

    await eventually(is_validated)


async def outcome(sessions, token):
    try:
        await validate(sessions, token)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return StatusCode.OK


async def test_deposed_primary_validates_no_revoked_session(servers, mine):
    """The promise: 0 of 200, also in a batch, and the service finds the new primary."""
    async with run_service(mine) as service, stubs_of(service) as (users, sessions):
        tokens = await signed_in(users, sessions, SESSIONS)
        await until_confirmed(sessions, tokens[-1])
        assert ask(servers.old, OTHERS) > 0

        await asyncio.to_thread(servers.depose)
        await asyncio.to_thread(servers.wait_for_bound)

        outcomes = await asyncio.gather(*(outcome(sessions, token) for token in tokens))
        assert StatusCode.OK not in outcomes
        request = session_pb.BatchValidateSessionsRequest(session_tokens=tokens[:100])
        with contextlib.suppress(grpc.aio.AioRpcError):
            batch = await sessions.BatchValidateSessions(request)
            assert not any(result.HasField("session") for result in batch.results)

        await eventually(lambda: is_refused(sessions, tokens[0], REVOKED))
        await eventually(lambda: is_created(users))


async def is_refused(sessions, token, how):
    return await refusal(validate(sessions, token)) == how


async def is_created(users):
    with contextlib.suppress(grpc.aio.AioRpcError):
        return await users.CreateUser(ada(email="new@example.com"))


async def test_statement_refuses_deposed_primary_without_check(servers, mine):
    async with unwatched(mine) as service, stubs_of(service) as (users, sessions):
        (token,) = await signed_in(users, sessions)
        await service.components.database_monitor.check()
        await until_confirmed(sessions, token)

        await asyncio.to_thread(servers.depose)
        await asyncio.to_thread(servers.wait_for_bound)

        assert await refusal(validate(sessions, token)) == NOT_CONFIRMED
        assert await refusal(validate(sessions, "tms_" + "A" * 43)) == NOT_CONFIRMED
        assert await refusal(users.CreateUser(ada())) == NOT_CONFIRMED
        request = session_pb.BatchValidateSessionsRequest(session_tokens=[token])
        assert await refusal(sessions.BatchValidateSessions(request)) == NOT_CONFIRMED


async def test_stream_of_unchecked_service_ends(servers, mine):
    async with unwatched(mine) as service, stubs_of(service) as (_, sessions):
        await service.components.database_monitor.check()
        async with watching(sessions) as watch:
            await asyncio.to_thread(servers.depose)
            assert (await watch.refusal()).reason == "STREAM_INTERRUPTED"


async def test_idle_service_leaves_deposed_primary(servers, mine):
    """Nothing is called; a stream is open."""
    async with run_service(mine) as service, stubs_of(service) as (_, sessions):
        async with watching(sessions) as watch:
            await asyncio.to_thread(servers.depose)
            assert (await watch.refusal()).reason == "STREAM_INTERRUPTED"
        fence = service.components.orphaned.fence
        await eventually(lambda: service.components.orphaned.hosts.arguments(servers.url))
        await eventually(lambda: not fence.closed.is_set())
        await eventually(lambda: is_serving(service))
        # Another watch is served by the new primary.
        async with watching(sessions):
            assert ask(servers.new, OTHERS) > 0


async def is_serving(service):
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("end", [END_THE_WAIT, END_THE_CONNECTION])
async def test_ended_wait_of_heartbeat_confirms_nothing(servers, mine, end):
    async with run_service(mine):
        await eventually(lambda: ask(servers.old, ACKNOWLEDGED_AT))
        await asyncio.to_thread(servers.depose)
        acknowledged_at = ask(servers.old, ACKNOWLEDGED_AT)
        await asyncio.to_thread(until_waiting, servers.old)
        sent_at = ask(servers.old, SENT_AT)

        ask(servers.old, end)

        await eventually(lambda: ask(servers.old, SENT_AT) > sent_at)
        assert ask(servers.old, ACKNOWLEDGED_AT) == acknowledged_at


async def test_crash_of_deposed_primary_confirms_nothing(servers, mine):
    """After the crash, the commit that no standby has acknowledged is visible."""
    async with run_service(mine):
        await eventually(lambda: ask(servers.old, ACKNOWLEDGED_AT))
        await asyncio.to_thread(servers.depose)
        acknowledged_at = ask(servers.old, ACKNOWLEDGED_AT)
        await asyncio.to_thread(until_waiting, servers.old)
        sent_at = ask(servers.old, SENT_AT)

        await asyncio.to_thread(servers.old.kill)
        await asyncio.to_thread(servers.old.start)

        assert ask(servers.old, SENT_AT) > sent_at
        assert ask(servers.old, ACKNOWLEDGED_AT) == acknowledged_at


async def test_restarted_service_finds_new_primary(servers, mine):
    async with run_service(mine) as service, stubs_of(service) as (users, sessions):
        (token,) = await signed_in(users, sessions)
    await asyncio.to_thread(servers.depose)
    await asyncio.to_thread(servers.wait_for_bound)

    async with run_service(mine) as service, stubs_of(service) as (users, sessions):
        await eventually(lambda: is_refused(sessions, token, REVOKED))


async def test_standby_away_stops_validations_until_it_returns(servers, mine):
    async with run_service(mine) as service, stubs_of(service) as (users, sessions):
        (token,) = await signed_in(users, sessions)
        await until_confirmed(sessions, token)
        servers.new.stop()
        await eventually(lambda: is_not_validated(sessions, token))
        await eventually(lambda: is_not_serving(service))
        assert await refusal(users.CreateUser(ada())) == NOT_CONFIRMED

        await asyncio.to_thread(servers.new.start)
        await until_confirmed(sessions, token)
        await eventually(lambda: is_serving(service))


async def is_not_serving(service):
    return not await is_serving(service)


async def is_not_validated(sessions, token):
    return await outcome(sessions, token) is StatusCode.UNAVAILABLE
