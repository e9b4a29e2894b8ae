"""BeginStepUp and CompleteStepUp, over a real channel."""

import asyncio
from datetime import UTC, timedelta
from uuid import UUID

import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.security.tokens import ChallengeToken, token_digest
from tamatar_auth.servicers import password_check
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tamatar_auth.storage.repositories.session_state import ROTATION_GRACE
from tamatar_auth.storage.tables import password_attempts
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import (
    NEW_PASSWORD,
    PASSWORD,
    TOO_MANY_ATTEMPTS,
    ada,
    change,
    refresh,
    refusal,
    refused,
    sign_in,
    validate,
    verify,
)
from tests.support.factors import INVALID_PROOF, enrol, recovery_codes
from tests.support.factors import challenge as challenge_of_sign_in
from tests.support.factors import complete as complete_sign_in
from tests.support.passkey_calls import register_passkey
from tests.support.rows import run, wait_longer
from tests.support.session_watchers import End, watching
from tests.support.waiting import eventually, lock_is_waited_for

AAL1, AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL1, AssuranceLevel.ASSURANCE_LEVEL_AAL2
UNKNOWN = (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")
REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
SERVER_BUSY = (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
WRONG = "wrong horse battery"
HOUR = timedelta(hours=1)


@pytest.fixture
async def signed_in(sessions, user, database):
    """The answer to Ada's sign-in of an hour ago."""
    answer = await sessions.CreateSession(sign_in())
    await run(database, update(sessions_table).values(created_at=func.now() - HOUR))
    return answer


@pytest.fixture
def token(signed_in):
    return signed_in.session_token


def begin(sessions, token):
    return sessions.BeginStepUp(pb.BeginStepUpRequest(session_token=token))


def complete(sessions, token, challenge, **proof):
    proof = proof or {"password": PASSWORD}
    request = pb.CompleteStepUpRequest(session_token=token, challenge_token=challenge, **proof)
    return sessions.CompleteStepUp(request)


async def begun(sessions, token):
    """Begin a step-up, and return the token of its challenge."""
    return (await begin(sessions, token)).challenge.challenge_token


async def stepped_up(sessions, token):
    """Prove the password again, and return the answer."""
    return await complete(sessions, token, await begun(sessions, token))


def validate_strong(sessions, token):
    request = pb.ValidateSessionRequest(session_token=token, min_assurance_level=AAL2)
    return sessions.ValidateSession(request)


def validate_recent(sessions, token):
    request = pb.ValidateSessionRequest(session_token=token, max_authentication_age=5 * HOUR / 60)
    return sessions.ValidateSession(request)


class TestBegin:
    """BeginStepUp."""

    async def test_challenge_lasts_5_minutes_and_is_stored_as_digest(
        self, sessions, signed_in, database
    ):
        challenge = (await begin(sessions, signed_in.session_token)).challenge

        stored = (await run(database, select(challenges))).one()
        assert stored.token_digest == ChallengeToken(challenge.challenge_token).digest
        assert challenge.challenge_token not in str(stored)
        assert stored.expires_at - stored.created_at == timedelta(minutes=5)
        assert challenge.expire_time.ToDatetime(UTC) == stored.expires_at
        assert (stored.user_id, stored.session_id) == (
            UUID(signed_in.user.user_id),
            UUID(signed_in.session.session_id),
        )

    async def test_password_answers_challenge_of_user_with_password(self, sessions, token):
        challenge = (await begin(sessions, token)).challenge

        assert challenge.kinds == [FactorKind.FACTOR_KIND_PASSWORD]
        assert not challenge.passkey_options_json

    async def test_challenge_names_all_that_the_user_can_prove(
        self, sessions, factors, signed_in, database
    ):
        await enrol(factors, signed_in.user, database)
        await recovery_codes(factors, signed_in.user)
        await register_passkey(factors, signed_in.user)

        challenge = (await begin(sessions, signed_in.session_token)).challenge

        assert challenge.kinds == [
            FactorKind.FACTOR_KIND_PASSWORD,
            FactorKind.FACTOR_KIND_TOTP,
            FactorKind.FACTOR_KIND_RECOVERY_CODES,
            FactorKind.FACTOR_KIND_PASSKEY,
        ]
        assert challenge.passkey_options_json

    async def test_user_without_password_is_not_asked_for_it(self, sessions, token, database):
        await run(database, update(users_table).values(password_hash=None))

        assert list((await begin(sessions, token)).challenge.kinds) == []

    async def test_begin_for_session_not_valid_is_refused(self, sessions, token):
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))

        assert await refusal(begin(sessions, token)) == REVOKED
        assert await refusal(begin(sessions, "unknown")) == UNKNOWN

    async def test_begin_changes_nothing_of_the_session(self, sessions, token):
        before = await validate(sessions, token)

        await begin(sessions, token)

        assert await validate(sessions, token) == before


