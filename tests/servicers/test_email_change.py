"""Changes of an address over a real channel: the new one is proved before it counts."""

import asyncio
from datetime import timedelta

import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.storage.tables import user_tokens
from tests.support.calls import (
    INVALID_CREDENTIALS,
    ada,
    change,
    confirm_change,
    email_change,
    password_reset,
    refusal,
    refused,
    reset,
    sign_in,
    validate,
    verification,
    verify_email,
)
from tests.support.rows import run

NEW = "new@example.com"
TOKEN_INVALID = (StatusCode.UNAUTHENTICATED, "USER_TOKEN_INVALID")
EMAIL_TAKEN = (StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")


async def move(users, user, email):
    """Change the address of a user, and return the answer."""
    return await confirm_change(users, (await email_change(users, user, email)).token)


def update_email(users, user, email):
    return users.UpdateUser(
        pb.UpdateUserRequest(user_id=user.user_id, email=email, update_mask={"paths": ["email"]})
    )


class TestChange:
    """Changes that succeed."""

    async def test_old_email_signs_in_until_confirmation(self, users, sessions, user):
        issued = await email_change(users, user)

        await sessions.CreateSession(sign_in())
        assert await refusal(sessions.CreateSession(sign_in(email=NEW))) == INVALID_CREDENTIALS
        assert (await password_reset(users)).token
        issued = await email_change(users, user)
        await confirm_change(users, issued.token)

        await sessions.CreateSession(sign_in(email=NEW))
        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS

    async def test_confirmation_returns_user_and_previous_email(self, users, user):
        answer = await move(users, user, NEW)

        assert (answer.user.email, answer.previous_email) == (NEW, "ada@example.com")
        assert answer.user.email_verified
        assert answer.user.etag != user.etag

    async def test_email_change_names_the_address_to_send_to(self, users, user):
        issued = await email_change(users, user, " NEW@Example.COM ")

        assert issued.email == NEW
        assert issued.token.startswith("tmu_")
        assert (await confirm_change(users, issued.token)).user.email == NEW

    async def test_email_change_verifies_unverified_user(self, users, sessions):
        created = await users.CreateUser(ada())

        assert (await move(users, created.user, NEW)).user.email_verified
        await sessions.CreateSession(sign_in(email=NEW))

    async def test_email_change_keeps_sessions(self, users, sessions, user):
        started = await sessions.CreateSession(sign_in())

        await move(users, user, NEW)

        assert (await validate(sessions, started.session_token)).user.email == NEW

    async def test_email_change_frees_previous_email(self, users, user):
        await move(users, user, NEW)

        await users.CreateUser(ada())

    async def test_email_change_expires_as_documented(self, users, user, database):
        await email_change(users, user)

        life = user_tokens.c.expires_at - user_tokens.c.created_at
        assert (await run(database, select(life))).scalars().all() == [timedelta(days=1)]


class TestSecrecy:
    """Requests that do not show whether another user has the address."""

    async def test_change_to_taken_email_runs_same_statements(self, users, user, statements):
        await users.CreateUser(ada(email="taken@example.com"))
        statements.clear()
        free = await email_change(users, user, "free@example.com")
        for_free = statements.copy()
        statements.clear()
        taken = await email_change(users, user, "taken@example.com")

        assert for_free == statements
        assert len(free.token) == len(taken.token)
        assert free.HasField("expire_time")
        assert taken.HasField("expire_time")


class TestUse:
    """Tokens that work once, for one change."""

    async def test_change_token_works_once(self, users, user):
        token = (await email_change(users, user)).token
        await confirm_change(users, token)

        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    @pytest.mark.parametrize("email", [NEW, "ada@example.com"], ids=["another", "the same"])
    async def test_20_concurrent_confirmations_one_succeeds(self, users, user, email):
        token = (await email_change(users, user, email)).token

        outcomes = await asyncio.gather(
            *(confirm_change(users, token) for _ in range(20)), return_exceptions=True
        )

        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1

    async def test_two_users_confirm_same_email_one_succeeds(self, users, user):
        other = (await users.CreateUser(ada(email="other@example.com"))).user
        tokens = [(await email_change(users, owner)).token for owner in (user, other)]

        outcomes = await asyncio.gather(
            *(confirm_change(users, token) for token in tokens), return_exceptions=True
        )

        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
        (loser,) = [
            token
            for token, outcome in zip(tokens, outcomes, strict=True)
            if isinstance(outcome, Exception)
        ]
        assert await refusal(confirm_change(users, loser)) == EMAIL_TAKEN

    async def test_change_token_works_for_its_purpose_only(self, users, user):
        token = (await email_change(users, user)).token
        assert await refusal(verify_email(users, token)) == TOKEN_INVALID
        assert await refusal(reset(users, token)) == TOKEN_INVALID
        for issued in (await verification(users, user), await password_reset(users)):
            assert await refusal(confirm_change(users, issued.token)) == TOKEN_INVALID

    async def test_newer_email_change_replaces_older(self, users, user):
        older = await email_change(users, user, "older@example.com")
        newer = await email_change(users, user, "newer@example.com")

        assert await refusal(confirm_change(users, older.token)) == TOKEN_INVALID
        answer = await confirm_change(users, newer.token)
        assert answer.user.email == "newer@example.com"


class TestRefusals:
    """Changes that are refused."""

    async def test_email_taken_meanwhile_is_refused_and_token_works(self, users, user):
        token = (await email_change(users, user)).token
        other = (await users.CreateUser(ada(email=NEW))).user

        assert await refusal(confirm_change(users, token)) == EMAIL_TAKEN
        await users.DeleteUser(pb.DeleteUserRequest(user_id=other.user_id))
        assert (await confirm_change(users, token)).user.email == NEW

    async def test_tokens_of_previous_email_stay_void_after_return(self, users, user):
        verified, forgotten = await verification(users, user), await password_reset(users)
        moved = (await move(users, user, NEW)).user

        for _ in range(2):  # with the new address, and with the old one again
            assert await refusal(verify_email(users, verified.token)) == TOKEN_INVALID
            assert await refusal(reset(users, forgotten.token)) == TOKEN_INVALID
            moved = (await move(users, moved, user.email)).user

    async def test_change_token_is_void_after_another_change(self, users, user):
        token = (await email_change(users, user)).token
        for email in ("third@example.com", user.email):
            await update_email(users, user, email)
            assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    async def test_change_token_is_void_after_new_password(self, users, user):
        token = (await email_change(users, user)).token
        await change(users, user)
        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

        token = (await email_change(users, user)).token
        await reset(users, (await password_reset(users)).token)
        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    @pytest.mark.parametrize("method", ["DeactivateUser", "DeleteUser"])
    async def test_change_token_of_gone_user_is_refused(self, users, user, method):
        token = (await email_change(users, user)).token
        request = getattr(pb, f"{method}Request")(user_id=user.user_id)
        await getattr(users, method)(request)

        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    async def test_change_token_of_inactive_user_is_refused(self, users, user):
        await users.DeactivateUser(pb.DeactivateUserRequest(user_id=user.user_id))
        token = (await email_change(users, user)).token

        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    async def test_expired_change_token_is_refused(self, users, user, database):
        token = (await email_change(users, user)).token
        await run(database, update(user_tokens).values(expires_at=func.now()))

        assert await refusal(confirm_change(users, token)) == TOKEN_INVALID

    async def test_change_to_no_email_names_the_field(self, users, user):
        said = await refused(email_change(users, user, "no address"))

        assert (said.code, said.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert set(said.fields) == {"email"}

    async def test_email_change_of_deleted_user_is_not_found(self, users, user):
        await users.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))

        said = await refusal(email_change(users, user))
        assert said == (StatusCode.NOT_FOUND, "USER_NOT_FOUND")
