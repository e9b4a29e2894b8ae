"""Sign-ins with a second factor: challenges, codes of apps, and recovery codes."""

import asyncio
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import grpc
import pytest
import structlog
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.factors import ProofCause
from tamatar_auth.security import totp
from tamatar_auth.security.attempt_keys import key_of_account, key_of_proof
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.factor_tables import factors as factors_table
from tamatar_auth.storage.repositories.challenges import (
    MAX_ANSWERS,
    ChallengePurpose,
    NewChallenge,
)
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    MAX_FAILURES,
    LoginAttemptRepository,
)
from tamatar_auth.storage.repositories.proofs import ProofRepository
from tamatar_auth.storage.tables import password_attempts
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import (
    NEW_PASSWORD,
    TOO_MANY_ATTEMPTS,
    ada,
    change,
    confirm_change,
    email_change,
    password_reset,
    read_refusal,
    refusal,
    refused,
    reset,
    sign_in,
    validate,
    verify,
)
from tests.support.factors import (
    INVALID_PROOF,
    challenge,
    complete,
    create_app,
    delete,
    enrol,
    forget_steps,
    listed,
    recovery_codes,
)
from tests.support.passkey_calls import begin_sign_in, register_passkey
from tests.support.rows import run, wait_longer
from tests.support.waiting import eventually

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

    async def test_app_of_another_user_challenges_nobody(
        self, users, factors, sessions, user, database
    ):
        bob = (await users.CreateUser(ada(email="bob@example.com"))).user
        await enrol(factors, bob, database)

        assert (await sessions.CreateSession(sign_in())).session_token

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

        _, codes = await listed(factors, user)

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


async def no_challenge(scene):
    return complete(scene.sessions, "tmh_" + "A" * 43, totp_code=scene.app.code())


async def expired_challenge(scene):
    token = await challenge(scene.sessions)
    await expire_challenges(scene.database)
    return complete(scene.sessions, token, totp_code=scene.app.code())


async def used_challenge(scene):
    token = await challenge(scene.sessions)
    await complete(scene.sessions, token, totp_code=scene.app.code())
    await forget_steps(scene.database)
    return complete(scene.sessions, token, totp_code=scene.app.code())


async def void_challenge(scene):
    token = await challenge(scene.sessions)
    await run(scene.database, update(challenges).values(attempts=MAX_ANSWERS))
    return complete(scene.sessions, token, totp_code=scene.app.code())


async def wrong_code(scene):
    return complete(scene.sessions, await challenge(scene.sessions), totp_code=scene.app.wrong_code)


async def used_code(scene):
    code = scene.app.code()
    await complete(scene.sessions, await challenge(scene.sessions), totp_code=code)
    return complete(scene.sessions, await challenge(scene.sessions), totp_code=code)


async def code_of_another_user(scene):
    bob = (await scene.users.CreateUser(ada(email="bob@example.com"))).user
    other = await enrol(scene.factors, bob, scene.database)
    return complete(scene.sessions, await challenge(scene.sessions), totp_code=other.code())


async def no_recovery_codes(scene):
    return complete(scene.sessions, await challenge(scene.sessions), recovery_code="ABCD-EFGH-JKMN")


async def wrong_recovery_code(scene):
    await recovery_codes(scene.factors, scene.user)
    return await no_recovery_codes(scene)


async def replaced_recovery_code(scene):
    old, *_ = await recovery_codes(scene.factors, scene.user)
    await recovery_codes(scene.factors, scene.user)
    return complete(scene.sessions, await challenge(scene.sessions), recovery_code=old)


async def moved_secret(scene):
    """The secret of another factor, copied into the factor of the app."""
    other = await enrol(scene.factors, scene.user, scene.database)
    ids = [UUID(each.factor.factor_id) for each in (scene.app, other)]
    stolen = select(factors_table.c.encrypted_secret).where(factors_table.c.id == ids[1])
    moved = update(factors_table).where(factors_table.c.id == ids[0])
    await run(scene.database, moved.values(encrypted_secret=stolen.scalar_subquery()))
    await delete(scene.factors, other.factor)
    return complete(scene.sessions, await challenge(scene.sessions), totp_code=other.code())