class TestComplete:
    """CompleteStepUp with a password."""

    async def test_step_up_renews_time_and_token(self, sessions, signed_in, token):
        assert (await refusal(validate_recent(sessions, token)))[1] == "STEP_UP_REQUIRED"

        answer = await stepped_up(sessions, token)

        fresh = await validate_recent(sessions, answer.session_token)
        assert (fresh.session, fresh.user) == (answer.session, answer.user)
        assert answer.session.session_id == signed_in.session.session_id
        assert answer.session.assurance_level == AAL1
        assert answer.session.authentication_methods == ["pwd"]
        authenticated = answer.session.authenticate_time.ToDatetime()
        assert authenticated - answer.session.create_time.ToDatetime() >= HOUR
        assert answer.session.expire_time == signed_in.session.expire_time
        assert answer.session_token not in {token, ""}

    async def test_session_keeps_its_methods_after_password(self, sessions, token, database):
        await run(database, update(sessions_table).values(authentication_methods="mfa otp pwd"))

        answer = await stepped_up(sessions, token)

        assert answer.session.assurance_level == AAL2
        assert answer.session.authentication_methods == ["mfa", "otp", "pwd"]

    async def test_old_token_is_refused_and_its_refresh_ends_session(self, sessions, token):
        fresh = (await stepped_up(sessions, token)).session_token
        assert await refusal(validate(sessions, token)) == UNKNOWN
        assert await validate(sessions, fresh)

        _, reason = await refusal(refresh(sessions, token))

        assert reason == "SESSION_REUSED"
        assert await refusal(validate(sessions, fresh)) == REVOKED

    async def test_new_token_can_be_refreshed_and_stepped_up(self, sessions, token):
        fresh = (await stepped_up(sessions, token)).session_token
        fresh = (await refresh(sessions, fresh)).session_token

        answer = await stepped_up(sessions, fresh)

        assert await validate(sessions, answer.session_token)

    async def test_refresh_in_between_is_allowed(self, sessions, token):
        challenge = await begun(sessions, token)
        fresh = (await refresh(sessions, token)).session_token

        answer = await complete(sessions, fresh, challenge)

        for old in (token, fresh):
            assert await refusal(validate(sessions, old)) == UNKNOWN
        assert await validate(sessions, answer.session_token)

    async def test_replaced_token_steps_up_in_its_grace_only(self, sessions, token, database):
        challenge = await begun(sessions, token)
        await refresh(sessions, token)
        late = update(sessions_table).values(rotated_at=func.now() - ROTATION_GRACE)
        await run(database, late)
        assert await refusal(complete(sessions, token, challenge)) == UNKNOWN

        await run(database, update(sessions_table).values(rotated_at=func.now() + HOUR))

        assert await complete(sessions, token, challenge)

    async def test_20_parallel_answers_one_succeeds(self, sessions, token):
        challenge = await begun(sessions, token)

        ends = await asyncio.gather(
            *(complete(sessions, token, challenge) for _ in range(20)), return_exceptions=True
        )

        (answer,) = [end for end in ends if isinstance(end, pb.CompleteStepUpResponse)]
        assert await validate(sessions, answer.session_token)
        assert await refusal(validate(sessions, token)) == UNKNOWN

    async def test_session_that_ends_meanwhile_is_refused(self, sessions, token, database):
        challenge = await begun(sessions, token)
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))

        assert await refusal(complete(sessions, token, challenge)) == REVOKED
        assert len((await run(database, select(challenges))).all()) == 1

    async def test_user_that_is_deactivated_meanwhile_is_refused(self, users, sessions, signed_in):
        token = signed_in.session_token
        challenge = await begun(sessions, token)
        request = user_service_pb2.DeactivateUserRequest(user_id=signed_in.user.user_id)
        await users.DeactivateUser(request)

        assert await refusal(complete(sessions, token, challenge)) == REVOKED

    async def test_new_password_proves_after_a_change(self, users, sessions, signed_in):
        token = signed_in.session_token
        kept = {"keep_session_id": signed_in.session.session_id}
        await change(users, signed_in.user, **kept)
        challenge = await begun(sessions, token)

        assert await refusal(complete(sessions, token, challenge)) == INVALID_PROOF
        assert await complete(sessions, token, challenge, password=NEW_PASSWORD)

    async def test_step_up_tells_watchers_nothing(self, sessions, signed_in):
        ended = await sessions.CreateSession(sign_in())
        end = End(ended.user.user_id, ended.session.session_id)
        async with watching(sessions) as watch:
            await stepped_up(sessions, signed_in.session_token)
            await sessions.RevokeSession(pb.RevokeSessionRequest(session_id=end.session_id))
            await watch.wait_for(end)

            assert set(watch.ends) == {end}

    async def test_step_up_leaves_time_of_sign_in(self, sessions, signed_in):
        answer = await stepped_up(sessions, signed_in.session_token)

        assert answer.user.last_login_time == signed_in.user.last_login_time
        assert answer.user.etag == signed_in.user.etag


