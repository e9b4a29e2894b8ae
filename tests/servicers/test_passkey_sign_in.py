"""Sign-ins with passkeys over a real channel: alone, and after a password."""

import asyncio
import json
from collections import Counter
from datetime import timedelta

import grpc
import pytest
import structlog
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.errors.factors import ProofCause
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.factor_tables import factors as factors_table
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.server.test_app import channel_to
from tests.support.call_statements import statements_of_calls
from tests.support.calls import ada, change, refusal, refused, reset, sign_in, validate
from tests.support.calls import password_reset as ask_reset
from tests.support.factors import INVALID_PROOF, delete, listed
from tests.support.passkey_calls import begin_sign_in, complete_sign_in, register_passkey
from tests.support.rows import run
from tests.support.settings import changed
from tests.support.soft_authenticator import base64url, from_base64url

ADDRESS = "ada@example.com"
AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL2
NOT_VERIFIED = (StatusCode.FAILED_PRECONDITION, "EMAIL_NOT_VERIFIED")


@pytest.fixture
async def registered(factors, user):
    """A passkey of Ada, and its factor."""
    return await register_passkey(factors, user, counts=True)


@pytest.fixture
def passkey(registered):
    return registered[0]


async def second_factor(sessions, **given):
    """Sign in with the right password, and return the challenge."""
    return (await sessions.CreateSession(sign_in(**given))).challenge


def answer(sessions, challenge, passkey, **changes):
    signed = passkey.sign(challenge.passkey_options_json, **changes)
    return complete_sign_in(sessions, challenge.challenge_token, passkey_credential_json=signed)


async def stored(database):
    async with database.read() as db:
        return (await db.connection.execute(select(factors_table))).one()


async def session_count(database):
    async with database.read() as db:
        counted = select(func.count()).select_from(sessions_table)
        return (await db.connection.execute(counted)).scalar_one()


async def causes_of(call):
    """Await a call that must fail, and return the causes in the audit trail."""
    with structlog.testing.capture_logs() as lines:
        said = await refusal(call)
    assert said == INVALID_PROOF
    failed = [line for line in lines if line["event"] == "sign_in.failed"]
    return [line["cause"] for line in failed]


class TestAlone:
    """Sign-ins without a password."""

    @pytest.mark.parametrize("email", ["", ADDRESS])
    async def test_passkey_signs_in_at_level_two(self, sessions, user, passkey, email):
        challenge = await begin_sign_in(sessions, email)

        done = await answer(sessions, challenge, passkey)

        assert done.user.user_id == user.user_id
        assert done.session.assurance_level == AAL2
        assert [*done.session.authentication_methods] == ["hwk", "mfa", "user"]
        assert (await validate(sessions, done.session_token)).user.user_id == user.user_id

    @pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
    async def test_passkey_of_each_algorithm_signs_in(self, factors, sessions, user, algorithm):
        passkey, _ = await register_passkey(factors, user, algorithm=algorithm)

        assert await answer(sessions, await begin_sign_in(sessions), passkey)

    async def test_copied_passkey_has_its_own_word(self, factors, sessions, user):
        passkey, _ = await register_passkey(factors, user, is_backup_eligible=True)

        done = await answer(sessions, await begin_sign_in(sessions), passkey, is_backed_up=True)

        assert [*done.session.authentication_methods] == ["mfa", "swk", "user"]
        (factor,) = await listed(factors, user)
        assert factor.passkey.backed_up

    async def test_use_is_noted_with_its_count(self, factors, sessions, user, passkey, database):
        await answer(sessions, await begin_sign_in(sessions), passkey)

        (factor,) = await listed(factors, user)
        assert factor.HasField("last_use_time")
        assert (await stored(database)).sign_count == passkey.sign_count == 2

    async def test_each_passkey_of_a_user_signs_in(self, factors, sessions, user, passkey):
        other, _ = await register_passkey(factors, user)

        challenge = await begin_sign_in(sessions, ADDRESS)
        assert await answer(sessions, challenge, other)
        assert await answer(sessions, await begin_sign_in(sessions, ADDRESS), passkey)

    async def test_unverified_email_is_named_after_the_proof(self, sessions, passkey, database):
        await run(database, update(users_table).values(email_verified=False))
        challenge = await begin_sign_in(sessions)

        wrong = answer(sessions, challenge, passkey, origin="https://evil.example")
        assert await refusal(wrong) == INVALID_PROOF
        assert await refusal(answer(sessions, challenge, passkey)) == NOT_VERIFIED

    async def test_passkey_without_user_verification_is_refused(self, sessions, passkey, database):
        challenge = await begin_sign_in(sessions)

        causes = await causes_of(answer(sessions, challenge, passkey, verified=False))

        assert causes == [ProofCause.NOT_VERIFIED_BY_PASSKEY]
        assert await session_count(database) == 0

    async def test_password_and_code_answer_no_passkey_challenge(self, sessions, passkey):
        challenge = await begin_sign_in(sessions, ADDRESS)

        for proof in ({"totp_code": "123456"}, {"recovery_code": "ABCD-EFGH-JKMN"}):
            call = complete_sign_in(sessions, challenge.challenge_token, **proof)
            assert await refusal(call) == INVALID_PROOF


