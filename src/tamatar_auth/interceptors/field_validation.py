"""Checks each request against the field rules of its proto, before any work."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from tamatar_auth.errors import FieldViolation, InvalidFields
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method


class FieldValidationInterceptor(Interceptor):
    """Rejects a request that breaks a rule of its message.

    `find_violations` returns a violation for each broken rule.
    """

    def __init__(self, find_violations: Callable[[Message], Sequence[FieldViolation]]) -> None:
        self._find_violations = find_violations

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Check the one request of a call; streams are checked where they are read."""
        if method.request_streaming or not method.service.startswith("tamatar."):
            return behaviour
        find_violations = self._find_violations

        def checked(request: Message, context: Context) -> Awaitable[Any]:
            violations = find_violations(request)
            if violations:
                raise InvalidFields(*violations)
            return behaviour(request, context)

        return checked