class TestSecondFactors:
    """CompleteStepUp with a code or a passkey."""

    @pytest.fixture
    async def app(self, factors, signed_in, database):
        """Ada's authenticator app."""
        return await enrol(factors, signed_in.user, database)

    async def test_code_of_app_raises_session_to_aal2(self, sessions, token, app):
        assert (await refusal(validate_strong(sessions, token)))[1] == "STEP_UP_REQUIRED"
        challenge = await begun(sessions, token)

        answer = await complete(sessions, token, challenge, totp_code=app.code())

        assert answer.session.assurance_level == AAL2
        assert answer.session.authentication_methods == ["mfa", "otp", "pwd"]
        fresh = await validate_strong(sessions, answer.session_token)
        assert (fresh.session, fresh.user) == (answer.session, answer.user)
        assert await validate_recent(sessions, answer.session_token)
        assert await refusal(validate(sessions, token)) == UNKNOWN

    async def test_recovery_code_raises_session_to_aal2_once(
        self, sessions, factors, signed_in, app
    ):
        code, *_ = await recovery_codes(factors, signed_in.user)
        token = signed_in.session_token

        answer = await complete(sessions, token, await begun(sessions, token), recovery_code=code)

        assert answer.session.authentication_methods == ["mfa", "otp", "pwd"]
        token = answer.session_token
        again = complete(sessions, token, await begun(sessions, token), recovery_code=code)
        assert await refusal(again) == INVALID_PROOF

    @pytest.mark.parametrize(
        ("facts", "word"),
        [({}, "hwk"), ({"is_backup_eligible": True, "verifies_user": False}, "swk")],
    )
    async def test_passkey_raises_session_to_aal2(self, sessions, factors, signed_in, facts, word):
        passkey, _ = await register_passkey(factors, signed_in.user, **facts)
        token = signed_in.session_token
        challenge = (await begin(sessions, token)).challenge
        credential = passkey.sign(challenge.passkey_options_json)

        answer = await complete(
            sessions, token, challenge.challenge_token, passkey_credential_json=credential
        )

        assert answer.session.assurance_level == AAL2
        assert answer.session.authentication_methods == sorted(["mfa", "pwd", "user", word])
        token = answer.session_token
        again = complete(
            sessions, token, await begun(sessions, token), passkey_credential_json=credential
        )
        assert await refusal(again) == INVALID_PROOF

    async def test_session_with_second_factor_is_aal2_before_step_up(
        self, sessions, signed_in, app
    ):
        sign_in_challenge = await challenge_of_sign_in(sessions)

        session = (
            await complete_sign_in(sessions, sign_in_challenge, totp_code=app.code())
        ).session

        assert session.assurance_level == AAL2
        assert session.authenticate_time == session.create_time

    async def test_one_of_20_parallel_codes_steps_up(self, sessions, token, app):
        challenge = await begun(sessions, token)

        ends = await asyncio.gather(
            *(complete(sessions, token, challenge, totp_code=app.code()) for _ in range(20)),
            return_exceptions=True,
        )

        (answer,) = [end for end in ends if isinstance(end, pb.CompleteStepUpResponse)]
        assert await validate(sessions, answer.session_token)

    async def test_code_that_signed_in_is_no_proof_again(self, sessions, token, app):
        code = app.code()
        await complete_sign_in(sessions, await challenge_of_sign_in(sessions), totp_code=code)

        again = complete(sessions, token, await begun(sessions, token), totp_code=code)

        assert await refusal(again) == INVALID_PROOF

    async def test_challenge_of_sign_in_is_none_of_step_up(self, sessions, token, app):
        of_sign_in, of_step_up = await challenge_of_sign_in(sessions), await begun(sessions, token)

        for code in ({"totp_code": app.code()}, {"password": PASSWORD}):
            assert await refusal(complete(sessions, token, of_sign_in, **code)) == INVALID_PROOF
        signed_in = complete_sign_in(sessions, of_step_up, totp_code=app.code())
        assert await refusal(signed_in) == INVALID_PROOF

    async def test_code_of_another_user_is_refused(
        self, sessions, factors, users, token, app, database
    ):
        other = (await users.CreateUser(ada(email="grace@example.com"))).user
        of_other = await enrol(factors, other, database)
        challenge = await begun(sessions, token)

        assert await refusal(complete(sessions, token, challenge, totp_code=of_other.code())) == (
            INVALID_PROOF
        )

    async def test_session_that_ends_during_the_proof_is_refused(self, sessions, token, app):
        challenge = await begun(sessions, token)
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))

        assert await refusal(complete(sessions, token, challenge, totp_code=app.code())) == REVOKED

    async def test_used_proof_of_failed_step_up_works_again(
        self, sessions, signed_in, app, database
    ):
        """The proof is used in the transaction that replaces the token."""
        token, code = signed_in.session_token, app.code()
        challenge = await begun(sessions, token)
        async with database.transaction() as tx:
            await tx.users.lock(UUID(signed_in.user.user_id))
            step_up = asyncio.ensure_future(complete(sessions, token, challenge, totp_code=code))
            await eventually(lambda: lock_is_waited_for(database))
            await tx.sessions.revoke(UUID(signed_in.session.session_id))
        assert await refusal(step_up) == REVOKED

        done = await complete_sign_in(
            sessions, await challenge_of_sign_in(sessions), totp_code=code
        )

        assert done.session_token


