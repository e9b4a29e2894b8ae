"""The baseline: a server whose ValidateSession decodes the request and returns an empty message.

It runs on uvloop with the options and generated code of the service. It uses grpcio's server in
its fastest configuration, or with the argument `own` the service's server. Prints its port.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from tamatar_auth.server.accept_loop import new_server
from tamatar_auth.server.build import OPTIONS, PRIORITY_PATHS
from tamatar_auth.server.parent_watch import stop_with_parent


class EmptyServicer(SessionServiceServicer):
    """Does nothing."""

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, context: Any
    ) -> pb.ValidateSessionResponse:
        """Return an empty message."""
        del request, context
        return pb.ValidateSessionResponse()


class GenericHandlerServer:
    """Adds only the generic handler of a service.

    For each registered method, grpcio has one more request to wait for after every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Do nothing: the generic handler has all methods."""


async def main(*, own: bool) -> None:
    """Serve until the process is terminated."""
    server = new_server(OPTIONS, PRIORITY_PATHS) if own else grpc.aio.server(options=OPTIONS)
    methods: Any = server if own else GenericHandlerServer(server)
    # The other methods return UNIMPLEMENTED.
    add_SessionServiceServicer_to_server(EmptyServicer(), methods)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    stop_with_parent(int(sys.argv[1]))
    uvloop.run(main(own=sys.argv[2:] == ["own"]))
