"""Fixtures of the tests of servicers."""

import logging

import pytest
import structlog
from sqlalchemy import event

from tests.support.calls import ada, verify


@pytest.fixture
async def user(users, database):
    """Ada, who can sign in."""
    created = await users.CreateUser(ada(username="ada"))
    await verify(database, created.user)
    return created.user


@pytest.fixture
def statements(service):
    """The statements of the server, except those that calls share."""
    seen = []

    def see(_connection, _cursor, statement, *_):
        seen.append(statement)

    engine = service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


@pytest.fixture
def logged_statements(caplog):
    """Return operations and tables of all statements, those that calls share included."""
    caplog.set_level(logging.DEBUG, "tamatar_auth.storage.instrumentation.queries")
    with structlog.testing.capture_logs() as lines:
        yield lambda: [
            (line["operation"], line["table"]) for line in lines if line["event"] == "statement"
        ]