class TestRefusals:
    """Answers that are no proof."""

    @pytest.fixture
    async def grace(self, users, sessions, database):
        """The token of another user's session."""
        created = await users.CreateUser(ada(email="grace@example.com"))
        await verify(database, created.user)
        return (await sessions.CreateSession(sign_in(email="grace@example.com"))).session_token

    async def test_refusals_of_all_causes_are_equal(
        self, sessions, token, grace, database, monkeypatch
    ):
        expired, used = [await begun(sessions, token) for _ in range(2)]
        past = update(challenges).where(challenges.c.token_digest == token_digest(expired))
        await run(database, past.values(expires_at=func.now()))
        token = (await complete(sessions, token, used)).session_token
        others = await begun(sessions, grace)

        refusals = [
            await refused(complete(sessions, token, challenge, **proof))
            for challenge, proof in (
                (await begun(sessions, token), {"password": WRONG}),
                (expired, {}),
                (used, {}),
                (others, {}),
                (ChallengeToken.issue().text, {}),
                ("unknown", {}),
            )
        ]

        assert len({str(refusal) for refusal in refusals}) == 1
        assert (refusals[0].code, refusals[0].reason) == INVALID_PROOF
        assert not refusals[0].metadata

    async def test_challenge_of_another_session_is_refused(self, sessions, token):
        other = (await sessions.CreateSession(sign_in())).session_token
        challenge = await begun(sessions, other)

        assert await refusal(complete(sessions, token, challenge)) == INVALID_PROOF
        assert await complete(sessions, other, challenge)

    async def test_step_up_with_session_of_another_user_is_refused(self, sessions, token, grace):
        challenge = await begun(sessions, token)

        assert await refusal(complete(sessions, grace, challenge)) == INVALID_PROOF

    async def test_challenge_dies_after_five_wrong_answers(self, sessions, token, database):
        challenge = await begun(sessions, token)
        await run(database, update(challenges).values(attempts=4))
        assert await refusal(complete(sessions, token, challenge, password=WRONG)) == INVALID_PROOF

        assert await refusal(complete(sessions, token, challenge)) == INVALID_PROOF

    async def test_wrong_passwords_count_as_at_sign_in(self, sessions, token, database):
        challenge = await begun(sessions, token)
        for _ in range(FREE_ATTEMPTS + 1):
            wrong = complete(sessions, token, challenge, password=WRONG)
            assert await refusal(wrong) == INVALID_PROOF
        await wait_longer(database)

        assert await refusal(complete(sessions, token, challenge)) == TOO_MANY_ATTEMPTS
        stored = (await run(database, select(challenges))).one()
        assert stored.attempts == FREE_ATTEMPTS + 1

    async def test_password_that_was_not_checked_is_no_answer(
        self, sessions, token, database, monkeypatch
    ):
        monkeypatch.setattr(password_check, "RESERVATION_WAIT", 0.1)
        challenge = await begun(sessions, token)
        wrong = complete(sessions, token, challenge, password=WRONG)
        assert await refusal(wrong) == INVALID_PROOF
        busy = {"pending": FREE_ATTEMPTS, "pending_until": func.now() + HOUR}
        await run(database, update(password_attempts).values(**busy))

        assert await refusal(complete(sessions, token, challenge)) == SERVER_BUSY
        assert (await run(database, select(challenges))).one().attempts == 1

    async def test_wrong_answer_changes_nothing_of_the_session(self, sessions, token):
        before = await validate(sessions, token)
        challenge = await begun(sessions, token)

        await refused(complete(sessions, token, challenge, password=WRONG))

        assert await validate(sessions, token) == before

    async def test_proof_that_is_missing_is_named(self, sessions, token):
        request = pb.CompleteStepUpRequest(session_token=token, challenge_token="unknown")

        refusal = await refused(sessions.CompleteStepUp(request))

        assert (refusal.code, set(refusal.fields)) == (StatusCode.INVALID_ARGUMENT, {"proof"})