class TestAfterPassword:
    """Passkeys as a second factor."""

    async def test_password_is_answered_by_options(self, sessions, passkey):
        challenge = await second_factor(sessions)

        options = json.loads(challenge.passkey_options_json)
        assert [*challenge.kinds] == [FactorKind.FACTOR_KIND_PASSKEY]
        assert options["userVerification"] == "preferred"
        assert options["allowCredentials"] == [
            {
                "id": base64url(passkey.credential_id),
                "type": "public-key",
                "transports": ["internal", "hybrid"],
            }
        ]

    @pytest.mark.parametrize("verified", [True, False])
    async def test_password_and_passkey_reach_level_two(self, sessions, passkey, verified):
        challenge = await second_factor(sessions)

        done = await answer(sessions, challenge, passkey, verified=verified)

        assert done.session.assurance_level == AAL2
        assert [*done.session.authentication_methods] == ["hwk", "mfa", "pwd", "user"]

    async def test_password_alone_suffices_after_deletion(self, factors, sessions, registered):
        await delete(factors, registered[1])

        assert (await sessions.CreateSession(sign_in())).session_token

    async def test_password_reset_removes_no_passkey(self, users, sessions, passkey):
        await reset(users, (await ask_reset(users)).token)

        challenge = await second_factor(sessions, password="another horse battery")
        assert await answer(sessions, challenge, passkey)


async def other_origin(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, origin="https://evil.example")


async def other_relying_party(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, relying_party_id="evil.example")


async def other_type(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, type="webauthn.create")


async def cross_origin(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, client_data={"crossOrigin": True})


async def altered_signature(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, signature=b"\x30\x06\x02\x01\x01\x02\x01\x01")


async def user_not_present(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, present=False)


async def answer_to_another_challenge(sessions, challenge, passkey, **_):
    other = await begin_sign_in(sessions, ADDRESS)
    signed = passkey.sign(other.passkey_options_json)
    return complete_sign_in(sessions, challenge.challenge_token, passkey_credential_json=signed)


async def replayed(sessions, challenge, passkey, **_):
    signed = passkey.sign(challenge.passkey_options_json)
    token = challenge.challenge_token
    await complete_sign_in(sessions, token, passkey_credential_json=signed)
    return complete_sign_in(sessions, token, passkey_credential_json=signed)


async def used(sessions, challenge, passkey, **_):
    await answer(sessions, challenge, passkey)
    return answer(sessions, challenge, passkey)


async def expired(sessions, challenge, passkey, database, **_):
    past = func.now() - timedelta(seconds=1)
    await run(database, update(challenges).values(expires_at=past))
    return answer(sessions, challenge, passkey)


async def void(sessions, challenge, passkey, **_):
    for _ in range(5):
        await refused(answer(sessions, challenge, passkey, present=False))
    return answer(sessions, challenge, passkey)


async def unknown_passkey(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, credential_id=b"x" * 32)


async def of_another_user(sessions, challenge, passkey, users, factors, **_):
    bob = (await users.CreateUser(ada(email="bob@example.com"))).user
    other, _ = await register_passkey(factors, bob)
    return answer(sessions, challenge, other)


async def named_as_another_user(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, user_handle=bytes(16))


async def deleted_passkey(sessions, challenge, passkey, users, factors, factor, **_):
    await delete(factors, factor)
    return answer(sessions, challenge, passkey)


async def inactive_user(sessions, challenge, passkey, users, factors, factor, **_):
    await users.DeactivateUser(user_service_pb2.DeactivateUserRequest(user_id=factor.user_id))
    return answer(sessions, challenge, passkey)


async def deleted_user(sessions, challenge, passkey, users, factors, factor, **_):
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=factor.user_id))
    return answer(sessions, challenge, passkey)


async def changed_password(sessions, challenge, passkey, users, factors, factor, **_):
    request = user_service_pb2.GetUserRequest(user_id=factor.user_id)
    await change(users, request)
    return answer(sessions, challenge, passkey)


async def registration_answer(sessions, challenge, passkey, **_):
    made = passkey.register(challenge.passkey_options_json)
    return complete_sign_in(sessions, challenge.challenge_token, passkey_credential_json=made)


async def deep_json(sessions, challenge, passkey, **_):
    return complete_sign_in(
        sessions, challenge.challenge_token, passkey_credential_json='{"id":' + "[" * 16000
    )


async def stale_count(sessions, challenge, passkey, **_):
    return answer(sessions, challenge, passkey, sign_count=1)


WRONG = (
    *(other_origin, other_relying_party, other_type, cross_origin, altered_signature),
    *(user_not_present, answer_to_another_challenge, replayed, used, expired, void),
    *(unknown_passkey, of_another_user, named_as_another_user, deleted_passkey, inactive_user),
    *(deleted_user, changed_password, registration_answer, deep_json, stale_count),
)
BEFORE = {"password": second_factor, "address": lambda sessions: begin_sign_in(sessions, ADDRESS)}


