"""Sign-ins with a second factor: challenges, codes of apps, and recovery codes."""

import asyncio
from datetime import timedelta
from uuid import UUID

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import factor_service_pb2, user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.tables import password_attempts
from tests.support.calls import (
    ada,
    read_refusal,
    refusal,
    sign_in,
    validate,
)
from tests.support.factors import (
    INVALID_PROOF,
    challenge,
    complete,
    create_app,
    enrol,
    forget_steps,
    recovery_codes,
)
from tests.support.rows import run

AAL1, AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL1, AssuranceLevel.ASSURANCE_LEVEL_AAL2


@pytest.fixture
async def app(factors, user, database):
    """Ada's authenticator app."""
    return await enrol(factors, user, database)


async def end_waits(database):
    """Let the next attempt be checked at once."""
    await run(database, update(password_attempts).values(blocked_until=func.now()))


async def expire_challenges(database):
    now = func.now()
    moved = {"created_at": now - timedelta(minutes=6), "expires_at": now - timedelta(minutes=1)}
    await run(database, update(challenges).values(moved))


async def live_sessions(database, user):
    async with database.read() as db:
        return len(await db.sessions.recent(UUID(user.user_id), limit=100))


async def outcomes(calls):
    """Await calls at the same time; return how many succeeded, and the reasons of the others."""
    done = await asyncio.gather(*map(outcome, calls))
    return done.count("OK"), {reason for reason in done if reason != "OK"}


