"""Fixtures of the tests of storage."""

import contextlib
from datetime import timedelta

import pytest

from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.validator import LastActivityWriter, SessionValidator

UNWATCHED = StatementObserver(timedelta(hours=1).total_seconds(), None, None)


@pytest.fixture
async def dedicated_pool(settings):
    """A pool of connections that serves one kind of statement."""
    dedicated_pool = DedicatedPool(settings.database, UNWATCHED, 8)
    yield dedicated_pool
    await dedicated_pool.close()


@pytest.fixture
async def validator(settings, database):
    """Return a function that builds a `SessionValidator` with an idle limit."""
    async with contextlib.AsyncExitStack() as built:

        def build(idle_limit=None):
            dedicated_pool = DedicatedPool(settings.database, UNWATCHED, 8)
            validator = SessionValidator(dedicated_pool, LastActivityWriter(), idle_limit)
            built.push_async_callback(validator.close)
            return validator

        yield build
