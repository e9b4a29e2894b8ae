"""The life of a server: start it, run it with its background tasks, serve until a signal."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import structlog

from tamatar_auth.config.settings import Settings
from tamatar_auth.jobs.session_days import keep_days_ahead, try_to_make_days
from tamatar_auth.jobs.sweep import sweep_periodically
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.observability.unhandled_errors import UnhandledErrors
from tamatar_auth.server.build import bind_calls, bind_health, build_health_server, build_server
from tamatar_auth.server.components import create_components
from tamatar_auth.server.lifecycle import RunningService
from tamatar_auth.server.ports import StartError
from tamatar_auth.server.shutdown import GracefulShutdown, ReportedCrashError

NO_TELEMETRY = Telemetry()

GC_THRESHOLD = 10_000
"""Objects allocated before a collection of the youngest generation: some hundred calls' worth."""

log = structlog.get_logger(__name__)


async def start(settings: Settings, telemetry: Telemetry = NO_TELEMETRY) -> RunningService:
    """Start a service that answers calls, or raise `StartError`.

    Without its database the service answers UNAVAILABLE and its health is NOT_SERVING.
    """
    components = create_components(settings, telemetry)
    try:
        server = build_server(settings, components)
        addresses = bind_calls(server, settings, components.credential_files.tls)
        health_server = build_health_server(settings, components)
        health_address = bind_health(health_server, settings)
        bound = [*addresses, *([health_address] if health_address else [])]
        components.connections.ports.update(address.port for address in bound)
    except StartError:
        await components.database.close()
        raise
    await server.start()
    await health_server.start()
    await try_to_make_days(components.database, settings)  # the lifetime may be longer now
    await components.database_monitor.check()
    return RunningService(settings, components, server, addresses, health_server, health_address)


@contextlib.asynccontextmanager
async def run_service(
    settings: Settings, telemetry: Telemetry = NO_TELEMETRY
) -> AsyncIterator[RunningService]:
    """Run a service and its background tasks until the block ends."""
    service = await start(settings, telemetry)
    background_tasks = _start_background_tasks(service)
    try:
        yield replace(service, background_tasks=background_tasks)
    finally:
        for task in background_tasks:
            task.cancel()
        await asyncio.gather(*background_tasks, return_exceptions=True)
        await service.stop()


async def serve(
    settings: Settings,
    telemetry: Telemetry = NO_TELEMETRY,
    ready: Callable[[RunningService], None] | None = None,
    *,
    unhandled: UnhandledErrors,
    is_worker: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; call `ready` once the service answers.

    An error that this raises is a crash: the service is closed, and no task is left.
    """
    shutdown = GracefulShutdown(settings, is_worker=is_worker)
    shutdown.install_signal_handlers()
    unhandled.watch(asyncio.get_running_loop(), shutdown.requested.set)
    async with run_service(settings, telemetry) as service:
        await _settle(service)
        health = {"health": str(service.health_address)} if service.health_address else {}
        log.info("listening", addresses=[*map(str, service.addresses)], **health)
        if ready is not None:
            ready(service)
        try:
            await _wait_until_stopped(shutdown, service.background_tasks)
            log.info("stopping", grace=settings.shutdown_grace.total_seconds())
        finally:
            shutdown.start_deadline()
    if not service.unfinished:
        shutdown.cancel_deadline()
    if unhandled.has_crashed:
        raise ReportedCrashError
    log.info("stopped")


def _start_background_tasks(service: RunningService) -> Sequence[asyncio.Task[None]]:
    components, database = service.components, service.database
    return [
        asyncio.create_task(service.wait_for_failure(), name="watch gRPC"),
        asyncio.create_task(components.database_monitor.run(), name="watch the database"),
        asyncio.create_task(sweep_periodically(database, service.settings.retention), name="sweep"),
        asyncio.create_task(keep_days_ahead(database, service.settings), name="partitions"),
        asyncio.create_task(components.connections.guard_memory(), name="guard memory"),
        asyncio.create_task(components.activity.run_forever(database), name="activity"),
        *(
            asyncio.create_task(standbys.maintain(database), name="watch standbys")
            for standbys in [components.standbys]
            if standbys is not None
        ),
        *(
            asyncio.create_task(watched.watch_for_changes())
            for watched in components.credential_files.watched
        ),
    ]


async def _settle(service: RunningService) -> None:
    """Finish the start: follow SIGHUP, open connections, tune the garbage collection."""
    service.components.credential_files.reload_on_hangup()
    await service.database.fill_pool()
    await service.components.validator.prepare()
    _tune_garbage_collection()


def _tune_garbage_collection() -> None:
    """Exclude the objects of the start from collections, and collect less often.

    These objects live as long as the process, and a collection that visits them delays every
    call. Most young objects belong to calls in flight, so frequent collections free little.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


async def _wait_until_stopped(
    shutdown: GracefulShutdown, background_tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Return when a shutdown is requested; raise the error that ended a background task."""
    signalled = asyncio.create_task(shutdown.requested.wait())
    done, _ = await asyncio.wait(
        {signalled, *background_tasks}, return_when=asyncio.FIRST_COMPLETED
    )
    signalled.cancel()
    for task in done - {signalled}:
        task.result()
