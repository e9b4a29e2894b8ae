"""Registers servicers: wraps their handlers in the interceptors, and records their methods."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc

from tamatar_auth.interceptors.base import Handler, HandlerInterceptor, Method

ANY = "*"


class HandlerRegistry:
    """Takes the place of a server while servicers are added.

    Each handler is wrapped once; gRPC would ask its interceptors for a handler on every call.
    The outermost interceptor comes first.
    """

    def __init__(self, server: grpc.aio.Server, interceptors: Sequence[HandlerInterceptor]) -> None:
        self._server = server
        self._interceptors = interceptors
        self.by_service: dict[str, Collection[str]] = {}
        """The names of the methods of each service."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add a service with the handlers of its methods."""
        self.by_service[service] = tuple(handlers)
        wrapped = {
            name: self._wrap(handler, Method.of(service, name, handler))
            for name, handler in handlers.items()
        }
        self._server.add_registered_method_handlers(service, wrapped)
        # grpcio before 1.84 ignores registered handlers.
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, wrapped)]
        )

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Record a service. Its calls are answered by the registered handlers alone."""
        for handler in handlers:
            name = getattr(handler, "service_name", lambda: ANY)
            # No access rule names this method, so a server with an unknown handler does not start.
            self.by_service.setdefault(name(), (ANY,))

    def _wrap(self, handler: Handler, method: Method) -> Any:
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap_handler(handler, method)
        return handler
