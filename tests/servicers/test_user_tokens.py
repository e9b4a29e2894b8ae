"""One-time tokens over a real channel: they verify an address or reset a password."""

import asyncio
from datetime import timedelta

import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar_auth.storage.tables import user_tokens
from tests.support.calls import (
    NEW_PASSWORD,
    ada,
    change,
    password_reset,
    refusal,
    reset,
    sign_in,
    validate,
    verification,
    verify_email,
)
from tests.support.rows import run

TOKEN_INVALID = (StatusCode.UNAUTHENTICATED, "USER_TOKEN_INVALID")


class TestUse:
    """Tokens that work, once."""

    async def test_verification_token_verifies_email(self, users, sessions, database):
        created = await users.CreateUser(ada())
        issued = await verification(users, created.user)

        assert issued.email == "ada@example.com"
        assert issued.token.startswith("tmu_")
        answer = await verify_email(users, issued.token)
        assert answer.user.email_verified
        await sessions.CreateSession(sign_in())

    async def test_password_reset_verifies_its_email(self, users, sessions):
        created = await users.CreateUser(ada())
        assert not created.user.email_verified

        answer = await reset(users, (await password_reset(users)).token)

        assert answer.user.email_verified
        await sessions.CreateSession(sign_in(password=NEW_PASSWORD))

    @pytest.mark.parametrize("email", ["ADA@Example.COM", "Ada@\uff45xample.com"])
    async def test_password_reset_names_the_address_to_send_to(self, users, user, email):
        known = await password_reset(users, email)
        unknown = await password_reset(users, email.lower().replace("ada", "bob"))

        assert (known.email, unknown.email) == ("ada@example.com", "bob@example.com")
        assert (bool(known.token), unknown.token) == (True, "")

    async def test_user_token_works_once(self, users, user):
        token = (await password_reset(users)).token
        await reset(users, token)

        assert await refusal(reset(users, token)) == TOKEN_INVALID
        token = (await verification(users, user)).token
        await verify_email(users, token)
        assert await refusal(verify_email(users, token)) == TOKEN_INVALID

    async def test_20_concurrent_uses_of_user_token_one_succeeds(self, users, user):
        token = (await password_reset(users)).token

        outcomes = await asyncio.gather(
            *(reset(users, token) for _ in range(20)), return_exceptions=True
        )

        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1

    async def test_user_token_works_for_its_purpose_only(self, users, user):
        token = (await password_reset(users)).token
        assert await refusal(verify_email(users, token)) == TOKEN_INVALID
        token = (await verification(users, user)).token
        assert await refusal(reset(users, token)) == TOKEN_INVALID

    async def test_user_token_works_for_its_email_only(self, users, user):
        issued, forgotten = await verification(users, user), await password_reset(users)
        await users.UpdateUser(
            user_service_pb2.UpdateUserRequest(
                user_id=user.user_id, email="new@example.com", update_mask={"paths": ["email"]}
            )
        )

        assert await refusal(verify_email(users, issued.token)) == TOKEN_INVALID
        assert await refusal(reset(users, forgotten.token)) == TOKEN_INVALID

    async def test_password_reset_runs_one_statement_for_every_email(self, users, user, statements):
        await password_reset(users)
        known = statements.copy()
        statements.clear()
        await password_reset(users, "no@example.com")

        assert known == statements
        assert len(known) == 1

    async def test_password_reset_of_unknown_email_looks_alike(self, users, user):
        known, unknown = await password_reset(users), await password_reset(users, "no@example.com")

        assert known.token
        assert not unknown.token
        assert unknown.HasField("expire_time")

    async def test_user_tokens_expire_as_documented(self, users, user, database):
        await verification(users, user)
        await password_reset(users)

        life = user_tokens.c.expires_at - user_tokens.c.created_at
        lives = await run(database, select(user_tokens.c.purpose, life))
        assert dict(map(tuple, lives)) == {
            "email_verification": timedelta(days=1),
            "password_reset": timedelta(minutes=10),
        }

    async def test_password_reset_ends_all_sessions_and_tokens(
        self, users, sessions, user, database
    ):
        started = await sessions.CreateSession(sign_in())
        await verification(users, user)

        answer = await reset(users, (await password_reset(users)).token)

        assert answer.revoked_session_count == 1
        assert await refusal(validate(sessions, started.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )
        assert (
            await run(database, select(func.count()).select_from(user_tokens))
        ).scalar_one() == 0


class TestRefusals:
    """Tokens that work no longer."""

    @pytest.mark.parametrize("kind", ["verification", "reset"])
    async def test_newer_user_token_replaces_older(self, users, user, kind):
        if kind == "reset":
            older, newer = (await password_reset(users)).token, (await password_reset(users)).token
            assert await refusal(reset(users, older)) == TOKEN_INVALID
            await reset(users, newer)
        else:
            older, newer = [(await verification(users, user)).token for _ in range(2)]
            assert await refusal(verify_email(users, older)) == TOKEN_INVALID
            await verify_email(users, newer)

    async def test_expired_user_token_is_refused(self, users, user, database):
        token = (await password_reset(users)).token
        await run(database, update(user_tokens).values(expires_at=func.now()))

        assert await refusal(reset(users, token)) == TOKEN_INVALID

    @pytest.mark.parametrize("token", ["tmu_" + "A" * 43, "x", "😀"])
    async def test_made_up_user_token_is_refused(self, users, token):
        assert await refusal(verify_email(users, token)) == TOKEN_INVALID
        assert await refusal(reset(users, token)) == TOKEN_INVALID

    @pytest.mark.parametrize(
        ("away", "back"), [("DeactivateUser", "ActivateUser"), ("DeleteUser", "RestoreUser")]
    )
    async def test_user_token_stays_ended_after_user_returns(self, users, user, away, back):
        token = (await password_reset(users)).token
        for method in (away, back):
            request = getattr(user_service_pb2, f"{method}Request")(user_id=user.user_id)
            await getattr(users, method)(request)

        assert await refusal(reset(users, token)) == TOKEN_INVALID

    async def test_user_token_stays_ended_after_email_returns(self, users, user):
        issued, forgotten = await verification(users, user), await password_reset(users)
        for email in ("new@example.com", user.email):
            await users.UpdateUser(
                user_service_pb2.UpdateUserRequest(
                    user_id=user.user_id, email=email, update_mask={"paths": ["email"]}
                )
            )

        assert await refusal(verify_email(users, issued.token)) == TOKEN_INVALID
        assert await refusal(reset(users, forgotten.token)) == TOKEN_INVALID

    async def test_user_token_is_refused_after_password_change(self, users, user):
        issued, forgotten = await verification(users, user), await password_reset(users)

        await change(users, user)

        assert await refusal(verify_email(users, issued.token)) == TOKEN_INVALID
        assert await refusal(reset(users, forgotten.token)) == TOKEN_INVALID

    @pytest.mark.parametrize("method", ["DeactivateUser", "DeleteUser"])
    async def test_user_token_of_gone_user_is_refused(self, users, user, method):
        token = (await password_reset(users)).token
        request = getattr(user_service_pb2, f"{method}Request")(user_id=user.user_id)
        await getattr(users, method)(request)

        assert await refusal(reset(users, token)) == TOKEN_INVALID
