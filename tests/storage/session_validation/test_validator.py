"""Batches of validations: bounded in number and time, and counted in their call."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.instrumentation.call_record import (
    CallRecord,
    SampledCall,
    current_call,
)
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.session_validation import validator as module
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.validator import (
    MAX_BATCHES,
    LastActivityWriter,
    SessionValidator,
)
from tests.support.telemetry_capture import Recording

UNKNOWN = TokenKey(b"x" * 32)


async def waiting(database):
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with database.read() as db:
        return (await db.connection.execute(text(query))).scalar_one()


async def test_batch_waits_for_a_slot_up_to_a_limit(settings, database, monkeypatch):
    monkeypatch.setattr(module, "SLOT_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "READ_TIMEOUT", timedelta(minutes=1))
    dedicated_pool = DedicatedPool(settings.database, StatementObserver(60, None, None), 8)
    validator = SessionValidator(dedicated_pool, LastActivityWriter(), None)
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        stuck = [asyncio.create_task(validator.validate_all([UNKNOWN])) for _ in range(MAX_BATCHES)]
        while await waiting(database) < MAX_BATCHES:  # noqa: ASYNC110 - locks send no event
            await asyncio.sleep(0.01)
        with pytest.raises(ServerBusy):
            await validator.validate_all([UNKNOWN])

    await asyncio.gather(*stuck)
    assert len(await validator.validate_all([UNKNOWN])) == 1
    await validator.close()


async def test_batch_past_read_timeout_is_unavailable(settings, database, monkeypatch):
    monkeypatch.setattr(module, "READ_TIMEOUT", timedelta(seconds=0.1))
    validator = SessionValidator(
        DedicatedPool(settings.database, StatementObserver(60, None, None), 8),
        LastActivityWriter(),
        None,
    )
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        with pytest.raises(StorageUnavailable):
            await validator.validate_all([UNKNOWN])

    await validator.close()


async def test_batch_statement_belongs_to_span_of_its_call(settings):
    recording = Recording()
    observer = StatementObserver(60, recording.tracer, recording.meter)
    validator = SessionValidator(
        DedicatedPool(settings.database, observer, 8), LastActivityWriter(), None
    )
    with recording.tracer.start_as_current_span("call") as call:
        counted = SampledCall(call)
        token = current_call.set(CallRecord("Call", (counted,)))
        await validator.validate_all([UNKNOWN])
    current_call.reset(token)
    await validator.close()

    span = recording.span("SELECT sessions users")
    assert span.parent.span_id == call.get_span_context().span_id
    assert span.attributes["db.namespace"]
    assert span.attributes["server.port"]
    assert "$2::" in span.attributes["db.query.text"]
    assert counted.statements == 1
    assert not span.links


async def test_close_that_times_out_closes_idle_connections(settings, database):
    dedicated_pool = DedicatedPool(settings.database, StatementObserver(60, None, None), 8)
    validator = SessionValidator(dedicated_pool, LastActivityWriter(), None)
    async with dedicated_pool.acquire() as resting:
        await dedicated_pool.warm_up()
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        stuck = asyncio.ensure_future(validator.validate(UNKNOWN))
        while not await waiting(database):  # noqa: ASYNC110 - locks send no event
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await validator.close()

        assert dedicated_pool.count().idle == 0
        assert not stuck.done()

    await asyncio.wait({stuck})
    assert resting.closed
