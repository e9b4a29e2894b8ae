"""UserService over a real channel, on a real database."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import func, select, text

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import user_profiles
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import PASSWORD, ada, read_refusal, refusal, refused, sign_in, verify


async def count(database, table):
    async with database.read() as db:
        return (await db.connection.execute(select(func.count()).select_from(table))).scalar_one()


async def get(users, user_id, **given):
    return await users.GetUser(pb.GetUserRequest(user_id=user_id, **given))


async def update(users, user_id, *paths, **given):
    mask = FieldMask(paths=paths)
    return await users.UpdateUser(pb.UpdateUserRequest(user_id=user_id, update_mask=mask, **given))


async def delete(users, user_id, **given):
    return await users.DeleteUser(pb.DeleteUserRequest(user_id=user_id, **given))


class TestCreateUser:
    """CreateUser."""

    async def test_create_user_stores_user_and_profile(self, users, database):
        created = await users.CreateUser(
            ada(
                email="Ada@Example.COM",
                username="Ada.L",
                last_name="Lovelace",
                avatar_url="https://example.com/ada.png",
                profile={"display_name": "Ada", "bio": "First\nprogrammer", "locale": "en-GB"},
            )
        )

        user = created.user
        assert (user.email, user.username) == ("ada@example.com", "ada.l")
        assert user.full_name == "Ada Lovelace"
        assert user.is_active
        assert not user.email_verified
        assert not user.HasField("last_login_time")
        assert created.profile.bio == "First\nprogrammer"
        read = await get(users, user.user_id, include_profile=True)
        assert read.user == user
        assert read.profile == created.profile
        assert await count(database, user_profiles) == 1

    @pytest.mark.parametrize("twin", ["ada@example.com", "ADA@example.com", "ada@EXAMPLE.com"])
    async def test_create_user_with_taken_email_is_refused(self, users, twin):
        await users.CreateUser(ada())

        assert await refusal(users.CreateUser(ada(email=twin))) == (
            StatusCode.ALREADY_EXISTS,
            "EMAIL_TAKEN",
        )

    async def test_create_user_with_taken_username_is_refused(self, users):
        await users.CreateUser(ada(username="ada"))

        again = ada(email="other@example.com", username="ADA")
        assert await refusal(users.CreateUser(again)) == (
            StatusCode.ALREADY_EXISTS,
            "USERNAME_TAKEN",
        )

    async def test_refused_create_user_stores_nothing(self, users, database):
        await users.CreateUser(ada(username="ada"))

        await refusal(users.CreateUser(ada(email="other@example.com", username="ada")))

        assert await count(database, users_table) == 1
        assert await count(database, user_profiles) == 1

    async def test_50_concurrent_creations_one_succeeds(self, users, database):
        addresses = ["ada@example.com", "ADA@example.com"] * 25
        outcomes = await asyncio.gather(
            *(users.CreateUser(ada(email=address, password="")) for address in addresses),
            return_exceptions=True,
        )

        refusals = [outcome.code() for outcome in outcomes if isinstance(outcome, Exception)]
        assert refusals == [StatusCode.ALREADY_EXISTS] * 49
        assert await count(database, users_table) == 1
        assert await count(database, user_profiles) == 1

    async def test_repeated_create_request_returns_same_user(self, users, database):
        request = ada(request_id=str(uuid4()), profile={"bio": "once"})
        first = await users.CreateUser(request)

        assert await users.CreateUser(request) == first
        assert await count(database, users_table) == 1

    async def test_concurrent_create_requests_return_same_user(self, users, database):
        request = ada(request_id=str(uuid4()))

        answers = await asyncio.gather(*(users.CreateUser(request) for _ in range(8)))

        assert len({answer.user.user_id for answer in answers}) == 1
        assert await count(database, users_table) == 1

    async def test_repeated_create_request_is_compared_normalised(self, users):
        request_id = str(uuid4())
        first = await users.CreateUser(ada(request_id=request_id, username="ada"))

        again = ada(request_id=request_id.upper(), username="ADA", email="ADA@example.com")
        assert (await users.CreateUser(again)).user == first.user

    @pytest.mark.parametrize(
        "content", [{"first_name": "Augusta"}, {"profile": {"bio": "x"}}, {"email_verified": True}]
    )
    async def test_request_id_with_other_content_is_refused(self, users, content):
        request_id = str(uuid4())
        await users.CreateUser(ada(request_id=request_id))

        assert await refusal(users.CreateUser(ada(request_id=request_id, **content))) == (
            StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )

    async def test_request_id_with_other_password_returns_user(self, users):
        request_id = str(uuid4())
        first = await users.CreateUser(ada(request_id=request_id))

        again = ada(request_id=request_id, password="another long passphrase")
        assert await users.CreateUser(again) == first

    async def test_white_space_around_names_is_dropped(self, users):
        created = await users.CreateUser(
            ada(
                email="  ada@example.com ",
                username=" Ada ",
                first_name=" Ada\u00a0",
                last_name="  ",
                profile={"display_name": " Ada L ", "bio": " kept "},
            )
        )

        user = created.user
        assert (user.email, user.username, user.full_name) == ("ada@example.com", "ada", "Ada")
        assert (user.first_name, user.last_name) == ("Ada", "")
        assert (created.profile.display_name, created.profile.bio) == ("Ada L", " kept ")
        for by in ({"email": " ADA@example.com"}, {"username": "ADA "}):
            found = await users.GetUser(pb.GetUserRequest(**by))
            assert found.user.user_id == user.user_id

    @pytest.mark.parametrize("username", ["  a", " ab ", "a b", " "])
    async def test_username_of_two_letters_and_spaces_is_refused(self, users, username):
        code, reason = await refusal(users.CreateUser(ada(username=username)))

        assert (code, reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")

    async def test_create_user_with_verified_email_can_sign_in(self, users, sessions):
        created = await users.CreateUser(ada(email_verified=True))

        assert created.user.email_verified
        await sessions.CreateSession(sign_in())

    async def test_request_id_of_other_user_is_refused(self, users):
        request_id = str(uuid4())
        await users.CreateUser(ada(request_id=request_id))

        other = ada(request_id=request_id, email="other@example.com")
        assert await refusal(users.CreateUser(other)) == (
            StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )


class TestDeleteUser:
    """DeleteUser, RestoreUser and PurgeUser."""

    async def test_deleted_user_is_found_on_request_only(self, users):
        created = await users.CreateUser(ada(username="ada"))
        user_id = created.user.user_id

        answer = await delete(users, user_id, deleted_by="support")

        assert not answer.user.is_active
        assert answer.user.deleted_by == "support"
        assert answer.user.HasField("delete_time")
        missing = (StatusCode.NOT_FOUND, "USER_NOT_FOUND")
        assert await refusal(get(users, user_id)) == missing
        assert await refusal(delete(users, user_id)) == missing
        assert await refusal(update(users, user_id, "first_name")) == missing
        for request in (pb.DeactivateUserRequest, pb.ActivateUserRequest):
            method = getattr(users, request.__name__.removesuffix("Request"))
            assert await refusal(method(request(user_id=user_id))) == missing
        assert (await get(users, user_id, include_deleted=True)).user == answer.user

    async def test_deleted_by_defaults_to_name_of_caller(self, users):
        created = await users.CreateUser(ada())

        answer = await delete(users, created.user.user_id)

        assert answer.user.deleted_by == "local"

    async def test_delete_frees_email_and_username(self, users):
        created = await users.CreateUser(ada(username="ada"))
        await delete(users, created.user.user_id)

        again = await users.CreateUser(ada(username="ada"))

        found = pb.GetUserRequest(email="ada@example.com", include_deleted=True)
        assert (await users.GetUser(found)).user == again.user
        await delete(users, again.user.user_id)
        assert (await users.GetUser(found)).user.user_id == again.user.user_id

    async def test_delete_with_old_etag_is_refused(self, users):
        created = await users.CreateUser(ada())
        await update(users, created.user.user_id, "first_name", first_name="Augusta")

        late = delete(users, created.user.user_id, etag=created.user.etag)
        assert await refusal(late) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        await get(users, created.user.user_id)

    async def test_restored_user_is_active_without_sessions(self, users, sessions, database):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        await sessions.CreateSession(sign_in())
        user_id = created.user.user_id
        assert (await delete(users, user_id)).revoked_session_count == 1

        restored = (await users.RestoreUser(pb.RestoreUserRequest(user_id=user_id))).user

        assert restored.is_active
        assert restored.email_verified
        assert not restored.HasField("delete_time")
        assert restored.deleted_by == ""
        answer = await get(users, user_id, include_recent_sessions=True)
        assert not answer.recent_sessions

    async def test_restore_of_live_user_is_refused(self, users):
        created = await users.CreateUser(ada())

        live = users.RestoreUser(pb.RestoreUserRequest(user_id=created.user.user_id))
        assert await refusal(live) == (StatusCode.FAILED_PRECONDITION, "USER_NOT_DELETED")
        unknown = users.RestoreUser(pb.RestoreUserRequest(user_id=str(uuid4())))
        assert await refusal(unknown) == (StatusCode.NOT_FOUND, "USER_NOT_FOUND")

    async def test_restore_with_taken_names_needs_new_ones(self, users, database):
        first = await users.CreateUser(ada(username="ada"))
        await verify(database, first.user)
        await delete(users, first.user.user_id)
        await users.CreateUser(ada(username="ada"))
        request = pb.RestoreUserRequest(user_id=first.user.user_id)

        assert await refusal(users.RestoreUser(request)) == (
            StatusCode.ALREADY_EXISTS,
            "EMAIL_TAKEN",
        )
        request.email = "ada2@example.com"
        assert await refusal(users.RestoreUser(request)) == (
            StatusCode.ALREADY_EXISTS,
            "USERNAME_TAKEN",
        )
        request.username = "ada2"
        restored = (await users.RestoreUser(request)).user
        assert (restored.email, restored.username) == ("ada2@example.com", "ada2")
        assert not restored.email_verified

    @pytest.mark.parametrize("deleted_before", [False, True])
    async def test_purge_deletes_all_rows_of_user(self, users, sessions, database, deleted_before):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        await sessions.CreateSession(sign_in())
        request = pb.PurgeUserRequest(user_id=created.user.user_id)
        if deleted_before:
            await delete(users, created.user.user_id)

        await users.PurgeUser(request)

        for table in (users_table, user_profiles, sessions_table):
            assert await count(database, table) == 0
        assert await refusal(users.PurgeUser(request)) == (StatusCode.NOT_FOUND, "USER_NOT_FOUND")


class TestActivation:
    """DeactivateUser and ActivateUser."""

    async def test_deactivate_ends_sessions_and_blocks_sign_in(self, users, sessions, database):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        await sessions.CreateSession(sign_in())
        who = pb.DeactivateUserRequest(user_id=created.user.user_id)

        answer = await users.DeactivateUser(who)

        assert not answer.user.is_active
        assert answer.revoked_session_count == 1
        assert await refusal(sessions.CreateSession(sign_in())) == (
            StatusCode.UNAUTHENTICATED,
            "INVALID_CREDENTIALS",
        )
        again = await users.DeactivateUser(who)
        assert again.user.etag == answer.user.etag
        active = await users.ActivateUser(pb.ActivateUserRequest(user_id=created.user.user_id))
        assert active.user.is_active
        await sessions.CreateSession(sign_in())

    async def test_racing_changes_return_consistent_users(self, users):
        user_id = (await users.CreateUser(ada(password=""))).user.user_id
        wrong = []

        async def again_and_again(method, request, *, expected=None):
            for _ in range(25):
                try:
                    answer = await method(request(user_id=user_id))
                except grpc.aio.AioRpcError as error:
                    if read_refusal(error).reason not in {"USER_NOT_FOUND", "USER_NOT_DELETED"}:
                        wrong.append(read_refusal(error))
                else:
                    if expected is not None and answer.user.is_active is not expected:
                        wrong.append(answer)

        def renamed(user_id):
            mask = FieldMask(paths=["first_name"])
            return pb.UpdateUserRequest(user_id=user_id, first_name="x", update_mask=mask)

        await asyncio.gather(
            again_and_again(users.DeactivateUser, pb.DeactivateUserRequest, expected=False),
            again_and_again(users.ActivateUser, pb.ActivateUserRequest, expected=True),
            again_and_again(users.DeleteUser, pb.DeleteUserRequest, expected=False),
            again_and_again(users.RestoreUser, pb.RestoreUserRequest, expected=True),
            again_and_again(users.UpdateUser, renamed),
        )

        assert not wrong


class TestUpdateUser:
    """UpdateUser."""

    async def test_update_user_changes_fields_of_mask_only(self, users):
        created = await users.CreateUser(
            ada(username="ada", profile={"bio": "old", "locale": "en"})
        )

        changed = await update(
            users,
            created.user.user_id,
            "last_name",
            "profile.bio",
            first_name="Not named",
            last_name="Lovelace",
            profile={"bio": "new", "locale": "de"},
        )

        assert (changed.user.first_name, changed.user.last_name) == ("Ada", "Lovelace")
        assert changed.user.full_name == "Ada Lovelace"
        assert changed.user.username == "ada"
        assert (changed.profile.bio, changed.profile.locale) == ("new", "en")
        assert changed.user.etag != created.user.etag
        assert changed.user.update_time.ToDatetime() > created.user.update_time.ToDatetime()

    async def test_update_user_with_empty_value_clears_field(self, users):
        created = await users.CreateUser(
            ada(username="ada", profile={"bio": "old", "locale": "en"})
        )

        changed = await update(users, created.user.user_id, "username", "first_name", "profile")

        assert (changed.user.username, changed.user.first_name) == ("", "")
        assert changed.user.full_name == ""
        assert (changed.profile.bio, changed.profile.locale) == ("", "")

    async def test_update_of_email_unverifies_it(self, users, database):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        user_id = created.user.user_id

        same = await update(users, user_id, "email", email="ADA@example.com")
        assert same.user.email_verified

        other = await update(users, user_id, "email", email="ada@elsewhere.example")
        assert not other.user.email_verified
        assert other.user.email == "ada@elsewhere.example"

    async def test_update_user_with_old_etag_is_refused(self, users):
        created = await users.CreateUser(ada())
        user_id, etag = created.user.user_id, created.user.etag
        await update(users, user_id, "first_name", first_name="Augusta", etag=etag)

        late = update(users, user_id, "first_name", first_name="Late", etag=etag)
        assert await refusal(late) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        strange = update(users, user_id, "first_name", first_name="Late", etag="no version")
        assert await refusal(strange) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert (await get(users, user_id)).user.first_name == "Augusta"

    async def test_update_user_to_taken_email_is_refused(self, users):
        await users.CreateUser(ada())
        other = await users.CreateUser(ada(email="other@example.com"))

        taken = update(users, other.user.user_id, "email", email="Ada@example.com")
        assert await refusal(taken) == (StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")

    @pytest.mark.parametrize(
        "paths", [[], ["password_hash"], ["email", "user_id"], ["profile.x"], ["*"]]
    )
    async def test_update_mask_with_unknown_field_is_refused(self, users, paths):
        said = await refused(update(users, str(uuid4()), *paths, email="ada@example.com"))

        assert said.code is StatusCode.INVALID_ARGUMENT
        assert list(said.fields) == ["update_mask"]

    async def test_every_change_raises_update_time(self, users, sessions, database):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        user_id = created.user.user_id
        moments = [created.user.update_time.ToDatetime()]
        await sessions.CreateSession(sign_in())
        moments.append((await get(users, user_id)).user.update_time.ToDatetime())
        changes = (
            lambda: update(users, user_id, "first_name"),
            lambda: users.DeactivateUser(pb.DeactivateUserRequest(user_id=user_id)),
            lambda: users.ActivateUser(pb.ActivateUserRequest(user_id=user_id)),
            lambda: delete(users, user_id),
            lambda: users.RestoreUser(pb.RestoreUserRequest(user_id=user_id)),
        )
        moments += [(await change()).user.update_time.ToDatetime() for change in changes]

        assert moments == sorted(set(moments))


class TestGetUser:
    """GetUser, BatchGetUsers and GetUserStats."""

    @pytest.mark.parametrize("by", [{"email": "ADA@example.com"}, {"username": "ADA"}])
    async def test_get_user_finds_by_email_and_username(self, users, by):
        created = await users.CreateUser(ada(username="ada"))

        assert (await users.GetUser(pb.GetUserRequest(**by))).user == created.user

    async def test_get_unknown_user_is_not_found(self, users):
        assert await refusal(get(users, str(uuid4()))) == (StatusCode.NOT_FOUND, "USER_NOT_FOUND")

    async def test_recent_sessions_are_ten_latest_live_ones(self, users, sessions, database):
        created = await users.CreateUser(ada())
        await verify(database, created.user)
        started = [(await sessions.CreateSession(sign_in())).session.session_id for _ in range(13)]
        async with database.transaction() as tx:
            for minutes, session_id in enumerate(started):
                await tx.connection.execute(
                    sessions_table.update()
                    .where(sessions_table.c.id == session_id)
                    .values(last_activity_at=func.now() - timedelta(minutes=minutes))
                )
            await tx.connection.execute(
                sessions_table.update()
                .where(sessions_table.c.id == started[0])
                .values(is_valid=False, revoked_at=func.now())
            )
            await tx.connection.execute(
                sessions_table.update()
                .where(sessions_table.c.id == started[1])
                .values(created_at=func.now() - timedelta(days=8), expires_at=func.now())
            )

        answer = await get(users, created.user.user_id, include_recent_sessions=True)

        assert [session.session_id for session in answer.recent_sessions] == started[2:12]

    async def test_batch_get_keeps_order_and_lists_missing(self, users):
        ids = [
            (await users.CreateUser(ada(email=f"{name}@example.com", password=""))).user.user_id
            for name in "abc"
        ]
        await delete(users, ids[1])
        unknown = str(uuid4())

        answer = await users.BatchGetUsers(
            pb.BatchGetUsersRequest(user_ids=[ids[2], unknown, ids[0], ids[1], ids[2].upper()])
        )

        assert [user.user_id for user in answer.users] == [ids[2], ids[0]]
        assert list(answer.missing_user_ids) == [unknown, ids[1]]

    async def test_batch_get_is_limited_to_1000_ids(self, users):
        ids = [str(uuid4()) for _ in range(1000)]

        answer = await users.BatchGetUsers(pb.BatchGetUsersRequest(user_ids=ids))
        assert list(answer.missing_user_ids) == ids

        too_many = pb.BatchGetUsersRequest(user_ids=[*ids, str(uuid4())])
        assert (await refused(users.BatchGetUsers(too_many))).fields == {
            "user_ids": "must have at most 1000 items"
        }

    async def test_user_stats_count_users_of_filter(self, users, database):
        first = await users.CreateUser(ada(email="a@example.com", password=""))
        last = await users.CreateUser(ada(email="b@example.com", password=""))
        gone = await users.CreateUser(ada(email="c@example.com", password=""))
        await verify(database, last.user)
        await delete(users, gone.user.user_id)

        stats = await users.GetUserStats(pb.GetUserStatsRequest())
        assert stats.user_count == 2
        assert stats.first_create_time == first.user.create_time
        assert stats.last_create_time == last.user.create_time

        verified = await users.GetUserStats(pb.GetUserStatsRequest(filter={"email_verified": True}))
        assert verified.user_count == 1
        all_of_them = pb.GetUserStatsRequest(filter={"deleted": pb.DELETED_FILTER_INCLUDE})
        assert (await users.GetUserStats(all_of_them)).user_count == 3
        none_of_them = await users.GetUserStats(
            pb.GetUserStatsRequest(filter={"email_prefix": "z"})
        )
        assert none_of_them.user_count == 0
        assert not none_of_them.HasField("first_create_time")

    async def test_user_responses_hold_no_password_hash(self, users, database):
        created = await users.CreateUser(ada())
        async with database.read() as db:
            found = await db.connection.execute(text("SELECT password_hash FROM users"))
            password_hash = found.scalar_one()

        assert password_hash.startswith("$hmac-sha384$canary$2b$04$")
        assert PASSWORD not in str(created)
        assert password_hash not in str(
            await get(users, created.user.user_id, include_profile=True)
        )
        assert not any("password" in field.name for field in created.user.DESCRIPTOR.fields)
