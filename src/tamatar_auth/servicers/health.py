"""grpc.health.v1: Check, Watch and List, following the database."""

from collections.abc import Iterable
from typing import Any

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as pb_grpc
from grpc_health.v1.health import aio

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING

LIVENESS = "liveness"
"""The name under which a server is SERVING for as long as it answers, also without its database:
to start it again would bring no database back."""


class HealthServicer(aio.HealthServicer):
    """Tells whether the services can do their work; not before it was told so itself."""

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._services = ["", *services]
        self._server_status = dict.fromkeys(self._services, NOT_SERVING) | {LIVENESS: SERVING}

    # The types of grpc_health do not know List yet.
    async def List(self, request: Any, context: ServicerContext[Any, Any]) -> Any:
        return pb.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )

    async def set_all(self, *, serving: bool) -> None:
        """Say the same of the server and of every service."""
        for service in self._services:
            await self.set(service, SERVING if serving else NOT_SERVING)


def add_health(servicer: HealthServicer, server: grpc.aio.Server) -> None:
    """Answer the health service's calls with this servicer."""
    pb_grpc.add_HealthServicer_to_server(servicer, server)
