"""Wrong passwords are counted by account, and the next attempt waits."""

import asyncio
import contextlib
import itertools

import bcrypt
import grpc
import pytest
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    MAX_FAILURES,
    MAX_WAIT,
)
from tamatar_auth.storage.tables import password_attempts
from tests.server.test_app import channel_to
from tests.support.calls import (
    INVALID_CREDENTIALS,
    NEW_PASSWORD,
    TOO_MANY_ATTEMPTS,
    ada,
    change,
    password_reset,
    refusal,
    refused,
    reset,
    sign_in,
    validate,
    verify,
)
from tests.support.rows import run, wait_longer


async def failures(database):
    found = await run(database, select(password_attempts.c.failures))
    return found.scalar_one_or_none()


@pytest.fixture
async def patient_service(settings, monkeypatch):
    """A server whose calls wait for a connection as long as a slow machine needs."""
    monkeypatch.setattr(limits, "POOL_WAIT", 60)
    async with run_service(settings) as service:
        yield service


async def moment(database):
    return (await run(database, select(func.clock_timestamp()))).scalar_one()


def attempts_allowed_in(elapsed):
    """Return the number of free attempts, plus one after each wait that can have ended."""
    waits = itertools.accumulate(2**count for count in itertools.count())
    ended = itertools.takewhile(lambda seconds: seconds <= elapsed.total_seconds(), waits)
    return FREE_ATTEMPTS + 1 + len(list(ended))


def count_checks(monkeypatch):
    """Count the passwords that bcrypt checks from now on."""
    checked, check = [], bcrypt.checkpw

    def counted(*args):
        checked.append(1)
        return check(*args)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    return checked


async def validations(sessions, token, burst):
    """Validate without pause until the burst ends; return the number of validations."""
    done = 0
    while not burst.done():
        await validate(sessions, token)
        done += 1
    return done


def gather_at_the_door(monkeypatch, count):
    """Hold password checks until `count` calls have arrived, then release all together."""
    door, permit = asyncio.Barrier(count), PasswordHasher.permit

    @contextlib.asynccontextmanager
    async def gathered(passwords):
        await door.wait()
        async with permit(passwords) as acquired:
            yield acquired

    monkeypatch.setattr(PasswordHasher, "permit", gathered)


