"""Batches of validations: few at once, none for ever, and each a statement of its call."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.instrumentation.queries import QueryWatch, Tally, tally
from tamatar_auth.storage.session_validation import validator as module
from tamatar_auth.storage.session_validation.connections import ReservedConnections
from tamatar_auth.storage.session_validation.last_activity import Activity
from tamatar_auth.storage.session_validation.validator import MOST_BATCHES, SessionValidation
from tests.support.telemetry_capture import Recording

UNKNOWN = b"x" * 32


async def waiting(database):
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with database.read() as db:
        return (await db.connection.execute(text(query))).scalar_one()


async def test_a_batch_waits_for_its_turn_and_not_for_ever(settings, database, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(module, "LONGEST_READ", timedelta(minutes=1))
    reserved = ReservedConnections(settings, QueryWatch(60, None, None), 8)
    validation = SessionValidation(reserved, Activity(), None)
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        stuck = [asyncio.create_task(validation.each([UNKNOWN])) for _ in range(MOST_BATCHES)]
        while await waiting(database) < MOST_BATCHES:  # noqa: ASYNC110 - locks tell nobody
            await asyncio.sleep(0.01)
        with pytest.raises(StorageUnavailable):
            await validation.each([UNKNOWN])

    await asyncio.gather(*stuck)
    assert len(await validation.each([UNKNOWN])) == 1
    await validation.close()


async def test_a_batch_that_is_stuck_is_given_up(settings, database, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_READ", timedelta(seconds=0.1))
    validation = SessionValidation(
        ReservedConnections(settings, QueryWatch(60, None, None), 8), Activity(), None
    )
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        with pytest.raises(StorageUnavailable):
            await validation.each([UNKNOWN])

    await validation.close()


async def test_the_statement_of_a_batch_is_one_of_its_call(settings):
    recording = Recording()
    watch = QueryWatch(60, recording.tracer, recording.meter)
    validation = SessionValidation(ReservedConnections(settings, watch, 8), Activity(), None)
    counted = Tally()
    token = tally.set(counted)
    with recording.tracer.start_as_current_span("call") as call:
        await validation.each([UNKNOWN])
    tally.reset(token)
    await validation.close()

    span = recording.span("SELECT sessions users")
    assert span.parent.span_id == call.get_span_context().span_id
    assert span.attributes["db.namespace"]
    assert span.attributes["server.port"]
    assert "$2::" in span.attributes["db.query.text"]
    assert counted.statements == 1


async def test_an_end_that_takes_too_long_still_closes_the_connections_that_rest(
    settings, database
):
    reserved = ReservedConnections(settings, QueryWatch(60, None, None), 8)
    validation = SessionValidation(reserved, Activity(), None)
    async with reserved.lend() as resting:
        await reserved.fill()
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        stuck = asyncio.ensure_future(validation.one(UNKNOWN))
        while not await waiting(database):  # noqa: ASYNC110 - locks tell nobody
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await validation.close()

        assert reserved.count().idle == 0
        assert not stuck.done()

    await asyncio.wait({stuck})
    assert resting.closed
