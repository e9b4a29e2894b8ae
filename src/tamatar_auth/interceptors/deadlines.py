"""Ends unary calls that take too long and have no deadline of their caller."""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from grpc.aio import ServicerContext

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors.storage import StorageTimedOut
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.interceptors.cancellation import CancellableCall

PASSWORD_METHODS = frozenset({"CreateUser", "CreateSession", "ChangePassword", "ResetPassword"})
"""The methods that wait for a thread that hashes."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The time that calls may take."""

    default: timedelta
    password: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the values of the settings."""
        return cls(settings.call_deadline, settings.password_call_deadline)


class DeadlineInterceptor(Interceptor):
    """Sets a deadline for unary calls that have none. gRPC itself ends calls that have one."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._default_seconds = deadlines.default.total_seconds()
        self._password_seconds = deadlines.password.total_seconds()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Limit a unary method; a stream has no deadline."""
        if not method.is_unary:
            return behaviour
        hashes = method.name in PASSWORD_METHODS
        seconds = self._password_seconds if hashes else self._default_seconds

        def limited(request: Any, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
            answer = behaviour(request, context)
            if context.time_remaining() is not None:
                return answer
            call = CancellableCall()
            call.cancel_after(seconds, StorageTimedOut)
            return call.run(answer)

        return limited
