"""Fixtures of the storage's tests."""

import contextlib
from datetime import timedelta

import pytest

from tamatar_auth.storage.activity import Activity
from tamatar_auth.storage.queries import QueryWatch
from tamatar_auth.storage.reserved import ReservedConnections
from tamatar_auth.storage.validation import SessionValidation

UNWATCHED = QueryWatch(timedelta(hours=1).total_seconds(), None, None)


@pytest.fixture
async def reserved(patient):
    """Connections that are kept for one kind of statement."""
    reserved = ReservedConnections(patient, UNWATCHED, 8)
    yield reserved
    await reserved.close()


@pytest.fixture
async def validation(patient, database):
    """Build what validates tokens, by the idle limit of their sessions."""
    async with contextlib.AsyncExitStack() as built:

        def build(idle_limit=None):
            reserved = ReservedConnections(patient, UNWATCHED, 8)
            validation = SessionValidation(reserved, Activity(), idle_limit)
            built.push_async_callback(validation.close)
            return validation

        yield build
