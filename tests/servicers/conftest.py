"""Fixtures of the tests of servicers."""

import logging

import pytest
import structlog

from tests.support.call_statements import statements_of_calls
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
    with statements_of_calls(service) as seen:
        yield seen


@pytest.fixture
def logged_statements(caplog):
    """Return operations and tables of all statements, those that calls share included."""
    caplog.set_level(logging.DEBUG, "tamatar_auth.storage.instrumentation.queries")
    with structlog.testing.capture_logs() as lines:
        yield lambda: [
            (line["operation"], line["table"]) for line in lines if line["event"] == "statement"
        ]
