"""Checks each request against the rules that stand in the proto, before any work."""

from collections.abc import Awaitable
from typing import Any

from google.protobuf.message import Message
from grpc.aio import ServicerContext

from tamatar_auth.errors import InvalidFields
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.rules import Rules, told


class ValidationInterceptor(Interceptor):
    """Refuses a request that breaks a rule of its message."""

    def __init__(self) -> None:
        self._rules = Rules()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Check the one request of a call; streams are checked where they are read."""
        if method.takes_stream or not method.service.startswith("tamatar."):
            return behaviour
        find = self._rules.find

        def checked(request: Message, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
            violations = find(request)
            if violations:
                raise InvalidFields(*told(violations))
            return behaviour(request, context)

        return checked
