"""Passwords, one-time secrets and rotation over a real channel, on a real database."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import bcrypt
import pytest
from grpc import StatusCode
from sqlalchemy import func, select, text, update

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.server import running
from tamatar_auth.storage.attempts import FREE_ATTEMPTS, MOST_FAILURES
from tamatar_auth.storage.tables import password_attempts, user_tokens
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.calls import PASSWORD, ada, refusal, refused, sign_in, verify
from tests.test_server import channel_to

INVALID_CREDENTIALS = (StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
TOO_MANY_ATTEMPTS = (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS")
TOKEN_INVALID = (StatusCode.UNAUTHENTICATED, "USER_TOKEN_INVALID")
NEW_PASSWORD = "another horse battery"


@pytest.fixture
async def user(users, database):
    """Ada, who can sign in."""
    created = await users.CreateUser(ada(username="ada"))
    await verify(database, created.user)
    return created.user


def validate(sessions, token):
    return sessions.ValidateSession(session_service_pb2.ValidateSessionRequest(session_token=token))


def refresh(sessions, token):
    return sessions.RefreshSession(session_service_pb2.RefreshSessionRequest(session_token=token))


def change(users, user, **given):
    values = {
        "user_id": user.user_id,
        "current_password": PASSWORD,
        "new_password": NEW_PASSWORD,
    } | given
    return users.ChangePassword(user_service_pb2.ChangePasswordRequest(**values))


async def verification(users, user):
    request = user_service_pb2.CreateEmailVerificationRequest(user_id=user.user_id)
    return await users.CreateEmailVerification(request)


def verify_email(users, token):
    return users.VerifyEmail(user_service_pb2.VerifyEmailRequest(token=token))


async def password_reset(users, email="ada@example.com"):
    request = user_service_pb2.CreatePasswordResetRequest(email=email)
    return await users.CreatePasswordReset(request)


def reset(users, token, password=NEW_PASSWORD):
    request = user_service_pb2.ResetPasswordRequest(token=token, new_password=password)
    return users.ResetPassword(request)


async def run(database, statement, values=None):
    async with database.transaction() as tx:
        return await tx.connection.execute(statement, values)


async def failures(database):
    found = await run(database, select(password_attempts.c.failures))
    return found.scalar_one_or_none()


async def stored_hash(database):
    return (await run(database, select(users_table.c.password_hash))).scalar_one()


# Changing a password


async def test_a_changed_password_is_the_one_that_works(users, sessions, user):
    await change(users, user)

    assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD))


async def test_a_changed_password_ends_every_other_session(users, sessions, user):
    started = [await sessions.CreateSession(sign_in()) for _ in range(3)]
    kept = started[1]

    answer = await change(users, user, keep_session_id=kept.session.session_id)

    assert answer.revoked_session_count == 2
    await validate(sessions, kept.session_token)
    for ended in (started[0], started[2]):
        assert await refusal(validate(sessions, ended.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )


async def test_a_changed_password_is_seen_by_another_server_at_once(
    users, sessions, user, settings
):
    started = await sessions.CreateSession(sign_in())
    async with running(settings) as other, channel_to(other) as channel:
        elsewhere = SessionServiceStub(channel)
        await validate(elsewhere, started.session_token)
        await change(users, user)
        assert await refusal(validate(elsewhere, started.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )


async def test_only_the_right_password_changes_it(users, user):
    assert await refusal(change(users, user, current_password="wrong")) == INVALID_CREDENTIALS
    unknown = change(users, user, user_id=str(uuid4()))
    assert await refusal(unknown) == INVALID_CREDENTIALS


@pytest.mark.parametrize(
    ("password", "description"),
    [
        ("short", "must have at least 12 characters"),
        ("1qaz2wsx3edc", "must not be a common password"),
        ("ada@example.com", "must not be the user's own address or name"),
    ],
)
async def test_a_weak_password_is_refused_with_the_reason(users, user, password, description):
    said = await refused(change(users, user, new_password=password))
    assert said.fields == {"new_password": description}

    created = users.CreateUser(ada(email="ada@example.com", password=password))
    assert (await refused(created)).fields == {"password": description}

    token = (await password_reset(users)).token
    assert (await refused(reset(users, token, password))).fields == {"new_password": description}
    await reset(users, token)  # the secret is still good


async def test_of_two_changes_at_once_one_wins(users, user):
    outcomes = await asyncio.gather(
        change(users, user, new_password="first horse battery"),
        change(users, user, new_password="second horse battery"),
        return_exceptions=True,
    )

    assert sorted(isinstance(outcome, Exception) for outcome in outcomes) == [False, True]


# Throttling


async def test_after_a_few_wrong_passwords_the_next_waits(sessions, user):
    for _ in range(FREE_ATTEMPTS + 1):
        assert await refusal(sessions.CreateSession(sign_in(password="x"))) == INVALID_CREDENTIALS

    said = await refused(sessions.CreateSession(sign_in()))

    assert (said.code, said.reason) == TOO_MANY_ATTEMPTS
    assert said.retry_seconds == 1


async def test_an_unknown_address_is_throttled_alike(sessions, user):
    async def tries(**who):
        return [
            await refused(sessions.CreateSession(sign_in(password="x", **who))) for _ in range(6)
        ]

    assert await tries() == await tries(email="nobody@example.com")


async def test_name_and_address_of_a_user_count_together(sessions, user):
    for who in [{"username": "ada"}, {"email": "ADA@example.com"}] * 2:
        await refused(sessions.CreateSession(sign_in(password="x", **who)))

    assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS
    by_name = sign_in(username="ada")
    assert await refusal(sessions.CreateSession(by_name)) == TOO_MANY_ATTEMPTS


async def test_changing_a_password_counts_too(users, sessions, user):
    for _ in range(FREE_ATTEMPTS + 1):
        await refused(change(users, user, current_password="x"))

    assert await refusal(change(users, user)) == TOO_MANY_ATTEMPTS
    assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS


async def test_the_right_password_with_a_weak_new_one_is_no_failure(users, user, database):
    for _ in range(FREE_ATTEMPTS + 2):
        assert (await refused(change(users, user, new_password="short"))).reason == "INVALID_FIELDS"

    assert await failures(database) is None


async def test_another_address_does_not_start_the_count_anew(users, sessions, user):
    for number in range(FREE_ATTEMPTS + 1):
        await refused(change(users, user, current_password="x"))
        await users.UpdateUser(
            user_service_pb2.UpdateUserRequest(
                user_id=user.user_id,
                email=f"ada{number}@example.com",
                update_mask={"paths": ["email"]},
            )
        )

    assert await refusal(change(users, user)) == TOO_MANY_ATTEMPTS


async def test_a_new_owner_of_an_address_is_not_kept_out_by_the_old_ones_failures(
    users, sessions, user, database
):
    await refused(sessions.CreateSession(sign_in(password="x")))
    await run(database, update(password_attempts).values(failures=MOST_FAILURES))
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

    await users.CreateUser(ada(email_verified=True))

    await sessions.CreateSession(sign_in())


async def test_waits_double_and_end_at_a_quarter_of_an_hour(sessions, user, database):
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


async def test_the_right_password_after_the_wait_forgets_the_wrong_ones(sessions, user, database):
    for _ in range(FREE_ATTEMPTS + 1):
        await refused(sessions.CreateSession(sign_in(password="x")))
    await run(database, update(password_attempts).values(blocked_until=func.now()))

    await sessions.CreateSession(sign_in())

    assert await failures(database) is None


async def test_success_forgets_its_own_attempts_and_no_others(users, sessions, user, database):
    other = await users.CreateUser(ada(email="other@example.com"))
    await verify(database, other.user)
    await refused(sessions.CreateSession(sign_in(password="x")))

    await sessions.CreateSession(sign_in(email="other@example.com"))

    assert await failures(database) == 1


async def test_the_right_password_of_an_unverified_user_is_no_failure(users, sessions, database):
    await users.CreateUser(ada())

    for _ in range(6):
        assert (await refused(sessions.CreateSession(sign_in()))).reason == "EMAIL_NOT_VERIFIED"
    assert await failures(database) is None


async def test_two_hundred_wrong_passwords_at_once_check_no_more_than_allowed(
    sessions, user, database, monkeypatch
):
    session = await sessions.CreateSession(sign_in())
    checked = []
    check = bcrypt.checkpw

    def counted(*args):
        checked.append(1)
        return check(*args)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    outcomes = []
    for _ in range(4):  # a connection carries 100 calls at once
        outcomes += await asyncio.gather(
            *(refusal(sessions.CreateSession(sign_in(password="x"))) for _ in range(50)),
        )
    await validate(sessions, session.session_token)

    looked_at = outcomes.count(INVALID_CREDENTIALS)
    assert looked_at == len(checked) == await failures(database)
    assert FREE_ATTEMPTS <= looked_at <= FREE_ATTEMPTS + 3
    assert outcomes.count(TOO_MANY_ATTEMPTS) == 200 - looked_at


async def test_a_hundred_wrong_passwords_leave_a_reset_as_the_only_way(
    users, sessions, user, database
):
    await refused(sessions.CreateSession(sign_in(password="x")))
    await run(
        database,
        update(password_attempts).values(failures=MOST_FAILURES, blocked_until=func.now()),
    )

    assert await refusal(sessions.CreateSession(sign_in())) == TOO_MANY_ATTEMPTS
    await reset(users, (await password_reset(users)).token)
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD))


# Hashes of other times


async def test_a_hash_from_elsewhere_is_replaced_at_the_next_sign_in(sessions, user, database):
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()
    await run(database, update(users_table).values(password_hash=elsewhere))

    await refused(sessions.CreateSession(sign_in(password="wrong")))
    assert await stored_hash(database) == elsewhere
    await sessions.CreateSession(sign_in())

    assert (await stored_hash(database)).startswith("$hmac-sha384$")
    await sessions.CreateSession(sign_in())


async def test_a_new_hash_never_overwrites_a_password_that_was_changed_meanwhile(
    users, sessions, user, database
):
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(8)).decode()
    await run(database, update(users_table).values(password_hash=elsewhere))

    outcomes = await asyncio.gather(
        change(users, user), *(sessions.CreateSession(sign_in()) for _ in range(3)),
        return_exceptions=True,
    )  # fmt: skip

    changed = not isinstance(outcomes[0], Exception)
    await run(database, text("DELETE FROM password_attempts"))
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD if changed else PASSWORD))


@pytest.mark.parametrize(
    "stored", ["corrupt", "$2b$04$short", "$hmac-sha384$gone$2b$04$" + "a" * 53]
)
async def test_a_corrupt_hash_is_refused_as_a_wrong_password_is(sessions, user, database, stored):
    await run(database, update(users_table).values(password_hash=stored))

    assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS


# One-time secrets


async def test_the_secret_that_came_back_verifies_the_address(users, sessions, database):
    created = await users.CreateUser(ada())
    issued = await verification(users, created.user)

    assert issued.email == "ada@example.com"
    assert issued.token.startswith("tmu_")
    answer = await verify_email(users, issued.token)
    assert answer.user.email_verified
    await sessions.CreateSession(sign_in())


async def test_a_secret_is_good_once(users, user):
    token = (await password_reset(users)).token
    await reset(users, token)

    assert await refusal(reset(users, token)) == TOKEN_INVALID


async def test_of_twenty_uses_at_once_one_succeeds(users, user):
    token = (await password_reset(users)).token

    outcomes = await asyncio.gather(
        *(reset(users, token) for _ in range(20)), return_exceptions=True
    )

    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1


@pytest.mark.parametrize("kind", ["verification", "reset"])
async def test_a_newer_secret_ends_the_older(users, user, kind):
    if kind == "reset":
        older, newer = (await password_reset(users)).token, (await password_reset(users)).token
        assert await refusal(reset(users, older)) == TOKEN_INVALID
        await reset(users, newer)
    else:
        older, newer = [(await verification(users, user)).token for _ in range(2)]
        assert await refusal(verify_email(users, older)) == TOKEN_INVALID
        await verify_email(users, newer)


async def test_a_secret_is_good_for_its_purpose_only(users, user):
    token = (await password_reset(users)).token
    assert await refusal(verify_email(users, token)) == TOKEN_INVALID
    token = (await verification(users, user)).token
    assert await refusal(reset(users, token)) == TOKEN_INVALID


async def test_a_secret_is_good_for_its_address_only(users, user):
    issued, forgotten = await verification(users, user), await password_reset(users)
    await users.UpdateUser(
        user_service_pb2.UpdateUserRequest(
            user_id=user.user_id, email="new@example.com", update_mask={"paths": ["email"]}
        )
    )

    assert await refusal(verify_email(users, issued.token)) == TOKEN_INVALID
    assert await refusal(reset(users, forgotten.token)) == TOKEN_INVALID


async def test_an_expired_secret_is_refused(users, user, database):
    token = (await password_reset(users)).token
    await run(database, update(user_tokens).values(expires_at=func.now()))

    assert await refusal(reset(users, token)) == TOKEN_INVALID


@pytest.mark.parametrize("token", ["tmu_" + "A" * 43, "x", "😀"])
async def test_a_secret_that_was_never_issued_is_refused(users, token):
    assert await refusal(verify_email(users, token)) == TOKEN_INVALID
    assert await refusal(reset(users, token)) == TOKEN_INVALID


async def test_an_unknown_address_answers_alike_without_a_secret(users, user):
    known, unknown = await password_reset(users), await password_reset(users, "no@example.com")

    assert known.token
    assert not unknown.token
    assert unknown.HasField("expire_time")


async def test_secrets_expire_when_the_documents_say(users, user, database):
    await verification(users, user)
    await password_reset(users)

    life = user_tokens.c.expires_at - user_tokens.c.created_at
    lives = await run(database, select(user_tokens.c.purpose, life))
    assert dict(map(tuple, lives)) == {
        "email_verification": timedelta(days=1),
        "password_reset": timedelta(minutes=10),
    }


async def test_a_reset_ends_every_session_and_every_secret(users, sessions, user, database):
    started = await sessions.CreateSession(sign_in())
    await verification(users, user)

    answer = await reset(users, (await password_reset(users)).token)

    assert answer.revoked_session_count == 1
    assert await refusal(validate(sessions, started.session_token)) == (
        StatusCode.UNAUTHENTICATED,
        "SESSION_REVOKED",
    )
    assert (await run(database, select(func.count()).select_from(user_tokens))).scalar_one() == 0


@pytest.mark.parametrize(
    ("away", "back"), [("DeactivateUser", "ActivateUser"), ("DeleteUser", "RestoreUser")]
)
async def test_a_secret_does_not_come_back_with_its_user(users, user, away, back):
    token = (await password_reset(users)).token
    for method in (away, back):
        request = getattr(user_service_pb2, f"{method}Request")(user_id=user.user_id)
        await getattr(users, method)(request)

    assert await refusal(reset(users, token)) == TOKEN_INVALID


@pytest.mark.parametrize("method", ["DeactivateUser", "DeleteUser"])
async def test_a_secret_of_a_user_who_is_gone_is_refused(users, user, method):
    token = (await password_reset(users)).token
    request = getattr(user_service_pb2, f"{method}Request")(user_id=user.user_id)
    await getattr(users, method)(request)

    assert await refusal(reset(users, token)) == TOKEN_INVALID


# Rotation and limits of sessions


async def test_a_refreshed_session_has_a_new_token_and_the_old_works_a_while(sessions, user):
    started = await sessions.CreateSession(sign_in())

    fresh = await refresh(sessions, started.session_token)

    assert fresh.session_token != started.session_token
    assert fresh.session.session_id == started.session.session_id
    assert fresh.session.expire_time == started.session.expire_time
    for token in (started.session_token, fresh.session_token):
        await validate(sessions, token)


async def test_twenty_refreshes_at_once_have_one_successor(sessions, user):
    token = (await sessions.CreateSession(sign_in())).session_token

    answers = await asyncio.gather(*(refresh(sessions, token) for _ in range(20)))

    assert len({answer.session_token for answer in answers}) == 1
    await validate(sessions, answers[0].session_token)


async def test_reuse_after_the_grace_ends_the_session(sessions, user, database):
    token = (await sessions.CreateSession(sign_in())).session_token
    fresh = await refresh(sessions, token)
    await run(
        database, update(sessions_table).values(rotated_at=func.now() - timedelta(seconds=11))
    )

    assert await refusal(validate(sessions, token)) == (
        StatusCode.UNAUTHENTICATED,
        "SESSION_UNKNOWN",
    )
    assert await refusal(refresh(sessions, token)) == (StatusCode.UNAUTHENTICATED, "SESSION_REUSED")
    for ended in (token, fresh.session_token):
        assert (await refusal(refresh(sessions, ended)))[1] == "SESSION_REVOKED"


@pytest.mark.parametrize("ended", ["revoked", "expired", "inactive"])
async def test_only_a_good_session_is_refreshed(users, sessions, user, database, ended):
    started = await sessions.CreateSession(sign_in())
    if ended == "revoked":
        request = session_service_pb2.RevokeSessionRequest(session_token=started.session_token)
        await sessions.RevokeSession(request)
    elif ended == "expired":
        past = {"created_at": func.now() - timedelta(days=8), "expires_at": func.now()}
        await run(database, update(sessions_table).values(past))
    else:
        await run(database, update(users_table).values(is_active=False))

    assert (await refusal(refresh(sessions, started.session_token)))[1] in {
        "SESSION_REVOKED",
        "SESSION_EXPIRED",
        "USER_INACTIVE",
    }


async def test_the_oldest_session_goes_when_there_would_be_too_many(settings, database):
    few = settings.model_copy(update={"sessions_per_user": 3})
    async with running(few) as service, channel_to(service) as channel:
        from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub  # noqa: PLC0415

        created = await UserServiceStub(channel).CreateUser(ada())
        await verify(database, created.user)
        sessions = SessionServiceStub(channel)
        tokens = [(await sessions.CreateSession(sign_in())).session_token for _ in range(5)]

        for token in tokens[:2]:
            assert (await refusal(validate(sessions, token)))[1] == "SESSION_REVOKED"
        for token in tokens[2:]:
            await validate(sessions, token)


async def test_a_session_that_rests_too_long_is_idle_and_use_keeps_it_alive(settings, database):
    idle = settings.model_copy(update={"session_idle_limit": timedelta(minutes=30)})
    async with running(idle) as service, channel_to(service) as channel:
        from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub  # noqa: PLC0415

        created = await UserServiceStub(channel).CreateUser(ada())
        await verify(database, created.user)
        sessions = SessionServiceStub(channel)
        token = (await sessions.CreateSession(sign_in())).session_token
        rested = update(sessions_table).values(last_activity_at=func.now() - timedelta(minutes=29))
        await run(database, rested)
        await validate(sessions, token)
        await service.parts.activity.write(service.database)
        age = select(func.now() - sessions_table.c.last_activity_at)
        assert (await run(database, age)).scalar_one() < timedelta(minutes=1)

        rested = update(sessions_table).values(last_activity_at=func.now() - timedelta(minutes=31))
        await run(database, rested)
        assert (await refusal(validate(sessions, token)))[1] == "SESSION_IDLE"
        assert (await refusal(refresh(sessions, token)))[1] == "SESSION_IDLE"
