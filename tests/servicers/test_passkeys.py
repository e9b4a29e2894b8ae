"""Registrations of passkeys over a real channel."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind, StepUpRequirement
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.factor_tables import factors as factors_table
from tests.support.calls import ada, refusal, refused, sign_in
from tests.support.passkey_calls import (
    begin_registration,
    begin_sign_in,
    finish_registration,
    register_passkey,
)
from tests.support.rows import run
from tests.support.soft_authenticator import SoftPasskey, base64url, from_base64url

INVALID_PROOF = (StatusCode.UNAUTHENTICATED, "INVALID_PROOF")
NOT_FOUND = (StatusCode.NOT_FOUND, "USER_NOT_FOUND")
TAKEN = (StatusCode.ALREADY_EXISTS, "PASSKEY_TAKEN")
TOO_MANY = (StatusCode.FAILED_PRECONDITION, "TOO_MANY_FACTORS")


@pytest.fixture
async def begun(factors, user):
    return await begin_registration(factors, user)


@pytest.fixture
def passkey(begun):
    return SoftPasskey.for_options(begun.creation_options_json)


def finish(factors, begun, passkey, **changes):
    answer = passkey.register(begun.creation_options_json, **changes)
    return finish_registration(factors, begun.registration_token, answer)


async def stored(database):
    async with database.read() as db:
        return (await db.connection.execute(select(factors_table))).all()


class TestRegistration:
    """Passkeys that are registered."""

    async def test_options_name_user_and_relying_party(self, user, begun):
        options = json.loads(begun.creation_options_json)

        assert options["rp"] == {"id": "localhost", "name": "Tamatar Auth"}
        assert from_base64url(options["user"]["id"]) == UUID(user.user_id).bytes
        assert options["user"]["name"] == "ada@example.com"
        assert options["user"]["displayName"] == "Ada"
        assert begun.expire_time.ToDatetime()

    async def test_challenge_is_neither_the_token_nor_stored(self, database, begun):
        challenge = from_base64url(json.loads(begun.creation_options_json)["challenge"])

        async with database.read() as db:
            (row,) = (await db.connection.execute(select(challenges))).all()
        assert challenge not in {row.token_digest, begun.registration_token.encode()}
        assert len(challenge) == 32

    async def test_registered_passkey_is_returned_without_its_key(self, factors, user, begun):
        passkey = SoftPasskey.for_options(
            begun.creation_options_json, is_backup_eligible=True, is_backed_up=True
        )
        answer = passkey.register(begun.creation_options_json)

        done = await finish_registration(factors, begun.registration_token, answer, "My phone")

        factor = done.factor
        assert (factor.user_id, factor.label) == (user.user_id, "My phone")
        assert factor.kind == FactorKind.FACTOR_KIND_PASSKEY
        assert factor.HasField("confirm_time")
        assert not factor.HasField("last_use_time")
        assert factor.passkey.aaguid == str(UUID(bytes=passkey.aaguid))
        assert (factor.passkey.backup_eligible, factor.passkey.backed_up) == (True, True)
        assert list(factor.passkey.transports) == ["internal", "hybrid"]

    @pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
    async def test_passkey_of_each_algorithm_is_stored(self, factors, user, database, algorithm):
        passkey, factor = await register_passkey(factors, user, algorithm=algorithm)

        (row,) = await stored(database)
        assert (str(row.id), row.credential_id) == (factor.factor_id, passkey.credential_id)

    async def test_registered_passkeys_are_excluded_from_the_next(self, factors, user):
        passkey, _ = await register_passkey(factors, user)

        options = json.loads((await begin_registration(factors, user)).creation_options_json)

        assert [each["id"] for each in options["excludeCredentials"]] == [
            base64url(passkey.credential_id)
        ]

    async def test_wrong_answer_leaves_the_challenge_for_a_right_one(self, factors, begun, passkey):
        assert await refusal(finish(factors, begun, passkey, origin="https://x")) == INVALID_PROOF

        assert (await finish(factors, begun, passkey)).factor.factor_id


async def other_origin(factors, begun, passkey, _database):
    return finish(factors, begun, passkey, origin="https://evil.example")


async def other_relying_party(factors, begun, passkey, _database):
    return finish(factors, begun, passkey, relying_party_id="evil.example")


async def other_type(factors, begun, passkey, _database):
    return finish(factors, begun, passkey, type="webauthn.get")


async def cross_origin(factors, begun, passkey, _database):
    return finish(factors, begun, passkey, client_data={"crossOrigin": True})


async def assertion(factors, begun, passkey, _database):
    answer = passkey.sign(begun.creation_options_json)
    return finish_registration(factors, begun.registration_token, answer)


async def malformed(factors, begun, _passkey, _database):
    return finish_registration(factors, begun.registration_token, "[" * 16000)


async def answer_to_another_challenge(factors, begun, passkey, database):
    async with database.read() as db:
        user_id = (await db.connection.execute(select(challenges.c.user_id))).scalar_one()
    request = user_service_pb2.GetUserRequest(user_id=str(user_id))
    again = await begin_registration(factors, request)
    answer = passkey.register(again.creation_options_json)
    return finish_registration(factors, begun.registration_token, answer)


async def unknown_token(factors, begun, passkey, _database):
    answer = passkey.register(begun.creation_options_json)
    return finish_registration(factors, "tmh_" + "x" * 43, answer)


async def expired(factors, begun, passkey, database):
    past = func.now() - timedelta(seconds=1)
    await run(database, update(challenges).values(expires_at=past))
    return finish(factors, begun, passkey)


async def used(factors, begun, passkey, _database):
    await finish(factors, begun, passkey)
    other = SoftPasskey.for_options(begun.creation_options_json)
    return finish(factors, begun, other)


async def void(factors, begun, passkey, _database):
    for _ in range(5):
        await refused(finish(factors, begun, passkey, origin="https://evil.example"))
    return finish(factors, begun, passkey)


async def of_another_purpose(factors, begun, passkey, database):
    await run(database, update(challenges).values(purpose="sign_in"))
    return finish(factors, begun, passkey)


CAUSES = (
    *(other_origin, other_relying_party, other_type, cross_origin, assertion, malformed),
    *(answer_to_another_challenge, unknown_token, expired, used, void, of_another_purpose),
)


class TestRefusals:
    """Registrations that are refused."""

    @pytest.mark.parametrize("prepare", CAUSES, ids=lambda prepare: prepare.__name__)
    async def test_every_wrong_answer_is_refused_alike(
        self, factors, begun, passkey, database, prepare
    ):
        reference = await refused(finish_registration(factors, "unknown", "{}"))
        before = len(await stored(database))
        call = await prepare(factors, begun, passkey, database)
        before = len(await stored(database))

        said = await refused(call)

        assert said == reference
        assert (said.code, said.reason) == INVALID_PROOF
        assert len(await stored(database)) == before

    async def test_unknown_user_is_not_found(self, factors, user):
        user.user_id = str(uuid4())

        assert await refusal(begin_registration(factors, user)) == NOT_FOUND

    async def test_user_deleted_in_between_gets_no_passkey(
        self, factors, users, user, begun, passkey, database
    ):
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

        assert await refusal(finish(factors, begun, passkey)) in {NOT_FOUND, INVALID_PROOF}
        assert not await stored(database)

    async def test_registered_passkey_is_taken_for_every_user(self, factors, users, user):
        passkey, _ = await register_passkey(factors, user)
        bob = (await users.CreateUser(ada(email="bob@example.com"))).user

        for owner in (user, bob):
            begun = await begin_registration(factors, owner)
            assert await refusal(finish(factors, begun, passkey)) == TAKEN

    async def test_made_up_id_counts_as_taken(self, factors, sessions, begun, passkey, database):
        challenge = await begin_sign_in(sessions, "nobody@example.com")
        allowed = json.loads(challenge.passkey_options_json)["allowCredentials"]

        passkey.credential_id = from_base64url(allowed[0]["id"])
        assert await refusal(finish(factors, begun, passkey)) == TAKEN
        assert not await stored(database)

    async def test_user_has_at_most_20_factors(self, factors, user, begun, passkey, database):
        for _ in range(19):
            await register_passkey(factors, user)
        last = await begin_registration(factors, user)
        await finish(factors, last, SoftPasskey.for_options(last.creation_options_json))

        assert await refusal(begin_registration(factors, user)) == TOO_MANY
        assert await refusal(finish(factors, begun, passkey)) == TOO_MANY
        assert len(await stored(database)) == 20

    async def test_registration_needs_the_step_up_that_it_names(self, factors, sessions, user):
        token = (await sessions.CreateSession(sign_in())).session_token
        await begin_registration(factors, user, step_up=StepUpRequirement(session_token=token))
        await register_passkey(factors, user)

        step_up = StepUpRequirement(session_token=token)
        said = await refusal(begin_registration(factors, user, step_up=step_up))
        assert said == (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
        step_up = StepUpRequirement(session_token="tms_unknown")
        said = await refusal(begin_registration(factors, user, step_up=step_up))
        assert said == (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")


class TestRaces:
    """Answers at the same time."""

    async def test_parallel_answers_register_one_passkey(self, factors, begun, database):
        async def answer():
            passkey = SoftPasskey.for_options(begun.creation_options_json)
            try:
                await finish(factors, begun, passkey)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return StatusCode.OK

        outcomes = Counter(await asyncio.gather(*(answer() for _ in range(20))))

        assert outcomes == {StatusCode.OK: 1, StatusCode.UNAUTHENTICATED: 19}
        assert len(await stored(database)) == 1

    async def test_parallel_registrations_of_one_passkey_store_one(
        self, factors, user, passkey, database
    ):
        tokens = [await begin_registration(factors, user) for _ in range(10)]

        async def answer(begun):
            try:
                await finish(factors, begun, passkey)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return StatusCode.OK

        outcomes = Counter(await asyncio.gather(*map(answer, tokens)))

        assert outcomes == {StatusCode.OK: 1, StatusCode.ALREADY_EXISTS: 9}
        assert len(await stored(database)) == 1
