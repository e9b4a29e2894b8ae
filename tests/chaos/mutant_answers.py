"""Connections and answers without one of their protections."""

from typing import Any

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.interceptors import errors
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.server.database_monitor import DatabaseMonitor
from tamatar_auth.storage import database
from tamatar_auth.storage.driver import connect
from tamatar_auth.storage.session_validation import connections
from tests.chaos.mutants import swap


def lends_dead_connections() -> None:
    """Nobody looks whether a connection that rested is still there."""
    for module in (connect, database, connections):
        swap(module, "is_dead", lambda _: False)


def lets_exceptions_out() -> None:
    """No interceptor makes statuses of exceptions."""
    swap(ErrorInterceptor, "wrap", lambda _self, behaviour, _method: behaviour)


def tells_texts_of_exceptions() -> None:
    """A status says what the exception said."""
    translate = errors._failure

    def telling(error: Exception, *given: Any) -> Any:
        failure = translate(error, *given)
        swap(failure, "message", str(error))
        return failure

    swap(errors, "_failure", telling)


def tells_no_time_to_retry() -> None:
    """A refusal that would pass does not say when to come again."""
    swap(StorageUnavailable, "retry_after", None)


def looks_at_its_database_once() -> None:
    """A server that lost its database does not look for it again."""
    check = DatabaseMonitor.check

    async def once(self: Any) -> None:
        if self._reported_problem in {None, "not looked at yet"}:
            await check(self)

    swap(DatabaseMonitor, "check", once)


SABOTAGES = (
    lends_dead_connections,
    lets_exceptions_out,
    tells_texts_of_exceptions,
    tells_no_time_to_retry,
    looks_at_its_database_once,
)
