"""grpc.health.v1: Check, Watch and List, following the database."""

from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health import aio

from tamatar_auth.servicers import Context

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING

LIVENESS = "liveness"
"""The service name that is SERVING while the process answers, even without a database: a restart
of the server would not repair the database."""


class HealthServicer(aio.HealthServicer):
    """The health of all services, which is NOT_SERVING until `set_all` changes it."""

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._services = ["", *services]
        self._server_status = dict.fromkeys(self._services, NOT_SERVING) | {LIVENESS: SERVING}

    # The types of grpc_health do not know List yet.
    async def List(self, request: Any, context: Context) -> Any:
        return pb.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )

    async def set_all(self, *, serving: bool) -> None:
        """Set the status of the server and of every service."""
        for service in self._services:
            await self.set(service, SERVING if serving else NOT_SERVING)
