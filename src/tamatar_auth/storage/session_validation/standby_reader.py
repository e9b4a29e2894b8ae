"""Validations from standbys: an answer is as fresh as one of the primary, or is read there.

The primary says how far its WAL is once the calls of a group have arrived. A standby that has
replayed as much has every commit that was acknowledged before.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import timedelta
from time import monotonic
from typing import TypeAlias

import psycopg
import structlog
from opentelemetry.metrics import Meter, Observation
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors import Failure
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.repositories.primary_terms import PrimaryTermRepository
from tamatar_auth.storage.repositories.token_keys import NO_DAY, TokenKey
from tamatar_auth.storage.session_validation.batch_loader import TakeKeys
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.primary_position import (
    PrimaryPosition,
    primary_position,
    read_position,
)
from tamatar_auth.storage.session_validation.statement import (
    DIGEST,
    ValidatedRow,
    by_key,
    of_days,
    sessions_at_time,
)
from tamatar_auth.storage.session_validation.statement_pairs import Rows, StatementPair

STANDBY_TIMEOUT = 0.15
"""Seconds that a standby delays a group of validations before the primary is read."""

PROBE_TIMEOUT = 2.0
"""Seconds in which a new connection must have opened and planned its statements. No call waits."""

FIRST_POLL, LAST_POLL = 0.001, 0.016
"""Seconds between two looks at a standby that has not replayed enough. A wait inside of
PostgreSQL would hold a snapshot, and replay might wait for that."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds for which a standby that failed is left alone."""

# The term proves that the standby follows this primary. Positions on other timelines say nothing.
_obstacle = text("""
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'promoted'
                WHEN current_setting('transaction_isolation') <> 'read committed'
                THEN 'isolation'
                WHEN (pg_last_wal_replay_lsn() >= CAST(:lsn AS pg_lsn)) IS NOT TRUE THEN 'behind'
                WHEN NOT EXISTS (SELECT FROM primary_terms WHERE term = CAST(:term AS uuid))
                THEN 'other_primary' END
""").execution_options(summary="SELECT primary_terms")

_NO_TOKEN = TokenKey(bytes(32), NO_DAY)

_TRANSIENT = ("behind", "other_primary")

ReadPrimary: TypeAlias = Callable[[TakeKeys[TokenKey]], Awaitable[Mapping[TokenKey, ValidatedRow]]]

log = structlog.get_logger(__name__)


class StandbyUnusableError(Exception):
    """The standby gave no answer that is fresh for certain. The text is the reason."""


_STANDBY_ERRORS = (psycopg.Error, OSError, TimeoutError, StandbyUnusableError)


