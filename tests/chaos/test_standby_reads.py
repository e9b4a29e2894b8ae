"""Validations from standbys: none is older than a write that was acknowledged before it."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from pydantic import SecretStr

from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar.auth.v1.session_service_pb2 import (
    BeginStepUpRequest,
    CompleteStepUpRequest,
    RevokeSessionRequest,
    ValidateSessionRequest,
)
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.session_validation import standby_reader
from tests.chaos import standby_reads
from tests.chaos.replication import Pair, another_standby, ask
from tests.chaos.standby_reads import SYNCHRONOUS_COMMITS, reading_standbys
from tests.support.calls import PASSWORD, ada, refusal, refused, sign_in, validate
from tests.support.waiting import eventually, until

REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL2

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


class Service:
    """A service that reads standbys, with a user of its own."""

    def __init__(self, service, channel):
        self._standbys = service.components.standbys
        self._users, self.sessions = UserServiceStub(channel), SessionServiceStub(channel)
        self._email = f"{uuid4()}@example.com"

    @property
    def validations(self):
        return self._standbys.validations

    async def add_user(self):
        await self._users.CreateUser(ada(email=self._email, email_verified=True))

    async def sign_in(self):
        return await self.sessions.CreateSession(sign_in(email=self._email))

    async def revoke(self, started):
        request = RevokeSessionRequest(session_id=started.session.session_id)
        await self.sessions.RevokeSession(request)

    def validate(self, started, **required):
        request = ValidateSessionRequest(session_token=started.session_token, **required)
        return self.sessions.ValidateSession(request)

    async def step_up(self, started):
        token = started.session_token
        begun = await self.sessions.BeginStepUp(BeginStepUpRequest(session_token=token))
        challenge = begun.challenge.challenge_token
        request = CompleteStepUpRequest(
            session_token=token, challenge_token=challenge, password=PASSWORD
        )
        return await self.sessions.CompleteStepUp(request)

    async def read_a_standby(self):
        """Validate until a standby is read."""
        started, before = await self.sign_in(), self.validations["standby"]

        async def is_read():
            await validate(self.sessions, started.session_token)
            return self.validations["standby"] > before

        await eventually(is_read)


@pytest.fixture
def reading(settings, pair):
    return reading_standbys(settings, pair)


@pytest.fixture
async def service(reading):
    async with (
        run_service(reading) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        found = Service(service, channel)
        await found.add_user()
        yield found


@pytest.fixture
def patience(monkeypatch):
    """A busy machine must not turn calls away from the standby."""
    monkeypatch.setattr(standby_reader, "STANDBY_TIMEOUT", 10.0)


class TestFreshness:
    """A session that was revoked is refused, and a new one is valid, whatever the standby does."""

    @pytest.mark.usefixtures("patience")
    @pytest.mark.parametrize("commit", SYNCHRONOUS_COMMITS)
    async def test_standby_that_replays_gives_no_stale_answer(self, settings, pair, commit):
        report = await standby_reads.run(
            pair, settings, pairs=60, commits=[commit], faults=["calm", "delayed"]
        )

        print(report)
        assert report.stale == []
        assert report.validations["standby"]

    @pytest.mark.parametrize("fault", ["late", "paused", "frozen", "killed", "failover"])
    async def test_standby_that_fails_gives_no_stale_answer(self, settings, pair, fault):
        report = await standby_reads.run(pair, settings, pairs=40, commits=["on"], faults=[fault])

        print(report)
        assert report.stale == []

    @pytest.mark.usefixtures("patience")
    async def test_session_revoked_after_replay_stopped_is_refused(self, pair, service):
        for _ in range(2):
            started = await service.sign_in()
            await service.read_a_standby()
            with standby_reads.paused(pair):
                await service.revoke(started)
                answer = await refusal(validate(service.sessions, started.session_token))
            assert answer == REVOKED

    @pytest.mark.usefixtures("patience")
    async def test_standby_decides_level_and_age(self, service):
        started = await service.sign_in()
        await service.read_a_standby()
        before = service.validations["standby"]

        weak = service.validate(started, min_assurance_level=AAL2)
        recent = service.validate(started, max_authentication_age=timedelta(days=1))

        assert (await refused(weak)).metadata == {"assurance_level": "AAL2"}
        assert await recent
        assert service.validations["standby"] > before

    @pytest.mark.usefixtures("patience")
    async def test_token_before_step_up_is_refused_after_replay_stopped(self, pair, service):
        started = await service.sign_in()
        await service.read_a_standby()
        with standby_reads.paused(pair):
            stepped_up = await service.step_up(started)
            old = await refusal(validate(service.sessions, started.session_token))
            assert await validate(service.sessions, stepped_up.session_token)

        assert old == (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")

    @pytest.mark.usefixtures("patience")
    async def test_standby_itself_shows_revoked_session_as_valid(self, pair, service):
        """So the rig can show a stale read."""
        started = await service.sign_in()
        await service.read_a_standby()
        with standby_reads.paused(pair):
            await service.revoke(started)
            is_valid = "SELECT is_valid FROM sessions WHERE id = %s"
            assert ask(pair.standby, is_valid, started.session.session_id)
            assert not ask(pair.primary, is_valid, started.session.session_id)


@pytest.mark.usefixtures("patience")
class TestRefusedStandbys:
    """Servers whose positions prove nothing are not read."""

    async def test_standby_of_another_primary_is_not_read(self, settings, pair, tmp_path):
        # The former primary has a term too, which its standby has replayed.
        term = "INSERT INTO primary_terms (timeline) VALUES ('00000001') ON CONFLICT DO NOTHING"
        ask(pair.primary, term)
        with another_standby(pair.primary, tmp_path) as stranger:
            until(lambda: ask(stranger, "SELECT pg_last_wal_replay_lsn()"))
            pair.stop_waiting()
            former = pair.primary
            pair.promote()
            # The standby of the former primary is further on another timeline.
            ask(former, "CREATE TABLE filler AS SELECT generate_series(1, 100000)")
            position = ask(pair.primary, "SELECT pg_current_wal_insert_lsn()")
            ahead = "SELECT pg_last_wal_replay_lsn() > %s::pg_lsn + 1000000"
            until(lambda: ask(stranger, ahead, position))
            given = reading_standbys(settings, pair)
            urls = {
                "url": SecretStr(pair.primary.url()),
                "standby_url": SecretStr(stranger.url()),
            }
            given = given.model_copy(update={"database": given.database.model_copy(update=urls)})
            async with (
                run_service(given) as running,
                grpc.aio.insecure_channel(str(running.addresses[0])) as channel,
            ):
                service = Service(running, channel)
                await service.add_user()
                standbys = running.components.standbys
                await eventually(lambda: standbys.problem in {None, "other_primary"})
                started = await service.sign_in()
                await validate(service.sessions, started.session_token)
                assert service.validations["standby"] == 0
                assert standbys.problem == "other_primary"
        pair.restore()

    async def test_promoted_standby_is_not_read(self, settings, pair):
        pair.stop_waiting()
        given = reading_standbys(settings, pair)
        urls = {
            "url": SecretStr(pair.primary.url()),
            "standby_url": SecretStr(f"{pair.standby.url()}?target_session_attrs=any"),
        }
        given = given.model_copy(update={"database": given.database.model_copy(update=urls)})
        async with (
            run_service(given) as running,
            grpc.aio.insecure_channel(str(running.addresses[0])) as channel,
        ):
            service = Service(running, channel)
            await service.add_user()
            await service.read_a_standby()
            await asyncio.to_thread(ask, pair.standby, "SELECT pg_promote(true, 60)")
            started = await service.sign_in()
            await validate(service.sessions, started.session_token)
            await service.revoke(started)
            assert await refusal(validate(service.sessions, started.session_token)) == REVOKED
            await eventually(lambda: running.components.standbys.problem == "promoted")
        await asyncio.to_thread(pair.restore)

    async def test_standby_with_one_snapshot_a_transaction_is_not_read(self, settings, pair):
        """Its second statement would see what the first saw, from before the wait."""
        options = "options=-cdefault_transaction_isolation%3Drepeatable%5C%20read"
        given = reading_standbys(settings, pair)
        urls = {"standby_url": SecretStr(f"{pair.standby.url()}?{options}")}
        given = given.model_copy(update={"database": given.database.model_copy(update=urls)})
        async with run_service(given) as running:
            standbys = running.components.standbys
            await eventually(lambda: standbys.problem in {None, "isolation"})
            assert standbys.problem == "isolation"
