"""ProfileRepository: every method, on a real database."""

from uuid import uuid4

import pytest
from sqlalchemy import select

from tamatar_auth.errors.users import UserNotFound
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.tables import user_profiles
from tests.support.rows import new_user

PROFILE = ProfileRow("Ada", "Counts.", "en-GB", "Europe/London")


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
        await tx.profiles.add(user.id, PROFILE)
    return user


async def test_added_profile_is_returned_by_get(database, user):
    async with database.read() as db:
        assert await db.profiles.get(user.id) == PROFILE


async def test_empty_profile_is_added(database):
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())

        assert await tx.profiles.add(user.id, ProfileRow()) == (None, None, None, None)


async def test_profile_update_changes_named_fields_and_updated_at(database, user):
    async with database.transaction() as tx:
        changed = await tx.profiles.update(user.id, {"bio": None, "locale": "fr"})

    assert changed == PROFILE._replace(bio=None, locale="fr")
    async with database.read() as db:
        moments = select(user_profiles.c.created_at, user_profiles.c.updated_at)
        created, updated = (await db.connection.execute(moments)).one()
    assert updated > created


async def test_profile_of_unknown_user_raises_user_not_found(database):
    async with database.transaction() as tx:
        with pytest.raises(UserNotFound):
            await tx.profiles.get(uuid4())
        with pytest.raises(UserNotFound):
            await tx.profiles.update(uuid4(), {"bio": "x"})
