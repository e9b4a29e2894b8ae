"""UserRepository: every method, on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from tamatar_auth.errors.users import EtagMismatch, RequestIdReused, UserNotDeleted, UserNotFound
from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.user_counts import UserCount
from tamatar_auth.storage.repositories.user_filters import (
    Deleted,
    UserFilter,
    UserOrder,
    after_prefix,
)
from tamatar_auth.storage.repositories.users import USER_COLUMNS, NewUser, UserRow
from tamatar_auth.storage.tables import users
from tests.support.rows import new_session, new_user

DIGEST = b"d" * 32
HASH = "$2b$04$" + "a" * 53


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments, **named):
        async with database.transaction() as tx:
            repository = tx.user_lists if method in {"page", "count", "stats"} else tx.users
            return await getattr(repository, method)(*arguments, **named)

    return do


@pytest.fixture
async def ada(do):
    return await do(
        "add",
        new_user(
            email="ada@example.com",
            username="ada",
            password_hash=HASH,
            first_name="Ada",
            last_name="Lovelace",
            email_verified=True,
        ),
    )


class TestRead:
    """Users that are found."""

    async def test_get_finds_user_by_id_email_and_username(self, do, ada):
        assert await do("get", ada.id) == ada
        assert await do("get_by_email", "ada@example.com") == ada
        assert await do("get_by_username", "ada") == ada

    async def test_get_of_unknown_user_raises(self, do, ada):
        for method, key in (
            ("get", uuid4()),
            ("get_by_email", "Ada@example.com"),
            ("get_by_username", "%"),
        ):
            with pytest.raises(UserNotFound):
                await do(method, key)

    async def test_get_of_deleted_user_needs_deleted_filter(self, do, ada):
        gone = await do("delete", ada.id, deleted_by="operator")

        for method, key in (
            ("get", ada.id),
            ("get_by_email", ada.email),
            ("get_by_username", "ada"),
        ):
            with pytest.raises(UserNotFound):
                await do(method, key)
            assert await do(method, key, deleted=Deleted.INCLUDE) == gone
            assert await do(method, key, deleted=Deleted.ONLY) == gone

    async def test_get_prefers_live_over_deleted_user_of_same_email(self, do, ada):
        await do("delete", ada.id, deleted_by=None)
        second = await do("add", new_user(email=ada.email))
        second = await do("delete", second.id, deleted_by=None)
        assert await do("get_by_email", ada.email, deleted=Deleted.INCLUDE) == second

        third = await do("add", new_user(email=ada.email))
        assert await do("get_by_email", ada.email, deleted=Deleted.INCLUDE) == third
        assert await do("get_by_email", ada.email, deleted=Deleted.ONLY) == second

    async def test_find_many_returns_live_users_of_ids(self, do, ada):
        gone = await do("add", new_user())
        await do("delete", gone.id, deleted_by=None)

        assert await do("find_many", [ada.id, gone.id, uuid4(), ada.id]) == {ada.id: ada}
        assert await do("find_many", []) == {}


class TestUpdate:
    """Users that change."""

    async def test_full_name_follows_first_and_last_name(self, do, ada):
        changed = await do("update", ada.id, {"first_name": None})
        assert changed.full_name == "Lovelace"

        changed = await do("update", ada.id, {"last_name": None})
        assert changed.full_name == ""

    async def test_update_raises_version_and_updated_at(self, do, ada):
        changed = await do("update", ada.id, {"first_name": "Augusta"}, version=ada.version)

        assert (changed.first_name, changed.version) == ("Augusta", ada.version + 1)
        assert changed.updated_at > ada.updated_at
        assert changed.created_at == ada.created_at

    async def test_update_of_email_unverifies_it_only_if_changed(self, do, ada):
        assert (await do("update", ada.id, {"email": ada.email})).email_verified
        assert not (await do("update", ada.id, {"email": "new@example.com"})).email_verified

    async def test_update_or_delete_by_old_version_raises(self, do, ada):
        await do("update", ada.id, {"first_name": "Augusta"})

        with pytest.raises(EtagMismatch):
            await do("update", ada.id, {"first_name": "Byron"}, version=ada.version)
        with pytest.raises(EtagMismatch):
            await do("delete", ada.id, deleted_by=None, version=ada.version)

        assert (await do("get", ada.id)).first_name == "Augusta"

    async def test_concurrent_updates_by_one_version_one_succeeds(self, do, ada):
        ends = await asyncio.gather(
            *(do("update", ada.id, {"first_name": str(n)}, version=ada.version) for n in range(5)),
            return_exceptions=True,
        )

        assert sum(isinstance(end, UserRow) for end in ends) == 1
        assert sum(isinstance(end, EtagMismatch) for end in ends) == 4

    async def test_change_of_unknown_or_deleted_user_raises(self, do, ada):
        await do("delete", ada.id, deleted_by=None)

        for key in (ada.id, uuid4()):
            for change in (
                do("update", key, {"first_name": "x"}),
                do("update", key, {"first_name": "x"}, version=1),
                do("set_active", key, active=True),
                do("delete", key, deleted_by=None),
            ):
                with pytest.raises(UserNotFound):
                    await change

    async def test_set_active_bars_and_readmits_user(self, do, ada):
        barred = await do("set_active", ada.id, active=False)
        assert (barred.is_active, barred.version) == (False, ada.version + 1)
        assert barred.updated_at > ada.updated_at
        assert await do("set_active", ada.id, active=False) == barred

        assert (await do("set_active", ada.id, active=True)).is_active


class TestDelete:
    """Users that are deleted, restored and purged."""

    async def test_delete_records_time_and_actor(self, do, ada):
        gone = await do("delete", ada.id, deleted_by="operator", version=ada.version)

        assert (gone.is_active, gone.deleted_by) == (False, "operator")
        assert gone.deleted_at == gone.updated_at > ada.updated_at
        assert gone.version == ada.version + 1

    async def test_restore_returns_user_with_given_changes(self, do, ada):
        await do("delete", ada.id, deleted_by="operator")
        same = await do("restore", ada.id, {})
        assert same._replace(version=1, updated_at=ada.updated_at) == ada

        await do("delete", ada.id, deleted_by="operator")
        other = await do("restore", ada.id, {"email": "new@example.com"})
        assert (other.email, other.email_verified) == ("new@example.com", False)
        assert (other.deleted_at, other.deleted_by, other.is_active) == (None, None, True)

    async def test_restore_of_user_not_deleted_raises(self, do, ada):
        with pytest.raises(UserNotDeleted):
            await do("restore", ada.id, {})
        with pytest.raises(UserNotFound):
            await do("restore", uuid4(), {})

    @pytest.mark.parametrize("deleted_before", [False, True])
    async def test_purge_deletes_profile_and_sessions(self, database, do, ada, deleted_before):
        async with database.transaction() as tx:
            await tx.sessions.add(new_session(ada.id))
            await tx.connection.execute(
                text("INSERT INTO user_profiles (user_id) SELECT id FROM users")
            )
        if deleted_before:
            await do("delete", ada.id, deleted_by=None)

        await do("purge", ada.id)

        async with database.read() as db:
            for table in ("users", "user_profiles", "sessions"):
                rows = await db.connection.execute(text(f"TABLE {table}"))
                assert rows.all() == []
        with pytest.raises(UserNotFound):
            await do("purge", ada.id)


class TestAdd:
    """Users that are added, and requests that are repeated."""

    async def test_add_user_stores_values_and_defaults(self, do):
        new = NewUser(
            id=uuid4(),
            email="ada@example.com",
            username="ada",
            first_name="Ada",
            last_name="Lovelace",
            avatar_url="https://example.com/ada",
        )

        user = await do("add", new)

        assert user == UserRow(
            id=new.id,
            email="ada@example.com",
            username="ada",
            first_name="Ada",
            last_name="Lovelace",
            full_name="Ada Lovelace",
            avatar_url="https://example.com/ada",
            email_verified=False,
            is_active=True,
            version=1,
            created_at=user.updated_at,
            updated_at=user.created_at,
            last_login_at=None,
            deleted_at=None,
            deleted_by=None,
        )

    async def test_find_created_by_returns_user_of_request(self, do):
        key = uuid4()
        assert await do("find_created_by", key, DIGEST) is None
        user = await do("add", new_user(request_id=key, request_digest=DIGEST))

        assert await do("find_created_by", key, DIGEST) == user
        with pytest.raises(RequestIdReused):
            await do("find_created_by", key, b"other")

    async def test_concurrent_requests_of_one_id_create_one_user(self, database):
        key = uuid4()

        async def create():
            async with database.transaction() as tx:
                found = await tx.users.find_created_by(key, DIGEST)
                return found or await tx.users.add(new_user(request_id=key, request_digest=DIGEST))

        created = await asyncio.gather(*(create() for _ in range(5)))

        assert len({user.id for user in created}) == 1

    async def test_user_rows_hold_no_hash(self, database, ada):
        assert users.c.password_hash not in USER_COLUMNS
        assert HASH not in repr(ada)
        assert HASH not in repr(new_user(password_hash=HASH))
        async with database.transaction() as tx:
            seen = [
                await tx.users.get(ada.id),
                await tx.users.find_many([ada.id]),
                await tx.user_lists.page(UserFilter(), UserOrder(), size=10),
                await tx.users.update(ada.id, {"password_hash": HASH}),
                await tx.users.delete(ada.id, deleted_by=None),
                await tx.users.restore(ada.id, {}),
            ]
            stored = await tx.connection.execute(select(users.c.password_hash))
            assert stored.scalars().all() == [HASH]

        assert HASH not in repr(seen)


class TestPages:
    """Pages, counts and filters of users."""

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("column", ["created_at", "updated_at", "email"])
    async def test_user_pages_are_in_order(self, database, column, descending):
        async with database.transaction() as tx:  # so that all were created at one moment
            rows = [await tx.users.add(new_user()) for _ in range(7)]
        order, after, seen = UserOrder(column, descending), None, []

        async with database.snapshot() as db:
            while page := (await db.user_lists.page(UserFilter(), order, size=3, after=after)).rows:
                seen += page
                after = KeysetCursor(getattr(page[-1], column), page[-1].id)

        expected = sorted(rows, key=lambda row: (getattr(row, column), row.id), reverse=descending)
        assert seen == expected

    @pytest.mark.parametrize(
        ("matching", "expected"),
        [
            (UserFilter(), {"ann", "an_", "bob"}),
            (UserFilter(deleted=Deleted.INCLUDE), {"ann", "an_", "bob", "gone"}),
            (UserFilter(deleted=Deleted.ONLY), {"gone"}),
            (UserFilter(email_prefix="an"), {"ann", "an_"}),
            (UserFilter(email_prefix="an_"), {"an_"}),
            (UserFilter(email_prefix="%"), set()),
            (UserFilter(email_prefix="' OR ''='"), set()),
            (UserFilter(email_prefix=""), {"ann", "an_", "bob"}),
            (UserFilter(username_prefix="an_"), {"an_"}),
            (UserFilter(email_verified=True), {"bob"}),
            (UserFilter(email_verified=False), {"ann", "an_"}),
            (UserFilter(is_active=False), set()),
            (UserFilter(is_active=False, deleted=Deleted.INCLUDE), {"gone"}),
            (UserFilter(created_from=datetime(2020, 1, 1, tzinfo=UTC)), {"ann", "an_", "bob"}),
            (UserFilter(created_before=datetime(2020, 1, 1, tzinfo=UTC)), set()),
        ],
    )
    async def test_page_count_and_stats_obey_one_filter(self, do, matching, expected):
        for name in ("ann", "an_", "bob", "gone"):
            user = new_user(
                email=f"{name}@example.com", username=name, email_verified=name in {"bob", "gone"}
            )
            await do("add", user)
            if name == "gone":
                await do("delete", user.id, deleted_by=None)

        rows = (await do("page", matching, UserOrder(), size=10)).rows

        assert {row.username for row in rows} == expected
        assert await do("count", matching) == UserCount(len(expected))
        created = sorted(row.created_at for row in rows) or [None]
        assert await do("stats", matching) == (
            UserCount(len(expected)),
            created[0],
            created[-1],
        )

    async def test_creation_bounds_include_start_and_exclude_end(self, do, ada):
        at, later = ada.created_at, ada.created_at + timedelta(microseconds=1)

        assert await do("count", UserFilter(created_from=at, created_before=later)) == UserCount(1)
        assert await do("count", UserFilter(created_from=later)) == UserCount(0)
        assert await do("count", UserFilter(created_before=at)) == UserCount(0)

    @pytest.mark.parametrize(
        ("prefix", "above"),
        [
            ("ab", "ac"),
            ("a%", "a&"),
            ("\ud7ff", "\ue000"),
            ("a\U0010ffff", "b"),
            ("\U0010ffff", None),
            ("", None),
        ],
    )
    def test_after_prefix_is_least_text_above_prefix(self, prefix, above):
        assert after_prefix(prefix) == above

    @pytest.mark.parametrize("prefix", ["", "a", "\ud7ff", "a\U0010ffff", "\U0010ffff"])
    async def test_email_prefix_filter_finds_texts_with_prefix(self, do, prefix):
        found = [await do("add", new_user(email=prefix + end)) for end in ("!", "\U0010ffff")]
        await do("add", new_user(email="\u0001"))
        await do("add", new_user(email="b"))

        page = await do("page", UserFilter(email_prefix=prefix), UserOrder("email"), size=9)

        assert set(found) <= set(page.rows)
        assert all(user.email.startswith(prefix) for user in page.rows)
