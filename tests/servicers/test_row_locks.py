"""Calls that wait for a user's row decide by the row as it is after the wait."""

import asyncio
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import func, text
from sqlalchemy import update as update_rows

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.session_service_pb2 import BeginStepUpRequest, CompleteStepUpRequest
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tamatar_auth.storage.tables import password_attempts
from tests.support.calls import (
    PASSWORD,
    ada,
    change,
    password_reset,
    refusal,
    reset,
    sign_in,
    validate,
)
from tests.support.factors import enrol
from tests.support.rows import new_session, new_token, wait_longer
from tests.support.waiting import eventually, lock_is_waited_for


async def during(database, first, call, then=None):
    """Make a call while a transaction that did `first` is open.

    Do `then` when the call waits for it, commit, and return what the call returns.
    """
    async with database.transaction() as tx:
        await first(tx)
        task = asyncio.ensure_future(call())
        await eventually(lambda: task.done() or lock_is_waited_for(database))
        assert not task.done(), "the call waited for no lock"
        if then is not None:
            await then(tx)
    return await task


def of_user(users, user, method, **given):
    return getattr(users, method)(getattr(pb, f"{method}Request")(user_id=user.user_id, **given))


def update(users, user, **given):
    mask = FieldMask(paths=[name for name in given if name != "etag"])
    return of_user(users, user, "UpdateUser", update_mask=mask, **given)


async def change_password(users, user):
    await change(users, user)


async def reset_password(users, _user):
    await reset(users, (await password_reset(users)).token)


async def deactivate(users, user):
    await of_user(users, user, "DeactivateUser")


async def delete(users, user):
    await of_user(users, user, "DeleteUser")


async def purge(users, user):
    await of_user(users, user, "PurgeUser")


async def change_user(tx, user_id, how):
    """Change a user in a transaction, and leave the sessions."""
    if how == "deleted":
        await tx.users.delete(user_id, deleted_by=None)
    elif how == "inactive":
        await tx.users.set_active(user_id, active=False)
    else:
        await tx.users.update(user_id, {"password_hash": "another"})


