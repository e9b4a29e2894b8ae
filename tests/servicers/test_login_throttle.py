"""Wrong passwords are counted by what was typed and by account, and the next attempt waits."""

import asyncio
import contextlib
import itertools
from datetime import timedelta
from uuid import UUID

import bcrypt
import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.security.attempt_keys import key_of_account, key_of_email
from tamatar_auth.security.passwords.hasher import PasswordHasher, PasswordPermit
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers import password_check
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
from tests.support.settings import changed

EMAIL = key_of_email("ada@example.com")


async def failures(database, key=EMAIL):
    """Return the failures of a counter, by default that of Ada's address."""
    counted = select(password_attempts.c.failures).where(password_attempts.c.account == key)
    return (await run(database, counted)).scalar_one_or_none()


async def set_counter(database, key, **values):
    """Change the counter of a key, which exists."""
    await run(
        database,
        update(password_attempts).where(password_attempts.c.account == key).values(**values),
    )


def account(user):
    return key_of_account(UUID(user.user_id))


async def try_wrong_passwords(sessions, count=FREE_ATTEMPTS + 1, **who):
    """Type wrong passwords, and return the refusals."""
    wrong = [sign_in(password="x", **who)] * count
    return [await refused(sessions.CreateSession(request)) for request in wrong]


@pytest.fixture
async def patient_service(settings, monkeypatch):
    """A server whose calls wait as long as a slow machine needs, and 200 of them for their turn."""
    monkeypatch.setattr(limits, "POOL_WAIT", 60)
    async with run_service(changed(settings, hash_queue=500)) as service:
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

    async def test_forms_of_one_address_count_together(self, sessions, user, database):
        for email in (
            "ada@example.com",
            "ADA@example.com",
            "Ada@EXAMPLE.com",
            "ada@\uff45xample.com",
        ):
            await try_wrong_passwords(sessions, 1, email=email)
        await wait_longer(database)

        assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS

    async def test_change_password_attempts_count_too(self, users, sessions, user, database):
        for _ in range(FREE_ATTEMPTS + 1):
            await refused(change(users, user, current_password="x"))
        await wait_longer(database)

        assert await refusal(change(users, user)) == TOO_MANY_ATTEMPTS
        assert await failures(database, account(user)) == FREE_ATTEMPTS + 1

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

    async def test_wrong_password_during_purge_is_counted(
        self, users, sessions, user, database, monkeypatch
    ):
        matches = PasswordPermit.matches

        async def late(*args):
            await users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=user.user_id))
            return await matches(*args)

        monkeypatch.setattr(PasswordPermit, "matches", late)
        wrong = sign_in(password="x")
        assert await refusal(sessions.CreateSession(wrong)) == INVALID_CREDENTIALS

        pending = await run(database, select(func.sum(password_attempts.c.pending)))
        assert (await failures(database), pending.scalar_one()) == (1, 0)

    async def test_success_clears_failures_of_its_account_only(
        self, users, sessions, user, database
    ):
        other = await users.CreateUser(ada(email="other@example.com"))
        await verify(database, other.user)
        await try_wrong_passwords(sessions, 1)

        await sessions.CreateSession(sign_in(email="other@example.com"))

        assert await failures(database) == await failures(database, account(user)) == 1


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

        assert (await run(database, select(password_attempts))).all() == []

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
                                               - password_attempts.c.last_tried_at)))
                .where(password_attempts.c.account == EMAIL),
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
        await try_wrong_passwords(sessions, 1)
        await set_counter(database, account(user), failures=MAX_FAILURES - 2)
        await try_wrong_passwords(sessions, 1, username="ada")
        assert await refusal(change(users, user, current_password="x")) == INVALID_CREDENTIALS

        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
        by_name = sign_in(username="ada")
        assert await refusal(sessions.CreateSession(by_name)) == INVALID_CREDENTIALS
        assert await refusal(change(users, user)) == INVALID_CREDENTIALS
        await reset(users, (await password_reset(users)).token)
        await sessions.CreateSession(sign_in(password=NEW_PASSWORD))

    async def test_password_after_99_failures_signs_in(self, sessions, user, database):
        await try_wrong_passwords(sessions, 1, username="ada")
        await set_counter(database, account(user), failures=MAX_FAILURES - 1)

        await sessions.CreateSession(sign_in())

        assert await failures(database, account(user)) is None

    async def test_account_disabled_during_a_check_is_refused(
        self, sessions, user, database, monkeypatch
    ):
        await try_wrong_passwords(sessions, 1)
        checked, matches = asyncio.Event(), PasswordPermit.matches

        async def late(*args):
            is_right = await matches(*args)
            await set_counter(database, account(user), failures=MAX_FAILURES)
            checked.set()
            return is_right

        monkeypatch.setattr(PasswordPermit, "matches", late)

        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
        assert checked.is_set()
        assert await failures(database, account(user)) == MAX_FAILURES + 1


