"""grpc.health.v1: Check, Watch and List, following the database."""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health import aio

from tamatar_auth.servicers import Context

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN

LIVENESS = "liveness"
"""The service name that is SERVING while the process answers, even without a database: a restart
of the server would not repair the database."""


class HealthServicer(aio.HealthServicer):
    """The health of all services, which is NOT_SERVING until `set_status` changes it.

    `writing_services` are those whose calls mostly write. Check and List report NOT_SERVING from
    `enter_graceful_shutdown` on, and Watch does not: see `Watch`.
    """

    def __init__(self, services: Iterable[str], writing_services: Collection[str] = ()) -> None:
        super().__init__()
        self._services = ["", *services]
        self._writing_services = writing_services
        self._server_status = dict.fromkeys(self._services, NOT_SERVING) | {LIVENESS: SERVING}
        self._watched_status = dict(self._server_status)
        self._changed = asyncio.Event()
        """Set at the next change of a status, and replaced by another event."""

    # The types of grpc_health do not know List yet.
    async def List(self, request: Any, context: Context) -> Any:
        return pb.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: pb.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )

    async def Watch(self, request: Any, context: Context) -> None:
        """Write each status of a service until the stream ends.

        A draining server does not write NOT_SERVING. gRPC's clients watch each of their
        connections, and they move to other servers at the end of a connection without losing a
        call. A client with one address would fail all calls until then.

        The method of grpc_health holds a lock while it writes, so a client that does not read
        would stop all others.
        """
        sent = None
        while True:
            changed = self._changed
            status = self._watched_status.get(request.service, SERVICE_UNKNOWN)
            if status != sent:
                await context.write(pb.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    async def set_status(self, *, reads: bool, writes: bool) -> None:
        """Set the status of every service by what the database can be used for.

        The server itself, `""`, serves as long as sessions can be validated.
        """
        usable = dict.fromkeys(self._services, reads)
        usable |= dict.fromkeys(self._writing_services, writes)
        statuses = {name: SERVING if found else NOT_SERVING for name, found in usable.items()}
        for service, status in statuses.items():
            await self.set(service, status)
        if not statuses.items() <= self._watched_status.items():
            self._watched_status |= statuses
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