REFUSALS = {
    no_challenge: ProofCause.NO_CHALLENGE,
    expired_challenge: ProofCause.NO_CHALLENGE,
    used_challenge: ProofCause.NO_CHALLENGE,
    void_challenge: ProofCause.TOO_MANY_ANSWERS,
    wrong_code: ProofCause.WRONG_CODE,
    used_code: ProofCause.USED_CODE,
    code_of_another_user: ProofCause.WRONG_CODE,
    no_recovery_codes: ProofCause.NO_FACTOR,
    wrong_recovery_code: ProofCause.WRONG_CODE,
    replaced_recovery_code: ProofCause.WRONG_CODE,
    moved_secret: ProofCause.WRONG_CODE,
}
"""Answers that are refused, with the cause in the audit trail."""


class Scene(NamedTuple):
    """Ada with an app, and what the tests call."""

    users: Any
    factors: Any
    sessions: Any
    database: Any
    user: Any
    app: Any


@pytest.fixture
def scene(users, factors, sessions, database, user, app):
    return Scene(users, factors, sessions, database, user, app)


class TestRefusals:
    """Answers that are refused, all alike."""

    @pytest.mark.parametrize("cause", REFUSALS, ids=lambda cause: cause.__name__)
    async def test_refused_answers_are_alike(self, scene, statements, cause):
        call = await cause(scene)
        statements.clear()

        said = await refused(call)

        assert (said.code, said.reason) == INVALID_PROOF
        assert said.message == "The proof is not valid."
        assert (said.metadata, said.fields, said.retry_seconds) == ({}, {}, None)
        assert statements == await self.statements_of_reference(scene, statements)

    async def statements_of_reference(self, scene, statements):
        seen = [*statements]
        call = await no_challenge(scene)
        statements.clear()
        await refused(call)
        reference = [*statements]
        statements[:] = seen
        return reference

    @pytest.mark.parametrize("cause", REFUSALS, ids=lambda cause: cause.__name__)
    async def test_refused_answers_take_equal_work(self, scene, monkeypatch, cause):
        work = []

        def count(owner, name):
            do = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *args: (work.append(name), do(*args))[1])

        call = await cause(scene)
        count(totp, "find_step")
        count(FactorKeys, "decrypt")
        count(FactorKeys, "code_digest")
        await refused(call)

        of_app, of_codes = ["decrypt", "find_step"], ["code_digest"]
        assert work == (of_codes if "recovery" in cause.__name__ else of_app)

    async def test_code_answers_no_challenge_without_password(self, scene):
        await register_passkey(scene.factors, scene.user)
        begun = await begin_sign_in(scene.sessions, "ada@example.com")

        answer = complete(scene.sessions, begun.challenge_token, totp_code=scene.app.code())

        assert await refusal(answer) == INVALID_PROOF

    async def test_code_is_in_no_status_and_no_log(self, scene):
        token, code = await challenge(scene.sessions), scene.app.wrong_code

        with structlog.testing.capture_logs() as logs:
            said = await refused(complete(scene.sessions, token, totp_code=code))

        assert code not in f"{said}"
        assert [entry["event"] for entry in logs if code in str(entry.values())] == []

    @pytest.mark.parametrize("cause", REFUSALS, ids=lambda cause: cause.__name__)
    async def test_true_cause_is_in_the_audit_trail(self, scene, cause):
        call = await cause(scene)

        with structlog.testing.capture_logs() as logs:
            await refused(call)

        (entry,) = (entry for entry in logs if entry.get("audit"))
        assert (entry["event"], entry["cause"]) == ("sign_in.failed", REFUSALS[cause])
        is_known = REFUSALS[cause] is not ProofCause.NO_CHALLENGE
        assert entry.get("user_id") == (scene.user.user_id if is_known else None)

    @pytest.mark.parametrize(
        "proof", [{"totp_code": "١٢٣٤٥٦"}, {"totp_code": "0"}, {"recovery_code": "😀" * 60}]
    )
    async def test_odd_proof_is_no_fault(self, sessions, user, app, proof):
        assert await refusal(complete(sessions, await challenge(sessions), **proof)) == (
            INVALID_PROOF
        )


