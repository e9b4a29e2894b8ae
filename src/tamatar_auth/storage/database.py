"""The scopes in which every statement runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.opener import is_connecting
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.repositories.authentications import AuthenticationRepository
from tamatar_auth.storage.repositories.challenges import ChallengeRepository
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.diagnostics import DiagnosticsRepository
from tamatar_auth.storage.repositories.expired_rows import ExpiredRowsRepository
from tamatar_auth.storage.repositories.factors import FactorRepository
from tamatar_auth.storage.repositories.login_attempts import LoginAttemptRepository
from tamatar_auth.storage.repositories.passkeys import PasskeyRepository
from tamatar_auth.storage.repositories.profiles import ProfileRepository
from tamatar_auth.storage.repositories.proofs import ProofRepository
from tamatar_auth.storage.repositories.session_days import SessionDayRepository
from tamatar_auth.storage.repositories.session_rotation import RotationRepository
from tamatar_auth.storage.repositories.sessions import SessionRepository
from tamatar_auth.storage.repositories.user_export import ExportRepository
from tamatar_auth.storage.repositories.user_import import ImportRepository
from tamatar_auth.storage.repositories.user_lists import UserListRepository
from tamatar_auth.storage.repositories.user_tokens import UserTokenRepository
from tamatar_auth.storage.repositories.users import UserRepository

FILL_TIMEOUT = 10.0
"""Seconds that the start waits for a connection before it continues without."""


class PoolState(NamedTuple):
    """The pool of this process: connections lent, its size, and calls that wait."""

    in_use: int
    size: int
    waiting: int


class Scope:
    """The repositories over one connection."""

    def __init__(self, connection: AsyncConnection, idle_limit: timedelta | None = None) -> None:
        self.connection = connection
        self.users = UserRepository(connection)
        self.user_lists = UserListRepository(connection)
        self.profiles = ProfileRepository(connection)
        self.sessions = SessionRepository(connection, idle_limit)
        self.session_days = SessionDayRepository(connection)
        self.rotations = RotationRepository(connection, idle_limit)
        self.authentications = AuthenticationRepository(connection, idle_limit)
        self.credentials = CredentialRepository(connection)
        self.user_tokens = UserTokenRepository(connection)
        self.attempts = LoginAttemptRepository(connection)
        self.factors = FactorRepository(connection)
        self.passkeys = PasskeyRepository(connection)
        self.proofs = ProofRepository(connection)
        self.challenges = ChallengeRepository(connection)
        self.imports = ImportRepository(connection)
        self.exports = ExportRepository(connection)
        self.sweeps = ExpiredRowsRepository(connection)
        self.diagnostics = DiagnosticsRepository(connection)


class Database:
    """Opens the scopes. Nothing else in the codebase begins, commits or rolls back.

    A session that was unused for `idle_limit` is not live in any of them.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        orphaned: OrphanedStatements | None = None,
        *,
        idle_limit: timedelta | None = None,
    ) -> None:
        self.engine = engine
        self.idle_limit = idle_limit
        self._orphaned = orphaned or OrphanedStatements()
        self._transactional = engine.execution_options(isolation_level="READ COMMITTED")
        self._snapshot = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._acquire_timeout = _pool(engine).timeout()
        self._waiting = self._lent = 0
        self._last_lent = 0.0
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Scope]:
        """Open a scope for reading. Each statement is a transaction of its own."""
        async with self._connection(self.engine) as connection:
            yield Scope(connection, self.idle_limit)

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncIterator[Scope]:
        """Open a scope for writing. Each statement is a transaction of its own.

        Like a commit, a statement is not undone if its call is cancelled.
        """
        self._refuse_if_in_doubt()
        async with self._connection(self.engine) as connection:
            sync = connection.sync_connection
            driver = sync.connection.driver_connection if sync else None
            assert isinstance(driver, Connection)  # noqa: S101 - for the type checker
            driver.each_statement_commits = True
            try:
                yield Scope(connection, self.idle_limit)
            finally:
                driver.each_statement_commits = False

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Scope]:
        """Open a scope for several reads that see the database at one moment."""
        async with self._connection(self._snapshot) as connection, connection.begin():
            yield Scope(connection, self.idle_limit)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Scope]:
        """Open a scope that commits when it ends, and rolls back when it raises or is cancelled."""
        self._refuse_if_in_doubt()
        async with self._connection(self._transactional) as connection:
            self._refuse_if_in_doubt()  # commits may have got stuck while this waited
            async with connection.begin():
                yield Scope(connection, self.idle_limit)

    @contextlib.asynccontextmanager
    async def dry_run(self) -> AsyncIterator[Scope]:
        """Open a scope like `transaction` that is always rolled back."""
        async with (
            self._connection(self._transactional) as connection,
            connection.begin() as transaction,
        ):
            yield Scope(connection, self.idle_limit)
            await transaction.rollback()

    @property
    def pool(self) -> PoolState:
        """The state of the pool at this moment."""
        pool = _pool(self.engine)
        return PoolState(pool.checkedout(), pool.size(), self._waiting)

    async def fill_pool(self) -> None:
        """Open all connections of the pool, so that a first burst of calls does not wait.

        Calls that hold some already are not waited for: they would wait for this. A database
        that is not available, or out of connections, is ignored here.
        """
        pool = _pool(self.engine)
        async with contextlib.AsyncExitStack() as opened:
            with contextlib.suppress(exc.SQLAlchemyError, OSError, TimeoutError):
                while pool.overflow() < 0:  # the connections that are missing, below zero
                    async with asyncio.timeout(FILL_TIMEOUT):
                        await opened.enter_async_context(self.engine.connect())

    async def close(self) -> None:
        """Close the idle connections now, and the lent ones when they are released."""
        self._is_closed = True
        await self.engine.dispose()

    def _refuse_if_in_doubt(self) -> None:
        # No standby would acknowledge the write; one that changes nothing needs no acknowledgement.
        self._orphaned.fence.require_open()
        # A call that ended during its commit has left its connection and the pool. Without a
        # limit, a server that answers no commit would collect more and more connections.
        if self._orphaned.in_doubt >= self.pool.size:
            raise StorageUnavailable

    @contextlib.asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        self._waiting += 1
        began = monotonic()
        is_connecting.set(False)
        try:
            # The pool limits how long a call waits for a connection, but not how long it connects.
            async with asyncio.timeout(self._acquire_timeout):
                connection = await engine.connect()
        except exc.InvalidRequestError:  # new connections were closed before their first use
            raise StorageUnavailable from None
        except (exc.TimeoutError, TimeoutError):
            is_pool_in_use = self._lent or self._last_lent > began
            if is_connecting.get() or not is_pool_in_use:  # other calls were connecting too
                raise StorageUnavailable from None
            raise ServerBusy from None  # other calls have all connections
        finally:
            self._waiting -= 1
        self._lent += 1
        try:
            yield connection
        finally:
            self._lent -= 1
            self._last_lent = monotonic()
            if self._is_closed:  # the pool is gone
                await connection.invalidate()
            await connection.close()


def _pool(engine: AsyncEngine) -> AsyncAdaptedQueuePool:
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)  # noqa: S101 - for the type checker
    return engine.pool
