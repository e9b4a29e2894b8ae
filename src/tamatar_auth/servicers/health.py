"""grpc.health.v1: Check, Watch and List, following the database."""

from collections.abc import Collection, Iterable
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
    """The health of all services, which is NOT_SERVING until `set_status` changes it.

    `writing_services` are those whose calls mostly write.
    """

    def __init__(self, services: Iterable[str], writing_services: Collection[str] = ()) -> None:
        super().__init__()
        self._services = ["", *services]
        self._writing_services = writing_services
        self._server_status = dict.fromkeys(self._services, NOT_SERVING) | {LIVENESS: SERVING}

    # The types of grpc_health do not know List yet.
    async def List(self, request: Any, context: Context) -> Any:
        return pb.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )

    async def set_status(self, *, reads: bool, writes: bool) -> None:
        """Set the status of every service by what the database can be used for.

        The server itself, `""`, serves as long as sessions can be validated.
        """
        for service in self._services:
            is_serving = writes if service in self._writing_services else reads
            await self.set(service, SERVING if is_serving else NOT_SERVING)