async def changed_password(scene):
    await change(scene.users, scene.user)


async def reset_password(scene):
    await reset(scene.users, (await password_reset(scene.users)).token)


async def changed_email(scene):
    await confirm_change(scene.users, (await email_change(scene.users, scene.user)).token)


async def deactivated(scene):
    request = user_service_pb2.DeactivateUserRequest(user_id=scene.user.user_id)
    await scene.users.DeactivateUser(request)


async def activated_again(scene):
    await deactivated(scene)
    request = user_service_pb2.ActivateUserRequest(user_id=scene.user.user_id)
    await scene.users.ActivateUser(request)


async def deleted(scene):
    await scene.users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=scene.user.user_id))


async def deleted_and_restored(scene):
    await deleted(scene)
    await scene.users.RestoreUser(user_service_pb2.RestoreUserRequest(user_id=scene.user.user_id))


async def purged(scene):
    await scene.users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=scene.user.user_id))


class TestChangesInBetween:
    """Users that change between the password and the code."""

    @pytest.mark.parametrize(
        "happening",
        [
            changed_password,
            reset_password,
            changed_email,
            deactivated,
            activated_again,
            deleted,
            deleted_and_restored,
            purged,
        ],
        ids=lambda happening: happening.__name__,
    )
    async def test_challenge_ends_with_change_of_user(self, scene, happening):
        token = await challenge(scene.sessions)

        await happening(scene)

        answer = complete(scene.sessions, token, totp_code=scene.app.code())
        assert await refusal(answer) == INVALID_PROOF

    async def test_unverified_email_is_named_after_the_code(self, scene):
        token = await challenge(scene.sessions)
        await run(scene.database, update(users_table).values(email_verified=False))

        said = await refusal(complete(scene.sessions, token, totp_code=scene.app.code()))

        assert said == (StatusCode.FAILED_PRECONDITION, "EMAIL_NOT_VERIFIED")

    async def test_password_reset_removes_no_factor(self, scene):
        await reset_password(scene)

        token = await challenge(scene.sessions, password=NEW_PASSWORD)

        assert (await complete(scene.sessions, token, totp_code=scene.app.code())).session_token

    async def test_deleted_factor_lets_the_password_sign_in(self, scene):
        await delete(scene.factors, scene.app.factor)

        session = (await scene.sessions.CreateSession(sign_in())).session

        assert session.assurance_level == AAL1

    async def test_password_change_during_the_answer_starts_no_session(self, scene, monkeypatch):
        token = await challenge(scene.sessions)
        record = CredentialRepository.record_proven_sign_in

        async def late(self, user_id):
            monkeypatch.setattr(CredentialRepository, "record_proven_sign_in", record)
            await change(scene.users, scene.user)
            return await record(self, user_id)

        monkeypatch.setattr(CredentialRepository, "record_proven_sign_in", late)

        answer = complete(scene.sessions, token, totp_code=scene.app.code())
        assert await refusal(answer) == INVALID_PROOF
        assert await live_sessions(scene.database, scene.user) == 0

    @pytest.mark.parametrize("kind", ["totp_code", "recovery_code", "passkey_credential_json"])
    async def test_factor_deleted_during_the_answer_accuses_nobody(self, scene, monkeypatch, kind):
        passkey, of_passkey = await register_passkey(scene.factors, scene.user)
        code, *_ = await recovery_codes(scene.factors, scene.user)
        answer = (await scene.sessions.CreateSession(sign_in())).challenge
        proofs = {
            "totp_code": scene.app.code(),
            "recovery_code": code,
            "passkey_credential_json": passkey.sign(answer.passkey_options_json),
        }
        factors = {each.kind: each for each in await listed(scene.factors, scene.user)}
        of_codes = factors[FactorKind.FACTOR_KIND_RECOVERY_CODES]
        deleted_factor = dict(zip(proofs, (scene.app.factor, of_codes, of_passkey), strict=True))
        record = CredentialRepository.record_proven_sign_in

        async def late(self, user_id):
            monkeypatch.setattr(CredentialRepository, "record_proven_sign_in", record)
            await delete(scene.factors, deleted_factor[kind])
            return await record(self, user_id)

        monkeypatch.setattr(CredentialRepository, "record_proven_sign_in", late)

        with structlog.testing.capture_logs() as logs:
            call = complete(scene.sessions, answer.challenge_token, **{kind: proofs[kind]})
            assert await refusal(call) == INVALID_PROOF

        causes = [entry["cause"] for entry in logs if entry["event"] == "sign_in.failed"]
        assert causes == [ProofCause.CHANGED_MEANWHILE]


