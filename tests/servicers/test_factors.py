"""FactorService: authenticator apps, recovery codes, and what is listed of factors."""

import asyncio
from uuid import UUID, uuid4

import pyotp
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.factor_pb2 import Factor, FactorKind, StepUpRequirement
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.factor_tables import factors as factors_table
from tamatar_auth.storage.factor_tables import recovery_codes as codes_table
from tamatar_auth.storage.repositories.factors import MAX_FACTORS
from tests.server.test_app import channel_to
from tests.support.calls import ada, refusal, refused, sign_in
from tests.support.factors import (
    INVALID_PROOF,
    App,
    challenge,
    complete,
    confirm,
    create_app,
    create_codes,
    delete,
    enrol,
    forget_steps,
    listed,
    recovery_codes,
    rename,
)
from tests.support.rows import run
from tests.support.settings import changed

FACTOR_NOT_FOUND = (StatusCode.NOT_FOUND, "FACTOR_NOT_FOUND")
USER_NOT_FOUND = (StatusCode.NOT_FOUND, "USER_NOT_FOUND")
TOO_MANY_FACTORS = (StatusCode.FAILED_PRECONDITION, "TOO_MANY_FACTORS")
NOT_CONFIGURED = (StatusCode.FAILED_PRECONDITION, "FACTORS_NOT_CONFIGURED")


def create(factors, user_id, **given):
    return factors.CreateTotpFactor(pb.CreateTotpFactorRequest(user_id=user_id, **given))


async def stored(database, *columns):
    """Return columns of the only factor."""
    return (await run(database, select(*(factors_table.c[name] for name in columns)))).one()


class TestApps:
    """Authenticator apps that are created and confirmed."""

    async def test_new_app_has_secret_and_uri(self, factors, user):
        created = await create(factors, user.user_id, label="Phone")

        assert created.factor.kind == FactorKind.FACTOR_KIND_TOTP
        assert (created.factor.user_id, created.factor.label) == (user.user_id, "Phone")
        assert created.factor.HasField("create_time")
        assert not created.factor.HasField("confirm_time")
        read = pyotp.parse_uri(created.otpauth_uri)
        assert (read.secret, read.name, read.issuer) == (
            created.secret,
            "ada@example.com",
            "Tamatar Auth",
        )
        assert (len(created.secret), read.digits, read.interval) == (32, 6, 30)

    async def test_issuer_name_is_a_setting(self, settings, users, user):
        mine = changed(settings, issuer_name="Rocket Shop")
        async with run_service(mine) as service, channel_to(service) as channel:
            created = await create(FactorServiceStub(channel), user.user_id)

        assert pyotp.parse_uri(created.otpauth_uri).issuer == "Rocket Shop"

    async def test_secret_is_stored_encrypted(self, factors, user, database):
        created = await create(factors, user.user_id)

        secret, key_id = await stored(database, "encrypted_secret", "key_id")

        assert key_id == "canary"
        assert pyotp.TOTP(created.secret).byte_secret() not in secret
        assert created.secret.encode() not in secret

    async def test_right_code_confirms_the_app(self, factors, user):
        app = await create_app(factors, user)

        confirmed = (await confirm(factors, app)).factor

        assert confirmed.factor_id == app.factor.factor_id
        assert confirmed.HasField("confirm_time")
        assert not confirmed.HasField("last_use_time")

    async def test_repeated_confirmation_changes_nothing(self, factors, user):
        app = await create_app(factors, user)
        code = app.code()

        first, second = [await confirm(factors, app, code) for _ in range(2)]

        assert first == second

    async def test_wrong_code_confirms_nothing(self, factors, user):
        app = await create_app(factors, user)

        assert await refusal(confirm(factors, app, app.wrong_code)) == INVALID_PROOF
        assert not (await listed(factors, user))[0].HasField("confirm_time")

    async def test_wrong_code_is_refused_for_a_confirmed_app_too(self, factors, user, database):
        app = await enrol(factors, user, database)

        assert await refusal(confirm(factors, app, app.wrong_code)) == INVALID_PROOF

    async def test_code_that_confirmed_does_not_sign_in(self, factors, sessions, user):
        app = await create_app(factors, user)
        code = app.code()
        await confirm(factors, app, code)

        signing_in = complete(sessions, await challenge(sessions), totp_code=code)

        assert await refusal(signing_in) == INVALID_PROOF

    async def test_further_app_replaces_the_unconfirmed_one(self, factors, user):
        first = await create_app(factors, user)
        second = await create_app(factors, user)

        assert await refusal(confirm(factors, first)) == FACTOR_NOT_FOUND
        assert [each.factor_id for each in await listed(factors, user)] == [second.factor.factor_id]

    async def test_parallel_apps_leave_one_unconfirmed(self, factors, user):
        await asyncio.gather(*(create_app(factors, user) for _ in range(10)))

        assert len(await listed(factors, user)) == 1

    async def test_user_has_at_most_20_factors(self, factors, user, database):
        for _ in range(MAX_FACTORS):
            await enrol(factors, user, database)
        await recovery_codes(factors, user)

        assert await refusal(create(factors, user.user_id)) == TOO_MANY_FACTORS
        assert len(await listed(factors, user)) == MAX_FACTORS + 1

    async def test_recovery_codes_cannot_be_confirmed(self, factors, user):
        created = await create_codes(factors, user)

        confirming = confirm(factors, App(created.factor, ""), "000000")

        assert await refusal(confirming) == FACTOR_NOT_FOUND


