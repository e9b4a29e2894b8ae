"""Mutants of connections and responses: each lacks one protection."""

import asyncio
from typing import Any

from psycopg.waiting import READY_R, READY_RW, WAIT_W

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.interceptors import errors
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.server.database_monitor import DatabaseMonitor
from tamatar_auth.storage import database
from tamatar_auth.storage.driver import connect, connection
from tamatar_auth.storage.session_validation import connections
from tests.chaos.mutants import swap


def lends_dead_connections() -> None:
    """Lend connections without a check that they are still alive."""
    for module in (connect, database, connections):
        swap(module, "is_dead", lambda _: False)


def lets_exceptions_out() -> None:
    """Turn no exceptions into statuses."""
    swap(ErrorInterceptor, "wrap", lambda _self, behaviour, _method: behaviour)


def reveals_texts_of_exceptions() -> None:
    """Put the text of an exception into its status."""
    translate = errors._failure

    def revealing(error: Exception, *given: Any) -> Any:
        failure = translate(error, *given)
        swap(failure, "message", str(error))
        return failure

    swap(errors, "_failure", revealing)


def omits_retry_delay() -> None:
    """Omit RetryInfo from refusals that will pass."""
    swap(StorageUnavailable, "retry_after", None)


def registers_one_reader_for_an_answer() -> None:
    """Wait for all parts of an answer with one reader, which uvloop calls once after a reset."""

    async def wait(gen: Any, state: Any, socket: int, interval: float, on_idle: Any) -> Any:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(socket, readable.set)
        try:
            while True:
                try:
                    if not state & WAIT_W:
                        await asyncio.wait_for(readable.wait(), interval)
                except TimeoutError:
                    on_idle()
                    continue
                readable.clear()
                state = gen.send(READY_RW if state & WAIT_W else READY_R)
        except StopIteration as end:
            return end.value
        finally:
            loop.remove_reader(socket)

    swap(connection, "wait_for_result", wait)


def looks_at_its_database_once() -> None:
    """Never check a lost database again."""
    check = DatabaseMonitor.check

    async def once(self: Any) -> None:
        if self._readiness.problem in {None, "not checked yet"}:
            await check(self)

    swap(DatabaseMonitor, "check", once)


MUTANTS = (
    lends_dead_connections,
    lets_exceptions_out,
    reveals_texts_of_exceptions,
    omits_retry_delay,
    registers_one_reader_for_an_answer,
    looks_at_its_database_once,
)