class StandbyReader:
    """Reads sessions from standbys, and from the primary while they are of no use."""

    def __init__(
        self, primary: DedicatedPool, standbys: DedicatedPool, meter: Meter | None = None
    ) -> None:
        self._primary, self._standbys = primary, standbys
        self._position = primary.statement(primary_position(primary.acknowledged_within))
        self._pair = StatementPair(
            standbys.statement(_obstacle), standbys.statement(sessions_at_time)
        )
        self.problem: str | None = "not checked yet"
        """Why no standby is read, or None."""
        self._failed = asyncio.Event()
        self.validations: Counter[str] = Counter()
        """The validations by where they were read: `standby`, or why on the primary."""
        if meter is not None:
            _register_metrics(self.validations, meter)

    async def read(
        self, read_primary: ReadPrimary, take_keys: TakeKeys[TokenKey], idle_limit: timedelta | None
    ) -> Mapping[TokenKey, ValidatedRow]:
        """Return the rows of sessions as `read_primary` does, from a standby if possible."""
        taken: Collection[TokenKey] | None = None

        def take() -> Collection[TokenKey]:
            nonlocal taken
            taken = take_keys() if taken is None else taken
            return taken

        source = "paused"
        if self.problem is None:
            try:
                rows = await self._read_standby(take, idle_limit, STANDBY_TIMEOUT)
            except _STANDBY_ERRORS as error:
                source = self._give_up(error)
            else:
                self.validations["standby"] += len(taken or ())
                return rows
        rows = await read_primary(take)
        self.validations[source] += len(taken or ())
        return rows

    async def maintain(self, database: Database) -> None:
        """Look for a usable standby, again whenever one has failed, until cancelled."""
        pause = SHORTEST_PAUSE
        while True:
            while not await self._try_standby(database):
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause = min(2 * pause, LONGEST_PAUSE)
            self._failed.clear()
            self._set_problem(None)
            since = monotonic()
            await self._failed.wait()
            if monotonic() - since > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def close(self) -> None:
        """Close the connections to standbys."""
        await self._standbys.close()

    async def _try_standby(self, database: Database) -> bool:
        try:
            async with self._primary.acquire() as primary:
                position = await read_position(self._position, primary)
            if position.lsn is not None and position.term is None:
                async with database.transaction() as tx:
                    await PrimaryTermRepository(tx.connection).begin()
            for timeout in (PROBE_TIMEOUT, STANDBY_TIMEOUT):
                await self._read_standby(lambda: [_NO_TOKEN], None, timeout)
        except _STANDBY_ERRORS as error:
            self._give_up(error)
            return False
        except (SQLAlchemyError, Failure) as error:  # the primary
            self._set_problem(type(error).__name__)
            return False
        return True

    async def _read_standby(
        self,
        take_keys: Callable[[], Collection[TokenKey]],
        idle_limit: timedelta | None,
        timeout: float,  # noqa: ASYNC109 - the time of the primary does not count
    ) -> Mapping[TokenKey, ValidatedRow]:
        async with asyncio.timeout(timeout) as limit, self._standbys.acquire() as standby:
            # Nothing is faster without the primary.
            limit.reschedule(None)
            async with self._primary.acquire() as primary:
                keys = set(take_keys())
                if not keys:  # all calls were cancelled
                    return {}
                position = await read_position(self._position, primary)
            limit.reschedule(asyncio.get_running_loop().time() + timeout)
            values = {**_values(position), **of_days(keys), "idle_limit": idle_limit}
            rows = await self._read_when_replayed(standby, values, monotonic() + timeout)
            return by_key(keys, {row[DIGEST]: row[:DIGEST] for row in rows})

    async def _read_when_replayed(
        self, standby: Connection, values: Mapping[str, object], deadline: float
    ) -> Rows:
        poll = FIRST_POLL
        while True:
            ((obstacle,),), rows = await self._pair.rows(standby, **values)
            if obstacle is None:
                return rows
            if obstacle not in _TRANSIENT or monotonic() + poll > deadline:
                raise StandbyUnusableError(obstacle)
            await asyncio.sleep(poll)
            poll = min(2 * poll, LAST_POLL)

    def _give_up(self, error: Exception) -> str:
        """Leave the standbys alone for a while, and return why."""
        reason = _reason(error)
        if not isinstance(error, TimeoutError):
            # With several hosts in the URL, another standby may be usable.
            self._standbys.invalidate()
        self._failed.set()
        self._set_problem(reason)
        return reason

    def _set_problem(self, why: str | None) -> None:
        if why == self.problem:
            return
        self.problem = why
        if why is None:
            log.info("validations read standbys")
        else:
            log.warning("validations read the primary", why=why)


def _values(position: PrimaryPosition) -> Mapping[str, object]:
    """Return the parameters of a position, or raise `StandbyUnusableError`."""
    if position.lsn is None or position.term is None:
        raise StandbyUnusableError("no_primary" if position.lsn is None else "no_term")
    if not position.is_confirmed:  # reading the primary refuses the calls, and closes the fence
        raise StandbyUnusableError("unconfirmed")
    return position._asdict()


def _reason(error: Exception) -> str:
    if isinstance(error, StandbyUnusableError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "late"
    return sqlstates.sqlstate(error) or "unavailable"


def _register_metrics(validations: Counter[str], meter: Meter) -> None:
    def read() -> Iterable[Observation]:
        for source, count in list(validations.items()):
            yield Observation(count, {semconv.VALIDATION_SOURCE: source})

    observe_counter(
        meter,
        semconv.VALIDATIONS,
        read,
        unit="{validation}",
        description="The validations by the server that was read, or why it was the primary.",
    )