class TestRecoveryCodes:
    """Recovery codes that are created."""

    async def test_ten_codes_are_returned_once_and_stored_as_digests(self, factors, user, database):
        created = await create_codes(factors, user)

        digests = (await run(database, select(codes_table.c.code_digest))).scalars().all()

        assert len(created.codes) == len(digests) == 10
        assert created.factor.kind == FactorKind.FACTOR_KIND_RECOVERY_CODES
        assert created.factor.remaining_code_count == 10
        assert created.factor.HasField("confirm_time")
        assert not any(
            code.replace("-", "").encode() in b"".join(digests) for code in created.codes
        )

    async def test_new_codes_replace_the_earlier_ones(self, factors, user):
        first, second = [await recovery_codes(factors, user) for _ in range(2)]

        (codes,) = await listed(factors, user)

        assert not {*first} & {*second}
        assert codes.remaining_code_count == 10

    async def test_parallel_calls_leave_one_set_of_codes(self, factors, user, database):
        await asyncio.gather(*(create_codes(factors, user) for _ in range(10)))

        counted = select(func.count()).select_from(codes_table)
        assert (await run(database, counted)).scalar_one() == 10


class TestManagement:
    """Factors that are listed, renamed and deleted."""

    async def test_factors_are_listed_oldest_first_without_secrets(self, factors, user, database):
        app = await enrol(factors, user, database)
        created = await create_codes(factors, user)

        rows = await listed(factors, user)

        ids = [app.factor.factor_id, created.factor.factor_id]
        assert [each.factor_id for each in rows] == ids
        assert app.secret not in str(rows)

    async def test_label_is_changed(self, factors, user):
        app = await create_app(factors, user, label="Phone")

        renamed = (await rename(factors, app.factor, "Work phone")).factor

        assert renamed.label == "Work phone"
        assert (await listed(factors, user))[0] == renamed

    @pytest.mark.parametrize("paths", [["kind"], ["label", "user_id"], ["*"]])
    async def test_other_fields_cannot_be_changed(self, factors, user, paths):
        app = await create_app(factors, user)
        factor = Factor(factor_id=app.factor.factor_id, label="x")
        request = pb.UpdateFactorRequest(factor=factor, update_mask=FieldMask(paths=paths))

        said = await refused(factors.UpdateFactor(request))

        assert (said.code, [*said.fields]) == (StatusCode.INVALID_ARGUMENT, ["update_mask"])

    async def test_deleted_factor_is_returned_and_gone(self, factors, user, database):
        app = await enrol(factors, user, database)
        session_count = len(await listed(factors, user))

        deleted = (await delete(factors, app.factor)).factor

        assert (deleted.factor_id, session_count) == (app.factor.factor_id, 1)
        assert not await listed(factors, user)
        assert await refusal(delete(factors, app.factor)) == FACTOR_NOT_FOUND

    async def test_deleted_factor_ends_no_session(self, factors, sessions, user, database):
        started = await sessions.CreateSession(sign_in())
        app = await enrol(factors, user, database)

        await delete(factors, app.factor)

        async with database.read() as db:
            (live,) = await db.sessions.recent(UUID(user.user_id), limit=10)
        assert str(live.id) == started.session.session_id

    async def test_unknown_user_is_not_found(self, factors):
        unknown = str(uuid4())

        for call in (
            create(factors, unknown),
            factors.CreateRecoveryCodes(pb.CreateRecoveryCodesRequest(user_id=unknown)),
            factors.ListFactors(pb.ListFactorsRequest(user_id=unknown)),
        ):
            assert await refusal(call) == USER_NOT_FOUND

    async def test_factor_of_deleted_user_is_not_found(self, users, factors, user, database):
        app = await enrol(factors, user, database)
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

        for call in (
            confirm(factors, app),
            rename(factors, app.factor, "x"),
            delete(factors, app.factor),
        ):
            assert await refusal(call) == FACTOR_NOT_FOUND

    async def test_restored_user_has_its_factors(self, users, factors, user, database):
        app = await enrol(factors, user, database)
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))
        await users.RestoreUser(user_service_pb2.RestoreUserRequest(user_id=user.user_id))

        (kept,) = await listed(factors, user)

        assert kept.factor_id == app.factor.factor_id

    async def test_purge_removes_factors_and_codes(self, users, factors, user, database):
        await enrol(factors, user, database)
        await recovery_codes(factors, user)

        await users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=user.user_id))

        for table in (factors_table, codes_table):
            counted = select(func.count()).select_from(table)
            assert (await run(database, counted)).scalar_one() == 0


