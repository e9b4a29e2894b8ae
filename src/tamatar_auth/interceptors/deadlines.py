"""Ends unary calls that take too long and whose caller has set no deadline."""

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Self

from grpc.aio import ServicerContext

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors.storage import StorageTimedOut
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method

PASSWORD_METHODS = frozenset({"CreateUser", "CreateSession", "ChangePassword", "ResetPassword"})
"""The methods that wait for a thread that hashes."""

RECANCEL_INTERVAL = 0.03
"""Seconds after which a call that was told to end, and goes on, is told again."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long calls may take."""

    default: timedelta
    password: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take what the settings say."""
        return cls(settings.call_deadline, settings.password_call_deadline)


class DeadlineInterceptor(Interceptor):
    """Gives a deadline to unary calls that have none. gRPC itself ends those that have one."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._default_limit = _SharedTimeout(deadlines.default.total_seconds())
        self._password_limit = _SharedTimeout(deadlines.password.total_seconds())

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Limit a unary method; streams may go on for ever."""
        if not method.is_unary:
            return behaviour
        limit = self._password_limit if method.name in PASSWORD_METHODS else self._default_limit

        def limited(request: Any, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
            answer = behaviour(request, context)
            return answer if context.time_remaining() is not None else limit.run(answer)

        return limited


class _SharedTimeout:
    """One and the same time for many calls.

    So they end in the order in which they began, and one timer serves them all: a timer of its
    own would cost each call more than the rest of what is done here.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._overdue: dict[asyncio.Task[Any], int] = {}
        """How often each was told to end."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, answer: Awaitable[Any]) -> Any:
        """Return the answer, or raise `StorageTimedOut` when it takes too long."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        self._deadlines[task] = monotonic() + self._seconds
        if self._timer is None:
            self._schedule(self._seconds)
        try:
            return await answer
        except asyncio.CancelledError:
            if task not in self._overdue or self._uncancel(task):  # the caller went away, too
                raise
            raise StorageTimedOut from None
        finally:
            self._deadlines.pop(task, None)
            if self._overdue:
                self._uncancel(task)

    def _cancel_overdue(self) -> None:
        """End the calls whose time is over, and look again when that of the next one is."""
        now = monotonic()
        while self._deadlines:
            task, end = next(iter(self._deadlines.items()))
            if end > now:
                break
            del self._deadlines[task]
            self._overdue[task] = 0
        for task in self._overdue:
            self._overdue[task] += 1
            task.cancel()
        if self._overdue:
            self._schedule(RECANCEL_INTERVAL)
        elif self._deadlines:
            self._schedule(next(iter(self._deadlines.values())) - now)
        else:
            self._timer = None

    def _schedule(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        # In a context of its own: that of the call would be kept beyond the call.
        self._timer = loop.call_later(seconds, self._cancel_overdue, context=Context())

    def _uncancel(self, task: "asyncio.Task[Any]") -> int:
        """Forget how often a call was told to end; return how often others told it so."""
        for _ in range(self._overdue.pop(task, 0)):
            task.uncancel()
        return task.cancelling()