class TestThrottle:
    """Wrong codes are counted: by the challenge, by the user's codes and by the account."""

    async def test_challenge_is_void_after_five_wrong_codes(self, scene):
        token = await challenge(scene.sessions)
        for _ in range(MAX_ANSWERS):
            await end_waits(scene.database)
            await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        await end_waits(scene.database)

        right = complete(scene.sessions, token, totp_code=scene.app.code())

        assert await refusal(right) == INVALID_PROOF
        await complete(scene.sessions, await challenge(scene.sessions), totp_code=scene.app.code())

    async def test_parallel_wrong_codes_are_checked_five_times_at_most(self, scene):
        token = await challenge(scene.sessions)
        wrong = scene.app.wrong_code
        calls = [complete(scene.sessions, token, totp_code=wrong) for _ in range(20)]

        succeeded, _ = await outcomes(calls)

        assert succeeded == 0
        assert await failures(scene, key_of_proof) <= MAX_ANSWERS

    async def test_wrong_codes_count_against_the_account(self, scene):
        token = await challenge(scene.sessions)
        for _ in range(2):
            await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))

        assert await failures(scene, key_of_account) == 2
        assert await failures(scene, key_of_proof) == 2

    async def test_wrong_codes_make_the_next_one_wait(self, scene):
        token = await challenge(scene.sessions)
        for _ in range(FREE_ATTEMPTS + 1):
            await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        await wait_longer(scene.database)

        said = await refused(complete(scene.sessions, token, totp_code=scene.app.code()))

        assert (said.code, said.reason) == TOO_MANY_ATTEMPTS
        assert said.retry_seconds
        # A code that was not checked is no answer.
        await end_waits(scene.database)
        assert (await complete(scene.sessions, token, totp_code=scene.app.code())).session_token

    async def test_waiting_answers_leave_the_challenge(self, scene):
        token = await challenge(scene.sessions)
        for _ in range(FREE_ATTEMPTS + 1):
            await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        await wait_longer(scene.database)
        for _ in range(MAX_ANSWERS):
            said = await refusal(complete(scene.sessions, token, totp_code=scene.app.code()))
            assert said == TOO_MANY_ATTEMPTS

        await end_waits(scene.database)

        assert (await complete(scene.sessions, token, totp_code=scene.app.code())).session_token

    async def test_answers_for_another_purpose_take_back_no_count(self, scene):
        bob = (await scene.users.CreateUser(ada(email="bob@example.com"))).user
        await verify(scene.database, bob)
        session = (
            await scene.sessions.CreateSession(sign_in(email="bob@example.com"))
        ).session_token
        token = await challenge(scene.sessions)
        for _ in range(MAX_ANSWERS):
            await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
            await end_waits(scene.database)
        foreign = session_service_pb2.CompleteStepUpRequest(
            session_token=session, challenge_token=token, totp_code=scene.app.wrong_code
        )

        said = [
            await refusal(scene.sessions.CompleteStepUp(foreign)) for _ in range(FREE_ATTEMPTS + 1)
        ]
        await wait_longer(scene.database)
        said += [await refusal(scene.sessions.CompleteStepUp(foreign)) for _ in range(MAX_ANSWERS)]

        assert said == [INVALID_PROOF] * (FREE_ATTEMPTS + 1) + [TOO_MANY_ATTEMPTS] * MAX_ANSWERS
        await end_waits(scene.database)
        right = complete(scene.sessions, token, totp_code=scene.app.code())
        assert await refusal(right) == INVALID_PROOF

    async def test_reserved_attempt_waits_for_no_other_connection(self, scene, monkeypatch):
        token = await challenge(scene.sessions)
        reserve = LoginAttemptRepository.reserve

        def busy(_self):
            raise ServerBusy

        async def last(self, keys):
            monkeypatch.setattr(Database, "statements", busy)
            return await reserve(self, keys)

        monkeypatch.setattr(LoginAttemptRepository, "reserve", last)

        said = await refusal(complete(scene.sessions, token, totp_code=scene.app.wrong_code))

        assert said == INVALID_PROOF
        assert await failures(scene, key_of_proof) == 1

    async def test_unconfirmed_factor_keeps_the_count_of_codes(self, scene):
        token = await challenge(scene.sessions)
        await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        unconfirmed = await create_app(scene.factors, scene.user)

        await delete(scene.factors, unconfirmed.factor)

        assert await failures(scene, key_of_proof) == 1

    async def test_right_code_ends_the_count_of_codes_alone(self, scene):
        await refused(scene.sessions.CreateSession(sign_in(password="x")))
        counted = await failures(scene, key_of_account)
        token = await challenge_without_reset(scene)
        await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))

        await complete(scene.sessions, token, totp_code=scene.app.code())

        assert await failures(scene, key_of_proof) == 0
        assert await failures(scene, key_of_account) == counted + 1

    async def test_right_password_keeps_the_count_of_codes(self, scene):
        token = await challenge(scene.sessions)
        await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))

        await challenge(scene.sessions)

        assert await failures(scene, key_of_proof) == 1

    async def test_hundred_wrong_codes_disable_codes_until_a_reset(self, scene):
        token = await challenge(scene.sessions)
        await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        await set_failures(scene, MAX_FAILURES)
        code, *_ = await recovery_codes(scene.factors, scene.user)

        for proof in ({"totp_code": scene.app.code()}, {"recovery_code": code}):
            await end_waits(scene.database)
            said = await refusal(complete(scene.sessions, await challenge(scene.sessions), **proof))
            assert said == INVALID_PROOF
        await reset_password(scene)

        token = await challenge(scene.sessions, password=NEW_PASSWORD)
        assert (await complete(scene.sessions, token, totp_code=scene.app.code())).session_token

    async def test_new_factor_ends_the_count_of_codes(self, scene):
        token = await challenge(scene.sessions)
        await refused(complete(scene.sessions, token, totp_code=scene.app.wrong_code))
        await set_failures(scene, MAX_FAILURES)
        await end_waits(scene.database)

        await delete(scene.factors, scene.app.factor)
        app = await enrol(scene.factors, scene.user, scene.database)

        token = await challenge(scene.sessions)
        assert (await complete(scene.sessions, token, totp_code=app.code())).session_token

    async def test_cancelled_answer_is_counted(self, scene, monkeypatch):
        token, arrived, go_on = await challenge(scene.sessions), asyncio.Event(), asyncio.Event()
        of_user = ProofRepository.of_user

        async def slow(self, user_id):
            arrived.set()
            await go_on.wait()
            return await of_user(self, user_id)

        monkeypatch.setattr(ProofRepository, "of_user", slow)
        call = complete(scene.sessions, token, totp_code=scene.app.wrong_code)
        await arrived.wait()
        call.cancel()
        go_on.set()

        async def counted():
            return await failures(scene, key_of_proof) == 1

        await eventually(counted)


async def challenge_without_reset(scene):
    """Return a challenge as if the right password had ended no count."""
    token = ChallengeToken.issue()
    new = NewChallenge(
        token_digest=token.digest,
        purpose=ChallengePurpose.SIGN_IN,
        user_id=UUID(scene.user.user_id),
    )
    async with scene.database.transaction() as tx:
        await tx.challenges.issue(new)
    return token.text


async def failures(scene, key):
    """Return the failures of a counter of Ada."""
    account = key(UUID(scene.user.user_id))
    counted = select(password_attempts.c.failures).where(password_attempts.c.account == account)
    return (await run(scene.database, counted)).scalar_one_or_none() or 0


async def set_failures(scene, count):
    """Set the wrong codes of Ada, of which there are some."""
    account = key_of_proof(UUID(scene.user.user_id))
    counter = update(password_attempts).where(password_attempts.c.account == account)
    await run(scene.database, counter.values(failures=count))
