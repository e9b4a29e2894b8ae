"""The start of a sign-in with a passkey: it looks alike for every address."""

import json

import pytest
from grpc import StatusCode
from sqlalchemy import select

from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.factor_tables import challenges
from tests.server.test_app import channel_to
from tests.support.call_statements import statements_of_calls
from tests.support.calls import ada, refused, verify
from tests.support.passkey_calls import (
    begin_registration,
    begin_sign_in,
    finish_registration,
    register_passkey,
)
from tests.support.settings import changed
from tests.support.soft_authenticator import SoftPasskey, base64url, from_base64url

ADDRESS = "ada@example.com"
PASSKEY = FactorKind.FACTOR_KIND_PASSKEY


async def unknown(users, _factors, _database):
    pass


async def without_passkey(users, _factors, database):
    created = await users.CreateUser(ada())
    await verify(database, created.user)
    return created.user


async def not_verified(users, _factors, _database):
    await users.CreateUser(ada())


async def deleted(users, factors, database):
    user = await without_passkey(users, factors, database)
    await register_passkey(factors, user)
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))


async def inactive(users, factors, database):
    user = await without_passkey(users, factors, database)
    await register_passkey(factors, user)
    await users.DeactivateUser(user_service_pb2.DeactivateUserRequest(user_id=user.user_id))


KINDS = (unknown, without_passkey, not_verified, deleted, inactive)


def options(challenge):
    return json.loads(challenge.passkey_options_json)


def allowed(challenge):
    return [from_base64url(each["id"]) for each in options(challenge)["allowCredentials"]]


async def outcome(service, sessions, email=ADDRESS):
    """Begin to sign in; return what does not vary from call to call, and the statements."""
    with statements_of_calls(service) as statements:
        challenge = await begin_sign_in(sessions, email)
    content = options(challenge)
    assert len(from_base64url(content.pop("challenge"))) == 32
    size = len(challenge.passkey_options_json), len(challenge.challenge_token)
    return content, [*challenge.kinds], size, statements


class TestNamed:
    """With an address."""

    @pytest.mark.parametrize("prepare", KINDS, ids=lambda prepare: prepare.__name__)
    async def test_address_without_a_passkey_gets_equal_bytes(
        self, service, users, sessions, factors, database, prepare
    ):
        reference = await outcome(service, sessions)
        await prepare(users, factors, database)

        assert await outcome(service, sessions) == reference

    @pytest.mark.parametrize("prepare", KINDS, ids=lambda prepare: prepare.__name__)
    async def test_challenge_of_an_address_without_a_passkey_has_no_user(
        self, users, sessions, factors, database, prepare
    ):
        await prepare(users, factors, database)
        await begin_sign_in(sessions, ADDRESS)

        async with database.read() as db:
            stored = select(challenges).where(challenges.c.purpose == "named_passkey_sign_in")
            (row,) = (await db.connection.execute(stored)).all()
        assert row.user_id is None

    async def test_passkeys_take_the_places_of_made_up_ones(self, service, sessions, factors, user):
        before = await begin_sign_in(sessions, ADDRESS)
        _, _, _, statements = await outcome(service, sessions)

        passkeys = [(await register_passkey(factors, user))[0] for _ in range(2)]
        after = await begin_sign_in(sessions, ADDRESS)

        kept = {*allowed(before)} & {*allowed(after)}
        assert {*allowed(after)} - kept == {each.credential_id for each in passkeys}
        assert len(allowed(after)) == len(allowed(before)) == 4
        assert allowed(after) == sorted(allowed(after))
        assert (await outcome(service, sessions))[3] == statements

    @pytest.mark.parametrize("transports", [["usb", "nfc"], ["internal"], []])
    async def test_transports_reveal_no_passkey(self, sessions, factors, user, transports):
        begun = await begin_registration(factors, user)
        passkey = SoftPasskey.for_options(begun.creation_options_json)
        made = passkey.register(begun.creation_options_json, transports=transports)
        await finish_registration(factors, begun.registration_token, made)

        named = options(await begin_sign_in(sessions, ADDRESS))["allowCredentials"]

        assert base64url(passkey.credential_id) in [each.pop("id") for each in named]
        assert named == [{"type": "public-key"}] * 4

    async def test_user_with_many_passkeys_gets_them_all(self, sessions, factors, user):
        passkeys = [(await register_passkey(factors, user))[0] for _ in range(6)]

        found = allowed(await begin_sign_in(sessions, ADDRESS))

        assert found == sorted(each.credential_id for each in passkeys)

    async def test_address_is_normalised(self, sessions, factors, user):
        passkey, _ = await register_passkey(factors, user)

        found = allowed(await begin_sign_in(sessions, "  ADA@Example.COM".strip()))

        assert passkey.credential_id in found

    async def test_sign_in_demands_user_verification(self, sessions):
        challenge = await begin_sign_in(sessions, ADDRESS)

        assert options(challenge)["userVerification"] == "required"
        assert options(challenge)["rpId"] == "localhost"
        assert [*challenge.kinds] == [PASSKEY]
        assert challenge.challenge_token.startswith("tm")
        assert base64url(challenge.challenge_token.encode()) not in challenge.passkey_options_json

    async def test_malformed_address_is_named(self, sessions):
        said = await refused(begin_sign_in(sessions, "no address"))

        assert (said.code, [*said.fields]) == (StatusCode.INVALID_ARGUMENT, ["email"])


class TestUnnamed:
    """Without an address."""

    async def test_browser_offers_all_passkeys_that_it_has(self, sessions):
        challenge = await begin_sign_in(sessions)

        assert options(challenge)["allowCredentials"] == []
        assert options(challenge)["userVerification"] == "required"
        assert [*challenge.kinds] == [PASSKEY]

    async def test_each_challenge_is_new(self, sessions):
        first, second = await begin_sign_in(sessions), await begin_sign_in(sessions)

        assert first.challenge_token != second.challenge_token
        assert options(first)["challenge"] != options(second)["challenge"]


class TestProduction:
    """Servers that lack settings."""

    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            (
                {},
                "TAMATAR_PASSKEY_RELYING_PARTY_ID,TAMATAR_PASSKEY_ORIGINS",
            ),
            (
                {"factor_keys": None},
                "TAMATAR_FACTOR_KEYS,TAMATAR_PASSKEY_RELYING_PARTY_ID,TAMATAR_PASSKEY_ORIGINS",
            ),
        ],
    )
    async def test_missing_settings_are_named(self, settings, database, users, given, missing):
        user = (await users.CreateUser(ada())).user
        bare = changed(settings, environment="production", **given)
        async with run_service(bare) as service, channel_to(service) as channel:
            said = await refused(begin_sign_in(SessionServiceStub(channel), ADDRESS))
            stub = FactorServiceStub(channel)
            assert await refused(begin_registration(stub, user)) == said

        assert (said.code, said.reason) == (
            StatusCode.FAILED_PRECONDITION,
            "FACTORS_NOT_CONFIGURED",
        )
        assert said.metadata["settings"] == missing