class TestSecrecy:
    """Answers that do not reveal which names belong to one user."""

    async def test_throttled_username_does_not_reveal_its_address(self, sessions, user, database):
        said = await try_wrong_passwords(sessions, FREE_ATTEMPTS + 2, username="ada")
        await wait_longer(database)

        assert (said[-1].code, said[-1].reason) == TOO_MANY_ATTEMPTS
        known = await try_wrong_passwords(sessions)
        assert known == await try_wrong_passwords(sessions, email="unknown@example.com")
        assert {(each.code, each.reason) for each in known} == {INVALID_CREDENTIALS}

    async def test_disabled_username_does_not_reveal_its_address(self, sessions, user, database):
        await try_wrong_passwords(sessions, username="ada")
        await set_counter(database, account(user), failures=MAX_FAILURES)

        known = await try_wrong_passwords(sessions, FREE_ATTEMPTS + 2)
        assert known == await try_wrong_passwords(
            sessions, FREE_ATTEMPTS + 2, email="unknown@example.com"
        )

    async def test_right_password_of_disabled_account_costs_the_same(
        self, sessions, user, database, statements
    ):
        await try_wrong_passwords(sessions, 1)
        await set_counter(database, account(user), failures=MAX_FAILURES)
        statements.clear()
        await try_wrong_passwords(sessions, 1)
        wrong = statements.copy()
        statements.clear()

        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
        assert statements == wrong

    async def test_sign_in_by_address_keeps_the_wait_of_the_username(
        self, sessions, user, database
    ):
        await try_wrong_passwords(sessions, username="ada")
        await wait_longer(database)

        await sessions.CreateSession(sign_in())

        by_name = sign_in(username="ada")
        assert await refusal(sessions.CreateSession(by_name)) == TOO_MANY_ATTEMPTS

    async def test_reset_ends_the_wait_of_its_address_only(self, users, sessions, user, database):
        await try_wrong_passwords(sessions)
        await try_wrong_passwords(sessions, username="ada")
        await wait_longer(database)

        await reset(users, (await password_reset(users)).token)

        await sessions.CreateSession(sign_in(password=NEW_PASSWORD))
        by_name = sign_in(username="ada", password=NEW_PASSWORD)
        assert await refusal(sessions.CreateSession(by_name)) == TOO_MANY_ATTEMPTS


class TestRightPasswords:
    """Right passwords at once, which are never too many attempts."""

    @pytest.mark.parametrize("wrong_before", [0, FREE_ATTEMPTS])
    async def test_right_passwords_at_once_all_sign_in(
        self, patient_service, sessions, user, database, monkeypatch, wrong_before
    ):
        monkeypatch.setattr(password_check, "RESERVATION_WAIT", 60)
        await try_wrong_passwords(sessions, wrong_before)
        gather_at_the_door(monkeypatch, 48)
        async with four_connections(patient_service) as others:
            await asyncio.gather(*(other.CreateSession(sign_in()) for other in others * 12))

        assert (await run(database, select(password_attempts))).all() == []

    async def test_right_password_after_a_wait_signs_in_many_times(
        self, patient_service, sessions, user, database, monkeypatch
    ):
        monkeypatch.setattr(password_check, "RESERVATION_WAIT", 60)
        await try_wrong_passwords(sessions)
        await set_counter(database, EMAIL, failures=20, blocked_until=func.now())
        gather_at_the_door(monkeypatch, 20)
        async with four_connections(patient_service) as others:
            await asyncio.gather(*(other.CreateSession(sign_in()) for other in others * 5))

    async def test_attempts_in_progress_make_others_wait_then_busy(
        self, sessions, user, database, monkeypatch
    ):
        monkeypatch.setattr(password_check, "RESERVATION_WAIT", 0.1)
        await try_wrong_passwords(sessions, 1)
        await set_counter(
            database,
            EMAIL,
            pending=FREE_ATTEMPTS,
            pending_until=func.now() + timedelta(hours=1),
        )

        said = await refused(sessions.CreateSession(sign_in()))

        assert (said.code, said.reason) == (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
        assert said.retry_seconds
        assert await failures(database) == 1

    async def test_attempts_of_a_killed_process_expire(self, sessions, user, database):
        await try_wrong_passwords(sessions, 1)
        await set_counter(database, EMAIL, pending=FREE_ATTEMPTS + 1, pending_until=func.now())

        await sessions.CreateSession(sign_in())
