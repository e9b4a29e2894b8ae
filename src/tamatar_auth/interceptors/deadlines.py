"""Ends unary calls that take too long and have no deadline of their caller."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from tamatar_auth.errors.storage import StorageTimedOut
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.interceptors.cancellation import CancellableCall

PASSWORD_METHODS = frozenset(
    {"CreateUser", "CreateSession", "CompleteStepUp", "ChangePassword", "ResetPassword"}
)
"""The methods that wait for a thread that hashes."""


class DeadlineInterceptor(Interceptor):
    """Sets a deadline for unary calls that have none. gRPC itself ends calls that have one."""

    def __init__(self, deadline: timedelta, password_deadline: timedelta) -> None:
        self._default_seconds = deadline.total_seconds()
        self._password_seconds = password_deadline.total_seconds()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Limit a unary method; a stream has no deadline."""
        if not method.is_unary:
            return behaviour
        hashes = method.name in PASSWORD_METHODS
        seconds = self._password_seconds if hashes else self._default_seconds

        def limited(request: Any, context: Context) -> Awaitable[Any]:
            answer = behaviour(request, context)
            if context.time_remaining() is not None:
                return answer
            call = CancellableCall()
            call.cancel_after(seconds, StorageTimedOut)
            return call.run(answer)

        return limited
