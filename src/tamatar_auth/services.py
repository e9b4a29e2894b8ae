"""Which methods a server answers."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc

ANY = "*"


class AnsweredMethods:
    """Stands before a server while servicers are added, and notes what they answer."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._methods: dict[str, Collection[str]] = {}

    @property
    def by_service(self) -> Mapping[str, Collection[str]]:
        """The names of the methods of each service."""
        return self._methods

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service by its methods."""
        self._methods[service] = tuple(handlers)
        self._server.add_registered_method_handlers(service, dict(handlers))

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services whose methods are told by the other function."""
        for handler in handlers:
            name = getattr(handler, "service_name", lambda: ANY)
            # Whatever it may answer: no rule is about that, so the server will not start with it.
            self._methods.setdefault(name(), (ANY,))
        self._server.add_generic_rpc_handlers(handlers)