@contextlib.asynccontextmanager
async def four_connections(service):
    """Yield stubs with separate connections, because channels share one by default."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(str(service.addresses[0]), options)
            )
            for _ in range(4)
        ]
        yield [SessionServiceStub(channel) for channel in channels]


class TestCounting:
    """Attempts that count, and the account they count for."""

    async def test_sign_in_after_wrong_passwords_must_wait(self, sessions, user, database):
        for _ in range(FREE_ATTEMPTS + 1):
            assert (
                await refusal(sessions.CreateSession(sign_in(password="x"))) == INVALID_CREDENTIALS
            )
        await wait_longer(database)

        said = await refused(sessions.CreateSession(sign_in()))

        assert (said.code, said.reason) == TOO_MANY_ATTEMPTS
        assert said.retry_seconds == MAX_WAIT.total_seconds()

    async def test_unknown_email_is_throttled_like_known_one(self, sessions, user, database):
        async def tries(**who):
            said = []
            for _ in range(FREE_ATTEMPTS + 3):
                said.append(await refused(sessions.CreateSession(sign_in(password="x", **who))))
                await wait_longer(database)
            return said

        assert await tries() == await tries(email="unknown@example.com")

    async def test_username_and_email_count_together(self, sessions, user, database):
        for who in [{"username": "ada"}, {"email": "ADA@example.com"}] * 2:
            await refused(sessions.CreateSession(sign_in(password="x", **who)))
        await wait_longer(database)

        assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS
        by_name = sign_in(username="ada")
        assert await refusal(sessions.CreateSession(by_name)) == TOO_MANY_ATTEMPTS

    async def test_change_password_attempts_count_too(self, users, sessions, user, database):
        for _ in range(FREE_ATTEMPTS + 1):
            await refused(change(users, user, current_password="x"))
        await wait_longer(database)

        assert await refusal(change(users, user)) == TOO_MANY_ATTEMPTS
        assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS

    async def test_change_of_email_keeps_the_count(self, users, sessions, user, database):
        for number in range(FREE_ATTEMPTS + 1):
            await refused(change(users, user, current_password="x"))
            await users.UpdateUser(
                user_service_pb2.UpdateUserRequest(
                    user_id=user.user_id,
                    email=f"ada{number}@example.com",
                    update_mask={"paths": ["email"]},
                )
            )
        await wait_longer(database)

        assert await refusal(change(users, user)) == TOO_MANY_ATTEMPTS

    async def test_new_owner_of_email_starts_without_failures(
        self, users, sessions, user, database
    ):
        await refused(sessions.CreateSession(sign_in(password="x")))
        await run(database, update(password_attempts).values(failures=MAX_FAILURES))
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

        await users.CreateUser(ada(email_verified=True))

        await sessions.CreateSession(sign_in())

    async def test_success_clears_failures_of_its_account_only(
        self, users, sessions, user, database
    ):
        other = await users.CreateUser(ada(email="other@example.com"))
        await verify(database, other.user)
        await refused(sessions.CreateSession(sign_in(password="x")))

        await sessions.CreateSession(sign_in(email="other@example.com"))

        assert await failures(database) == 1


class TestClearing:
    """Right passwords, which clear failures."""

    async def test_right_password_with_weak_new_one_is_no_failure(self, users, user, database):
        for _ in range(FREE_ATTEMPTS + 2):
            assert (
                await refused(change(users, user, new_password="short"))
            ).reason == "INVALID_FIELDS"

        assert await failures(database) is None

    async def test_right_password_after_wait_clears_failures(self, sessions, user, database):
        for _ in range(FREE_ATTEMPTS + 1):
            await refused(sessions.CreateSession(sign_in(password="x")))
        await run(database, update(password_attempts).values(blocked_until=func.now()))

        await sessions.CreateSession(sign_in())

        assert await failures(database) is None

    async def test_right_password_of_unverified_user_is_no_failure(self, users, sessions, database):
        await users.CreateUser(ada())

        for _ in range(6):
            assert (await refused(sessions.CreateSession(sign_in()))).reason == "EMAIL_NOT_VERIFIED"
        assert await failures(database) is None


class TestLimits:
    """Waits and the checks that they allow."""

    async def test_throttle_waits_double_up_to_a_quarter_of_an_hour(self, sessions, user, database):
        waits = []
        for _ in range(15):
            await refused(sessions.CreateSession(sign_in(password="x")))
            row = await run(
                database,
                select(func.round(func.extract("epoch", password_attempts.c.blocked_until
                                               - password_attempts.c.last_tried_at))),
            )  # fmt: skip
            waits.append(int(row.scalar_one()))
            await run(database, update(password_attempts).values(blocked_until=func.now()))

        assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]

    async def test_200_concurrent_wrong_passwords_check_few(
        self, patient_service, sessions, user, database, monkeypatch
    ):
        token = (await sessions.CreateSession(sign_in())).session_token
        checked = count_checks(monkeypatch)
        gather_at_the_door(monkeypatch, 200)
        async with (
            four_connections(patient_service) as others,
            channel_to(patient_service) as channel,
        ):
            owner = SessionServiceStub(channel)
            began = await moment(database)
            burst = asyncio.gather(
                *(refusal(other.CreateSession(sign_in(password="x"))) for other in others * 50)
            )
            validated = await validations(owner, token, burst)
            outcomes = await burst
        allowed = attempts_allowed_in(await moment(database) - began)

        looked_at = outcomes.count(INVALID_CREDENTIALS)
        assert outcomes.count(TOO_MANY_ATTEMPTS) == 200 - looked_at
        assert looked_at == len(checked) == await failures(database)
        assert FREE_ATTEMPTS < looked_at <= allowed
        assert validated

    async def test_200_concurrent_wrong_passwords_after_wait_check_one(
        self, patient_service, sessions, user, database, monkeypatch
    ):
        await refused(sessions.CreateSession(sign_in(password="x")))
        due = update(password_attempts).values(failures=20, blocked_until=func.now())
        await run(database, due)
        checked = count_checks(monkeypatch)
        gather_at_the_door(monkeypatch, 200)
        async with four_connections(patient_service) as others:
            outcomes = await asyncio.gather(
                *(refusal(other.CreateSession(sign_in(password="x"))) for other in others * 50)
            )

        assert outcomes.count(INVALID_CREDENTIALS) == len(checked) == 1
        assert outcomes.count(TOO_MANY_ATTEMPTS) == 199
        assert await failures(database) == 21

    async def test_password_after_100_failures_needs_a_reset(self, users, sessions, user, database):
        await refused(sessions.CreateSession(sign_in(password="x")))
        await run(
            database,
            update(password_attempts).values(failures=MAX_FAILURES, blocked_until=func.now()),
        )

        assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS
        await reset(users, (await password_reset(users)).token)
        await sessions.CreateSession(sign_in(password=NEW_PASSWORD))