class TestRefusals:
    """Answers that are refused."""

    @pytest.mark.parametrize("before", BEFORE)
    @pytest.mark.parametrize("prepare", WRONG, ids=lambda prepare: prepare.__name__)
    async def test_every_wrong_answer_is_refused_alike(
        self, users, sessions, factors, registered, database, prepare, before
    ):
        passkey, factor = registered
        reference = await refused(
            complete_sign_in(sessions, "unknown", passkey_credential_json="{}")
        )
        challenge = await BEFORE[before](sessions)
        more = {"users": users, "factors": factors, "factor": factor, "database": database}
        call = await prepare(sessions, challenge, passkey, **more)
        count = await session_count(database)

        said = await refused(call)

        assert said == reference
        assert (said.code, said.reason) == INVALID_PROOF
        assert await session_count(database) == count

    async def test_made_up_passkey_is_refused_as_a_real_one(self, sessions, passkey):
        challenge = await begin_sign_in(sessions, "nobody@example.com")
        allowed = json.loads(challenge.passkey_options_json)["allowCredentials"]
        made_up = from_base64url(allowed[0]["id"])

        assert await refusal(answer(sessions, challenge, passkey)) == INVALID_PROOF
        call = answer(sessions, challenge, passkey, credential_id=made_up)
        assert await refusal(call) == INVALID_PROOF

    @pytest.mark.parametrize(
        ("prepare", "cause"),
        [
            (other_origin, ProofCause.WRONG_CREDENTIAL),
            (altered_signature, ProofCause.WRONG_CREDENTIAL),
            (unknown_passkey, ProofCause.NO_FACTOR),
            (of_another_user, ProofCause.NO_FACTOR),
            (used, ProofCause.NO_CHALLENGE),
            (void, ProofCause.TOO_MANY_ANSWERS),
            (stale_count, ProofCause.SIGN_COUNT_WENT_BACK),
        ],
        ids=lambda value: getattr(value, "__name__", value),
    )
    async def test_true_cause_is_in_the_audit_trail(
        self, users, sessions, factors, registered, database, prepare, cause
    ):
        passkey, factor = registered
        challenge = await second_factor(sessions)
        more = {"users": users, "factors": factors, "factor": factor, "database": database}

        assert await causes_of(await prepare(sessions, challenge, passkey, **more)) == [cause]

    @pytest.mark.parametrize("prepare", [altered_signature, unknown_passkey, stale_count])
    async def test_refusals_take_equal_statements(self, service, sessions, passkey, prepare):
        async def statements(token=None):
            challenge = await begin_sign_in(sessions, ADDRESS)
            if token:
                challenge.challenge_token = token
            call = await prepare(sessions, challenge, passkey)
            with statements_of_calls(service) as seen:
                await refused(call)
            return seen

        known, unknown = await statements(), await statements("unknown")

        assert known == unknown
        assert len(known) == 2


class TestMissingSettings:
    """Users with passkeys at a server that lost its settings."""

    async def test_password_alone_does_not_sign_in(self, settings, sessions, passkey, database):
        options = (await second_factor(sessions)).passkey_options_json
        async with (
            run_service(changed(settings, environment="production")) as service,
            channel_to(service) as channel,
        ):
            bare = SessionServiceStub(channel)
            challenge = await second_factor(bare)
            token, signed = challenge.challenge_token, passkey.sign(options)
            call = complete_sign_in(bare, token, passkey_credential_json=signed)
            said = await refusal(call)

        assert said == (StatusCode.FAILED_PRECONDITION, "FACTORS_NOT_CONFIGURED")
        assert not challenge.kinds
        assert await session_count(database) == 0


class TestRaces:
    """Answers at the same time."""

    @pytest.mark.parametrize("before", BEFORE)
    async def test_one_of_20_parallel_answers_signs_in(self, sessions, passkey, database, before):
        challenge = await BEFORE[before](sessions)
        signed = passkey.sign(challenge.passkey_options_json)
        token = challenge.challenge_token
        calls = (
            outcome(complete_sign_in(sessions, token, passkey_credential_json=signed))
            for _ in range(20)
        )

        outcomes = Counter(await asyncio.gather(*calls))

        assert outcomes == {StatusCode.OK: 1, StatusCode.UNAUTHENTICATED: 19}
        assert await session_count(database) == 1

    async def test_cloned_passkey_signs_in_once_a_count(self, sessions, passkey, database):
        begun = [await begin_sign_in(sessions) for _ in range(5)]
        calls = (outcome(answer(sessions, each, passkey, sign_count=7)) for each in begun)

        outcomes = Counter(await asyncio.gather(*calls))

        assert outcomes == {StatusCode.OK: 1, StatusCode.UNAUTHENTICATED: 4}
        assert await session_count(database) == 1
        assert (await stored(database)).sign_count == 7


async def outcome(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return StatusCode.OK
