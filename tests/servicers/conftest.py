"""What the tests of servicers share."""

import pytest
from sqlalchemy import event

from tests.calls import ada, verify


@pytest.fixture
async def user(users, database):
    """Ada, who can sign in."""
    created = await users.CreateUser(ada(username="ada"))
    await verify(database, created.user)
    return created.user


@pytest.fixture
def statements(service):
    """The statements of the server."""
    seen = []

    def see(_connection, _cursor, statement, *_):
        seen.append(statement)

    engine = service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)
