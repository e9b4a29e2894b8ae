"""CredentialRepository: every method, on a real database."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import select

from tamatar_auth.errors.users import Cause, InvalidCredentials, UserTokenInvalid
from tamatar_auth.storage.repositories.credentials import NO_CREDENTIALS, Credentials
from tamatar_auth.storage.repositories.user_tokens import EmailChange, TokenOwner
from tamatar_auth.storage.repositories.users import UserRow
from tamatar_auth.storage.tables import users
from tests.support.rows import new_user

HASH = "$2b$04$" + "a" * 53
NEW_HASH = "$2b$04$" + "b" * 53


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments, **named):
        async with database.transaction() as tx:
            return await getattr(tx.credentials, method)(*arguments, **named)

    return do


@pytest.fixture
def change(database):
    """Run one method of the users in a transaction of its own."""

    async def change(method, *arguments, **named):
        async with database.transaction() as tx:
            return await getattr(tx.users, method)(*arguments, **named)

    return change


@pytest.fixture
async def ada(change):
    return await change(
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


@pytest.fixture
def owner(ada):
    return TokenOwner(ada.id, ada.email)


@pytest.fixture
def stored(database):
    """Return the hash in the one row."""

    async def stored():
        async with database.read() as db:
            return (await db.connection.execute(select(users.c.password_hash))).scalar_one()

    return stored


GONE = {
    "inactive": ("set_active", {"active": False}),
    "deleted": ("delete", {"deleted_by": None}),
}


class TestFind:
    """Credentials that are found, or not."""

    async def test_find_by_each_name_returns_same_credentials(self, do, ada):
        found = await do("find_by_email", "ada@example.com")

        assert found == Credentials(
            user_id=ada.id,
            email="ada@example.com",
            password_hash=HASH,
            is_active=True,
            username="ada",
            first_name="Ada",
            last_name="Lovelace",
            full_name="Ada Lovelace",
        )
        assert found == await do("find_by_username", "ada") == await do("find_by_user_id", ada.id)

    async def test_find_of_unknown_user_returns_no_credentials(self, do, ada):
        assert await do("find_by_email", "Ada@example.com") is NO_CREDENTIALS
        assert await do("find_by_username", "%") is NO_CREDENTIALS
        assert await do("find_by_user_id", uuid4()) is NO_CREDENTIALS

    async def test_find_of_deleted_user_returns_no_credentials(self, do, change, ada):
        await change("delete", ada.id, deleted_by=None)

        assert await do("find_by_email", ada.email) is NO_CREDENTIALS
        assert await do("find_by_username", "ada") is NO_CREDENTIALS
        assert await do("find_by_user_id", ada.id) is NO_CREDENTIALS

    async def test_credentials_of_inactive_user_have_no_usable_hash(self, do, change, ada):
        await change("set_active", ada.id, active=False)

        found = await do("find_by_email", ada.email)

        assert (found.user_id, found.password_hash, found.usable_hash) == (ada.id, HASH, None)

    async def test_usable_hash_of_active_user_is_its_hash(self, do, ada):
        assert (await do("find_by_email", ada.email)).usable_hash == HASH
        assert NO_CREDENTIALS.usable_hash is None

    async def test_credentials_names_list_all_names_of_user(self, do, change, ada):
        found = await do("find_by_email", ada.email)
        assert list(found.names) == ["ada@example.com", "ada", "Ada", "Lovelace", "Ada Lovelace"]

        unnamed = await change("add", new_user(email="nameless@example.com"))
        assert list((await do("find_by_user_id", unnamed.id)).names) == ["nameless@example.com"]
        assert list(NO_CREDENTIALS.names) == []

    async def test_credentials_repr_holds_no_hash_or_email(self, do, ada):
        found = await do("find_by_email", ada.email)

        for secret in (HASH, ada.email):
            assert secret not in repr(found)


class TestSignIn:
    """Sign-ins that are recorded."""

    async def test_record_sign_in_keeps_version(self, do, ada, stored):
        user, _ = await do("record_sign_in", await do("find_by_user_id", ada.id))

        assert user.last_login_at == user.updated_at > ada.updated_at
        assert user.version == ada.version
        assert await stored() == HASH

    async def test_record_sign_in_stores_new_hash(self, do, ada, stored):
        user, _ = await do("record_sign_in", await do("find_by_user_id", ada.id), new_hash=NEW_HASH)

        assert user.version == ada.version
        assert await stored() == NEW_HASH

    async def test_record_sign_in_without_verified_email_renews_hash_only(
        self, do, change, ada, stored
    ):
        await change("update", ada.id, {"email": "new@example.com"})

        user, _ = await do("record_sign_in", await do("find_by_user_id", ada.id), new_hash=NEW_HASH)

        assert (user.email_verified, user.last_login_at) == (False, None)
        assert await stored() == NEW_HASH

    @pytest.mark.parametrize("how", ["inactive", "deleted", "changed"])
    async def test_credentials_checked_before_change_are_refused(
        self, do, change, ada, stored, how
    ):
        checked = await do("find_by_email", ada.email)
        if how == "changed":
            await do("replace", checked, "another")
        else:
            name, values = GONE[how]
            await change(name, ada.id, **values)
        before = await stored()

        for method in ("record_sign_in", "replace"):
            with pytest.raises(InvalidCredentials) as refusal:
                await do(method, checked, new_hash=NEW_HASH)
            details = refusal.value.audit_details
            assert details == {"cause": Cause.CHANGED_MEANWHILE, "user_id": str(ada.id)}

        assert await stored() == before

    @pytest.mark.parametrize("method", ["record_sign_in", "replace"])
    async def test_missing_password_is_neither_signed_in_nor_replaced(
        self, do, ada, stored, method
    ):
        known = await do("find_by_user_id", ada.id)
        for checked in (
            NO_CREDENTIALS,
            replace(known, password_hash=None),
            replace(known, user_id=uuid4()),
        ):
            with pytest.raises(InvalidCredentials):
                await do(method, checked, new_hash=NEW_HASH)

        assert await stored() == HASH


class TestChanges:
    """Passwords and addresses that change."""

    async def test_replaced_password_is_new_version_and_no_sign_in(self, do, ada, stored):
        user = await do("replace", await do("find_by_user_id", ada.id), NEW_HASH)

        assert await stored() == NEW_HASH
        assert (user.version, user.last_login_at) == (ada.version + 1, None)
        assert user.updated_at > ada.updated_at

    async def test_concurrent_password_replacements_one_succeeds(self, do, ada, stored):
        checked = await do("find_by_user_id", ada.id)

        ends = await asyncio.gather(
            *(do("replace", checked, f"hash {n}") for n in range(5)), return_exceptions=True
        )

        assert sum(isinstance(end, UserRow) for end in ends) == 1
        assert sum(isinstance(end, InvalidCredentials) for end in ends) == 4
        winner = next(n for n, end in enumerate(ends) if isinstance(end, UserRow))
        assert await stored() == f"hash {winner}"

    async def test_reset_without_password_sets_hash_and_version(
        self, do, change, owner, ada, stored
    ):
        await change("update", ada.id, {"password_hash": None})

        user = await do("reset", owner, NEW_HASH)

        assert await stored() == NEW_HASH
        assert user.version == ada.version + 2

    async def test_verify_email_raises_version(self, do, change, owner, ada):
        await change("update", ada.id, {"email_verified": False})

        user = await do("verify_email", owner)

        assert (user.email_verified, user.version) == (True, ada.version + 2)

    async def test_change_email_sets_it_verified_and_raises_version(self, do, change, owner, ada):
        await change("update", ada.id, {"email_verified": False})

        user = await do("change_email", EmailChange(owner, "new@example.com"))

        assert (user.email, user.email_verified) == ("new@example.com", True)
        assert user.version == ada.version + 2

    @pytest.mark.parametrize("how", ["inactive", "deleted", "another address", "unknown"])
    async def test_token_of_changed_owner_is_refused(self, do, change, owner, stored, how):
        if how in GONE:
            name, values = GONE[how]
            await change(name, owner.user_id, **values)
        elif how == "unknown":
            owner = owner._replace(user_id=uuid4())
        else:
            await change("update", owner.user_id, {"email": "new@example.com"})

        with pytest.raises(UserTokenInvalid):
            await do("reset", owner, NEW_HASH)
        with pytest.raises(UserTokenInvalid):
            await do("verify_email", owner)
        with pytest.raises(UserTokenInvalid):
            await do("change_email", EmailChange(owner, "third@example.com"))

        assert await stored() == HASH

    async def test_credentials_methods_return_no_hash(self, do, owner, ada):
        checked = await do("find_by_user_id", ada.id)

        seen = [
            await do("record_sign_in", checked, new_hash=NEW_HASH),
            await do("replace", replace(checked, password_hash=NEW_HASH), HASH),
            await do("verify_email", owner),
            await do("reset", owner, NEW_HASH),
            await do("change_email", EmailChange(owner, "new@example.com")),
        ]

        for secret in (HASH, NEW_HASH):
            assert secret not in repr(seen)
