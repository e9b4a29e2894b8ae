"""Fixtures of the storage's tests."""

import contextlib
from datetime import timedelta

import pytest

from tamatar_auth.storage.instrumentation.queries import QueryWatch
from tamatar_auth.storage.session_validation.connections import ReservedConnections
from tamatar_auth.storage.session_validation.last_activity import Activity
from tamatar_auth.storage.session_validation.validator import SessionValidation

UNWATCHED = QueryWatch(timedelta(hours=1).total_seconds(), None, None)


@pytest.fixture
async def reserved(settings):
    """Connections that are kept for one kind of statement."""
    reserved = ReservedConnections(settings, UNWATCHED, 8)
    yield reserved
    await reserved.close()


@pytest.fixture
async def validation(settings, database):
    """Build what validates tokens, by the idle limit of their sessions."""
    async with contextlib.AsyncExitStack() as built:

        def build(idle_limit=None):
            reserved = ReservedConnections(settings, UNWATCHED, 8)
            validation = SessionValidation(reserved, Activity(), idle_limit)
            built.push_async_callback(validation.close)
            return validation

        yield build
