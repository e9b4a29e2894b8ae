"""A user for the tests of servicers."""

import pytest

from tests.calls import ada, verify


@pytest.fixture
async def user(users, database):
    """Ada, who can sign in."""
    created = await users.CreateUser(ada(username="ada"))
    await verify(database, created.user)
    return created.user