async def outcome(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    return "OK"


class TestChallenge:
    """The answer to the right password of a user with a second factor."""

    async def test_password_of_user_with_app_is_answered_by_challenge(self, sessions, user, app):
        answer = await sessions.CreateSession(sign_in())

        assert answer.challenge.challenge_token.startswith("tmh_")
        assert answer.challenge.kinds == [FactorKind.FACTOR_KIND_TOTP]
        assert answer.challenge.passkey_options_json == ""
        assert answer.challenge.HasField("expire_time")
        assert (answer.session_token, answer.HasField("session"), answer.HasField("user")) == (
            "",
            False,
            False,
        )

    async def test_challenge_names_recovery_codes_while_some_are_left(
        self, factors, sessions, user, app
    ):
        await recovery_codes(factors, user)

        kinds = (await sessions.CreateSession(sign_in())).challenge.kinds

        assert kinds == [FactorKind.FACTOR_KIND_TOTP, FactorKind.FACTOR_KIND_RECOVERY_CODES]

    async def test_recovery_codes_alone_challenge_nobody(self, factors, sessions, user):
        await recovery_codes(factors, user)

        assert (await sessions.CreateSession(sign_in())).session_token

    async def test_unconfirmed_app_challenges_nobody(self, factors, sessions, user):
        await create_app(factors, user)

        session = (await sessions.CreateSession(sign_in())).session

        assert session.assurance_level == AAL1
        assert session.authentication_methods == ["pwd"]

    async def test_challenged_sign_in_starts_no_session(self, sessions, user, app, database):
        await challenge(sessions)

        assert await live_sessions(database, user) == 0

    async def test_challenged_user_has_not_signed_in_yet(self, users, sessions, user, app):
        read = user_service_pb2.GetUserRequest(user_id=user.user_id)
        token = await challenge(sessions)
        before = (await users.GetUser(read)).user

        await complete(sessions, token, totp_code=app.code())

        assert not before.HasField("last_login_time")
        assert (await users.GetUser(read)).user.HasField("last_login_time")

    async def test_unverified_email_is_named_before_a_challenge(
        self, users, factors, sessions, database
    ):
        bob = (await users.CreateUser(ada(email="bob@example.com"))).user
        await enrol(factors, bob, database)

        said = await refusal(sessions.CreateSession(sign_in(email="bob@example.com")))

        assert said == (StatusCode.FAILED_PRECONDITION, "EMAIL_NOT_VERIFIED")
        assert not (await run(database, select(challenges.c.purpose))).all()


class TestRightCode:
    """Codes that sign a user in."""

    async def test_code_of_app_starts_session_of_level_two(self, sessions, user, app):
        done = await complete(sessions, await challenge(sessions), totp_code=app.code())

        assert done.user.user_id == user.user_id
        assert done.session.assurance_level == AAL2
        assert done.session.authentication_methods == ["mfa", "otp", "pwd"]
        assert (await validate(sessions, done.session_token)).user.user_id == user.user_id

    @pytest.mark.parametrize("steps", [-1, 1])
    async def test_code_of_neighbouring_step_is_right(self, sessions, user, app, steps):
        token = await challenge(sessions)

        code = app.code(steps)

        assert (await complete(sessions, token, totp_code=f"{code[:3]} {code[3:]}")).session_token

    async def test_recovery_code_starts_session_once(self, factors, sessions, user, app):
        first, *_ = await recovery_codes(factors, user)

        done = await complete(sessions, await challenge(sessions), recovery_code=first.lower())
        again = await refusal(complete(sessions, await challenge(sessions), recovery_code=first))

        assert done.session.authentication_methods == ["mfa", "otp", "pwd"]
        assert again == INVALID_PROOF

    async def test_used_recovery_code_leaves_nine(self, factors, sessions, user, app):
        code, *_ = await recovery_codes(factors, user)
        await complete(sessions, await challenge(sessions), recovery_code=code)

        listed = factor_service_pb2.ListFactorsRequest(user_id=user.user_id)
        _, codes = (await factors.ListFactors(listed)).factors

        assert codes.remaining_code_count == 9
        assert codes.HasField("last_use_time")

    async def test_each_app_of_a_user_signs_in(self, factors, sessions, user, app, database):
        second = await enrol(factors, user, database)

        for each in (app, second):
            await complete(sessions, await challenge(sessions), totp_code=each.code())

    async def test_unused_app_of_user_does_not_sign_in(self, factors, sessions, user, app):
        unconfirmed = await create_app(factors, user)

        said = complete(sessions, await challenge(sessions), totp_code=unconfirmed.code())

        assert await refusal(said) == INVALID_PROOF


class TestOneUse:
    """Codes and challenges that work once."""

    async def test_code_that_was_used_is_refused(self, sessions, user, app):
        code = app.code()
        await complete(sessions, await challenge(sessions), totp_code=code)

        again = complete(sessions, await challenge(sessions), totp_code=code)

        assert await refusal(again) == INVALID_PROOF

    async def test_code_before_the_used_one_is_refused(self, sessions, user, app):
        await complete(sessions, await challenge(sessions), totp_code=app.code(1))

        earlier = complete(sessions, await challenge(sessions), totp_code=app.code())

        assert await refusal(earlier) == INVALID_PROOF

    async def test_challenge_that_was_answered_is_void(self, sessions, user, app, database):
        token = await challenge(sessions)
        await complete(sessions, token, totp_code=app.code())
        await forget_steps(database)

        assert await refusal(complete(sessions, token, totp_code=app.code())) == INVALID_PROOF

    async def test_one_of_twenty_parallel_codes_signs_in(self, sessions, user, app, database):
        tokens = [await challenge(sessions) for _ in range(20)]
        code = app.code()

        calls = [complete(sessions, token, totp_code=code) for token in tokens]
        succeeded, reasons = await outcomes(calls)

        assert succeeded == 1
        assert reasons <= {"INVALID_PROOF", "TOO_MANY_ATTEMPTS"}
        assert await live_sessions(database, user) == 1

    async def test_one_of_twenty_parallel_recovery_codes_signs_in(
        self, factors, sessions, user, app, database
    ):
        code, *_ = await recovery_codes(factors, user)
        tokens = [await challenge(sessions) for _ in range(20)]

        calls = [complete(sessions, token, recovery_code=code) for token in tokens]
        succeeded, reasons = await outcomes(calls)

        assert succeeded == 1
        assert reasons <= {"INVALID_PROOF", "TOO_MANY_ATTEMPTS"}
        assert await live_sessions(database, user) == 1

    async def test_one_of_twenty_parallel_answers_to_a_challenge_signs_in(
        self, factors, sessions, user, app, database
    ):
        token = await challenge(sessions)
        codes = [*await recovery_codes(factors, user), *[app.code()] * 10]
        proofs = [{"totp_code" if len(code) == 6 else "recovery_code": code} for code in codes]

        succeeded, reasons = await outcomes([complete(sessions, token, **it) for it in proofs])

        assert succeeded == 1
        assert reasons <= {"INVALID_PROOF", "TOO_MANY_ATTEMPTS"}
        assert await live_sessions(database, user) == 1