class TestSignIn:
    """A sign-in that holds the row while another call ends the sessions."""

    @pytest.mark.parametrize(
        ("end", "reason"),
        [
            (change_password, "SESSION_REVOKED"),
            (reset_password, "SESSION_REVOKED"),
            (deactivate, "SESSION_REVOKED"),
            (delete, "SESSION_REVOKED"),
            (purge, "SESSION_UNKNOWN"),
        ],
    )
    async def test_session_of_open_sign_in_is_ended_too(
        self, users, sessions, user, database, end, reason
    ):
        token = new_token()

        async def started(tx):
            checked = await tx.credentials.find_by_email(user.email)
            await tx.credentials.record_sign_in(checked)
            new = new_session(UUID(user.user_id), token_digest=token.digest)
            await tx.sessions.add(new)

        await during(database, started, lambda: end(users, user))

        assert await refusal(validate(sessions, token.text)) == (
            StatusCode.UNAUTHENTICATED,
            reason,
        )

    @pytest.mark.parametrize("how", ["deleted", "inactive", "another password"])
    async def test_sign_in_during_change_of_user_is_refused(self, sessions, user, database, how):
        user_id = UUID(user.user_id)

        async def changed(tx):
            await change_user(tx, user_id, how)

        attempt = during(database, changed, lambda: sessions.CreateSession(sign_in()))

        assert await refusal(attempt) == (StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
        async with database.read() as db:
            assert not await db.sessions.recent(user_id, limit=1)


class TestStepUp:
    """A step-up that waits for a change of its user."""

    @pytest.mark.parametrize(
        ("proof", "how", "reason"),
        [
            ("password", "deleted", "INVALID_PROOF"),
            ("password", "inactive", "INVALID_PROOF"),
            ("password", "another password", "INVALID_PROOF"),
            ("totp_code", "deleted", "USER_INACTIVE"),
            ("totp_code", "inactive", "USER_INACTIVE"),
        ],
    )
    async def test_step_up_during_change_of_user_is_refused(
        self, sessions, factors, user, database, proof, how, reason
    ):
        token = (await sessions.CreateSession(sign_in())).session_token
        app = await enrol(factors, user, database)
        begun = await sessions.BeginStepUp(BeginStepUpRequest(session_token=token))
        request = CompleteStepUpRequest(
            session_token=token,
            challenge_token=begun.challenge.challenge_token,
            **{proof: PASSWORD if proof == "password" else app.code()},
        )

        async def changed(tx):
            await change_user(tx, UUID(user.user_id), how)

        attempt = during(database, changed, lambda: sessions.CompleteStepUp(request))

        assert await refusal(attempt) == (StatusCode.UNAUTHENTICATED, reason)


class TestUpdates:
    """Changes of a user that begin while another one is open."""

    @pytest.mark.parametrize("method", ["UpdateUser", "DeleteUser"])
    async def test_change_by_etag_during_another_is_refused(self, users, user, database, method):
        etag = (await of_user(users, user, "GetUser")).user.etag
        calls = {
            "UpdateUser": lambda: update(users, user, first_name="Late", etag=etag),
            "DeleteUser": lambda: of_user(users, user, "DeleteUser", etag=etag),
        }

        async def renamed(tx):
            await tx.users.update(UUID(user.user_id), {"first_name": "Augusta"})

        assert await refusal(during(database, renamed, calls[method])) == (
            StatusCode.ABORTED,
            "ETAG_MISMATCH",
        )
        assert (await of_user(users, user, "GetUser")).user.first_name == "Augusta"

    async def test_email_changed_back_during_change_is_unverified(self, users, user, database):
        async def moved(tx):
            new = {"email": "new@example.com", "email_verified": True}
            await tx.users.update(UUID(user.user_id), new)

        back = await during(database, moved, lambda: update(users, user, email=user.email))

        assert (back.user.email, back.user.email_verified) == (user.email, False)

    @pytest.mark.parametrize("active", [True, False])
    async def test_activation_during_opposite_one_wins(self, users, user, database, active):
        method = "ActivateUser" if active else "DeactivateUser"
        if not active:
            await of_user(users, user, "DeactivateUser")

        async def opposite(tx):
            await tx.users.set_active(UUID(user.user_id), active=not active)

        answer = await during(database, opposite, lambda: of_user(users, user, method))

        assert answer.user.is_active is active
        assert (await of_user(users, user, "GetUser")).user.is_active is active

    async def test_restoration_during_another_is_refused(self, users, user, database):
        await of_user(users, user, "DeleteUser")

        async def restored(tx):
            await tx.users.restore(UUID(user.user_id), {})

        again = during(database, restored, lambda: of_user(users, user, "RestoreUser"))

        assert await refusal(again) == (StatusCode.FAILED_PRECONDITION, "USER_NOT_DELETED")


class TestResets:
    """Requests for a reset token while the user is purged."""

    async def test_password_reset_during_purge_issues_no_token(self, users, user, database):
        async def purge_user(tx):
            await tx.users.purge(UUID(user.user_id))

        answer = await during(database, purge_user, lambda: password_reset(users))

        assert (answer.token, answer.email) == ("", user.email)


class TestAttempts:
    """A sign-in that waits for the row that counts its attempts."""

    async def test_wait_for_next_attempt_is_judged_after_lock(self, sessions, user, database):
        for _ in range(FREE_ATTEMPTS + 1):
            await refusal(sessions.CreateSession(sign_in(password="x")))
        await wait_longer(database)

        async def locked(tx):
            await tx.connection.execute(text("SELECT * FROM password_attempts FOR UPDATE"))

        async def over(tx):
            due = update_rows(password_attempts).values(blocked_until=func.clock_timestamp())
            await tx.connection.execute(due)

        right = await during(database, locked, lambda: sessions.CreateSession(sign_in()), then=over)

        assert right.session_token


class TestRepeatedCreation:
    """A repeated creation locks the user that it finds, which makes its commit a write."""

    async def test_repeated_creation_waits_for_open_change(self, users, database):
        request = ada(request_id=str(uuid4()))
        created = (await users.CreateUser(request)).user

        async def renamed(tx):
            await tx.users.update(UUID(created.user_id), {"first_name": "Augusta"})

        again = await during(database, renamed, lambda: users.CreateUser(request))

        assert (again.user.user_id, again.user.first_name) == (created.user_id, "Augusta")

    async def test_repeated_import_waits_for_lock_on_user(self, users, database):
        request = pb.ImportUsersRequest(users=[PortableUser(email="ada@example.com")])

        async def imported():
            return [answer async for answer in users.ImportUsers(iter([request]))]

        async def locked(tx):
            await tx.connection.execute(text("SELECT id FROM users FOR UPDATE"))

        (first,) = await imported()
        (again,) = await during(database, locked, imported)

        assert again.results[0].user_id == first.results[0].user_id
