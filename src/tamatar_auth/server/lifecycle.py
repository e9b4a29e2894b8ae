"""A server that runs, what it works with, and how it stops."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.interceptors.in_flight import DrainInterceptor
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.security.passwords.hasher import Passwords
from tamatar_auth.server.credential_files import Admission
from tamatar_auth.server.database_monitor import DatabaseWatch
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connection import Abandoned
from tamatar_auth.storage.session_events.feed import SessionEnds
from tamatar_auth.storage.session_validation.last_activity import Activity
from tamatar_auth.storage.session_validation.validator import SessionValidation

LAST_SECONDS = 0.2
"""How long each step of the end may take once the calls should have ended."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the server works with and whoever runs it has to end or to tell."""

    health: HealthServicer
    drain: DrainInterceptor
    validation: SessionValidation
    activity: Activity
    ends: SessionEnds
    abandoned: Abandoned
    passwords: Passwords
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class Service:
    """A server that answers calls, and what it works with."""

    settings: Settings
    admission: Admission
    database: Database
    watch: DatabaseWatch
    parts: Parts
    server: grpc.aio.Server
    addresses: Sequence[ListenAddress]
    health_server: grpc.aio.Server
    """Answers health and nothing else, where that is asked for."""
    health_address: ListenAddress | None
    background: Sequence[asyncio.Task[None]] = ()
    """Tasks that run as long as the server; one that ends is a fault."""
    left: list[str] = field(default_factory=list)
    """What had not ended when the server had to go."""

    @property
    def told_addresses(self) -> Mapping[str, Any]:
        """Where it answers, as the log tells it."""
        told: dict[str, Any] = {"addresses": [str(address) for address in self.addresses]}
        return told if self.health_address is None else told | {"health": str(self.health_address)}

    async def failed(self) -> None:
        """Raise what ended a server of gRPC that was not told to end."""
        # Not to be cancelled, as gRPC's own waiting would be, too: they end with the servers.
        servers = (self.server, self.health_server)
        endings = [asyncio.create_task(server.wait_for_termination()) for server in servers]
        ended, _ = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        raise RuntimeError("gRPC has ended a server")

    async def stop(self) -> None:
        """Stop taking calls, finish those in flight and the hashes that run, close the pool.

        NOT_SERVING is said first, so that balancers turn away before the port closes. What
        does not end in its time is left behind: it shall not hold up the others, nor the end.
        """
        await self.parts.health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.drain_delay.total_seconds())
        self.parts.drain.end_streams()
        grace = self.settings.shutdown_grace.total_seconds()
        await asyncio.gather(self.server.stop(grace), self.health_server.stop(grace))
        parts = self.parts
        await self._end(calls=parts.drain.finished(), hashes=parts.passwords.close())
        await self._end(
            validations=parts.validation.close(),
            activity=parts.activity.write(self.database),
            listener=parts.ends.close(),
        )
        await self._end(watch=self.watch.close(), connections=self.database.close())
        await self._end(statements=parts.abandoned.close())

    async def _end(self, **ends: Coroutine[Any, Any, None]) -> None:
        tasks = {asyncio.create_task(end, name=name) for name, end in ends.items()}
        ended, late = await asyncio.wait(tasks, timeout=LAST_SECONDS)
        for task in late:
            task.cancel()
            self.left.append(task.get_name())
            log.warning("left behind", what=task.get_name())
        for task in ended:
            task.result()