def calls_with_step_up(factors, user, app, token, **given):
    step_up = StepUpRequirement(session_token=token, **given)
    user_id, factor_id = user.user_id, app.factor.factor_id
    # Each call starts when it is asked for: at the same time, the deletion could be the first.
    yield factors.CreateTotpFactor(pb.CreateTotpFactorRequest(user_id=user_id, step_up=step_up))
    yield factors.CreateRecoveryCodes(
        pb.CreateRecoveryCodesRequest(user_id=user_id, step_up=step_up)
    )
    yield factors.ConfirmTotpFactor(
        pb.ConfirmTotpFactorRequest(factor_id=factor_id, code=app.code(), step_up=step_up)
    )
    yield factors.DeleteFactor(pb.DeleteFactorRequest(factor_id=factor_id, step_up=step_up))


class TestStepUp:
    """Changes of factors that ask for a strong and recent session."""

    async def test_session_of_level_one_needs_a_step_up(self, factors, sessions, user, database):
        token = (await sessions.CreateSession(sign_in())).session_token
        app = await enrol(factors, user, database)

        for call in calls_with_step_up(factors, user, app, token):
            said = await refused(call)
            assert (said.code, said.reason) == (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
            assert said.metadata == {"assurance_level": "AAL2"}
        assert len(await listed(factors, user)) == 1

    async def test_session_of_level_two_changes_factors(self, factors, sessions, user, database):
        app = await enrol(factors, user, database)
        done = await complete(sessions, await challenge(sessions), totp_code=app.code())
        await forget_steps(database)

        for call in calls_with_step_up(factors, user, app, done.session_token):
            await call

    async def test_session_of_another_user_changes_nothing(
        self, users, factors, sessions, user, database
    ):
        await users.CreateUser(ada(email="bob@example.com", email_verified=True))
        bob = await sessions.CreateSession(sign_in(email="bob@example.com"))
        app = await enrol(factors, user, database)

        for call in calls_with_step_up(factors, user, app, bob.session_token):
            assert await refusal(call) == (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")

    async def test_user_without_factor_adds_one_from_a_password(self, factors, sessions, user):
        token = (await sessions.CreateSession(sign_in())).session_token
        step_up = StepUpRequirement(
            session_token=token, max_authentication_age=Duration(seconds=600)
        )

        assert (await create(factors, user.user_id, step_up=step_up)).secret


class TestKeys:
    """Keys that are missing, new and old."""

    async def test_production_without_keys_enrols_nobody(self, settings, user):
        bare = changed(settings, factor_keys=None, environment="production")
        async with run_service(bare) as service, channel_to(service) as channel:
            factors = FactorServiceStub(channel)
            for call in (create(factors, user.user_id), create_codes(factors, user)):
                said = await refused(call)
                assert (said.code, said.reason) == NOT_CONFIGURED
                assert said.metadata == {"settings": "TAMATAR_FACTOR_KEYS"}
            assert not await listed(factors, user)
            assert (await SessionServiceStub(channel).CreateSession(sign_in())).session_token

    async def test_code_whose_key_is_missing_is_wrong(self, settings, factors, user, database):
        app = await enrol(factors, user, database)
        await run(database, update(factors_table).values(key_id="gone"))
        async with run_service(settings) as service, channel_to(service) as channel:
            sessions = SessionServiceStub(channel)
            answer = complete(sessions, await challenge(sessions), totp_code=app.code())

            assert await refusal(answer) == INVALID_PROOF
