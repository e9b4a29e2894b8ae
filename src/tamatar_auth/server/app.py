"""The one composition root: builds the server from its settings and runs it."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import structlog

from tamatar.auth.v1 import diagnostics_service_pb2, session_service_pb2, user_service_pb2
from tamatar.auth.v1.diagnostics_service_pb2_grpc import add_DiagnosticsServiceServicer_to_server
from tamatar.auth.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from tamatar.auth.v1.user_service_pb2_grpc import add_UserServiceServicer_to_server
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.interceptors.audit_trail import AuditInterceptor
from tamatar_auth.interceptors.authentication import AuthenticationInterceptor
from tamatar_auth.interceptors.base import HandlerInterceptor
from tamatar_auth.interceptors.deadlines import DeadlineInterceptor, Deadlines
from tamatar_auth.interceptors.decoding import DecodingInterceptor
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.field_validation import FieldValidationInterceptor
from tamatar_auth.interceptors.in_flight import InFlightInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.interceptors.retries import RetryInterceptor
from tamatar_auth.interceptors.stream_limits import StreamLimitInterceptor
from tamatar_auth.interceptors.telemetry import TelemetryInterceptor
from tamatar_auth.jobs.sweep import sweep_periodically
from tamatar_auth.migrator.revisions import head_revision
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.security.authorization import find_rule_mismatch
from tamatar_auth.security.callers import Callers
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.security.passwords.policy import PasswordPolicy
from tamatar_auth.server.accept_loop import new_server
from tamatar_auth.server.credential_files import CredentialFiles
from tamatar_auth.server.database_monitor import DatabaseMonitor
from tamatar_auth.server.lifecycle import Components, RunningService
from tamatar_auth.server.listeners import bind_calls, bind_health
from tamatar_auth.server.ports import StartError
from tamatar_auth.server.shutdown import GracefulShutdown
from tamatar_auth.servicers.diagnostics import DiagnosticsServicer
from tamatar_auth.servicers.field_rules import FieldRules
from tamatar_auth.servicers.health import HealthServicer, add_health
from tamatar_auth.servicers.page_tokens import PageTokens
from tamatar_auth.servicers.reflection import add_reflection
from tamatar_auth.servicers.sessions import SessionLimits, SessionServicer, SessionSources
from tamatar_auth.servicers.user_credentials import TokenLifetimes
from tamatar_auth.servicers.users import UserServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connection import OrphanedStatements
from tamatar_auth.storage.engine import create_engine, on_read_only
from tamatar_auth.storage.instrumentation.pool_metrics import (
    Pools,
    engine_pool_usage,
    observe_pools,
)
from tamatar_auth.storage.instrumentation.queries import observe_statements
from tamatar_auth.storage.session_events.feed import SessionEndFeed
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.last_activity import LastActivityWriter
from tamatar_auth.storage.session_validation.validator import MAX_CONNECTIONS, SessionValidator

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (user_service_pb2, "UserService"),
        (session_service_pb2, "SessionService"),
        (diagnostics_service_pb2, "DiagnosticsService"),
    )
)

HEALTH_SERVICE = "grpc.health.v1.Health"

PRIORITY_PATHS = ("/tamatar.auth.v1.SessionService/ValidateSession",)
"""The paths of what is asked most of all, and shall wait behind nothing that costs more."""

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    # Beyond it gRPC refuses calls of honest clients, too: theirs do not wait for a free stream.
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # Beyond these gRPC cancels calls of anybody, while one client floods the server.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # Until a client has agreed to our settings, it may send 16 MiB of metadata with each call.
    ("grpc.http2.settings_timeout", 5_000),
    # Who has gone without a word is noticed, also between calls.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Honest clients look after their connections, too; who pings more often is thrown out.
    ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),  # so that clients find new replicas
    ("grpc.max_connection_age_grace_ms", 60 * 1000),
)

GC_THRESHOLD = 10_000
"""How many objects are made before the young ones are collected: those of some hundred calls."""

log = structlog.get_logger(__name__)


NO_TELEMETRY = Telemetry()


def build_server(
    settings: Settings,
    database: Database,
    components: Components,
    callers: WatchedFiles[Callers] | None,
) -> grpc.aio.Server:
    """Put servicers and interceptors together; the server is not started, no port is bound.

    Raises `StartError` if it is not decided of every method who may call it.
    """
    server = _empty_server(settings)
    key = settings.page_token_key
    passwords = components.passwords
    policy = PasswordPolicy(settings.password_min_length)
    tokens = PageTokens(key.get_secret_value() if key else None)
    users = UserServicer(database, passwords, policy, tokens, TokenLifetimes.of(settings))
    limits = SessionLimits.of(settings)
    sources = SessionSources(components.validator, components.session_feed)
    sessions = SessionServicer(database, passwords, tokens, limits, sources)
    methods: Any = HandlerRegistry(server, _interceptors(settings, components, callers))
    add_UserServiceServicer_to_server(users, methods)
    add_SessionServiceServicer_to_server(sessions, methods)
    add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(database), methods)
    add_health(components.health, methods)
    add_reflection([*SERVICES, HEALTH_SERVICE], methods)
    if problem := find_rule_mismatch(methods.by_service):
        raise StartError(problem)
    return server


def build_health_server(settings: Settings, components: Components) -> grpc.aio.Server:
    """Put together what answers health and nothing else: who probes it need show nothing."""
    server = _empty_server(settings)
    interceptors = [ErrorInterceptor(), components.drain, DecodingInterceptor()]
    methods: Any = HandlerRegistry(server, interceptors)
    add_health(components.health, methods)
    return server


async def start(settings: Settings, telemetry: Telemetry = NO_TELEMETRY) -> RunningService:
    """Build a service and let it answer calls, or raise `StartError`.

    It answers also without its database: with UNAVAILABLE and NOT_SERVING, until the
    database is there.
    """
    credential_files = CredentialFiles.of(settings)
    passwords = PasswordHasher.of(settings, telemetry.meter)
    orphaned = OrphanedStatements(telemetry.meter)
    engine = create_engine(settings, orphaned)
    observer = observe_statements(
        engine, settings.slow_query, tracer=telemetry.tracer, meter=telemetry.meter
    )
    database = Database(engine, orphaned)
    dedicated_pool = DedicatedPool(settings, observer, MAX_CONNECTIONS, orphaned)
    session_feed = SessionEndFeed(settings, orphaned, telemetry.meter)
    on_read_only(engine, dedicated_pool.invalidate)
    on_read_only(engine, session_feed.disconnect)
    if telemetry.meter is not None:
        pools: Pools = {
            "calls": lambda: engine_pool_usage(engine),
            "validations": dedicated_pool.count,
        }
        observe_pools(telemetry.meter, pools)
    activity = LastActivityWriter()
    components = Components(
        health=HealthServicer(SERVICES),
        drain=InFlightInterceptor(settings.calls_in_flight, telemetry.meter),
        validator=SessionValidator(dedicated_pool, activity, settings.session_idle_limit or None),
        activity=activity,
        session_feed=session_feed,
        orphaned=orphaned,
        passwords=passwords,
        telemetry=telemetry,
    )
    database_monitor = DatabaseMonitor(settings, components.health, head_revision(), orphaned)
    try:
        server = build_server(settings, database, components, credential_files.callers)
        addresses = bind_calls(server, settings, credential_files.tls)
        health = build_health_server(settings, components)
        health_address = bind_health(health, settings)
    except StartError:
        await database.close()
        raise
    await server.start()
    await health.start()
    await database_monitor.check()
    bound = (server, addresses, health, health_address)
    return RunningService(
        settings, credential_files, database, database_monitor, components, *bound
    )


@contextlib.asynccontextmanager
async def run_service(
    settings: Settings, telemetry: Telemetry = NO_TELEMETRY
) -> AsyncIterator[RunningService]:
    """Run a service with its tasks in the background for as long as the block."""
    service = await start(settings, telemetry)
    background_tasks = [
        asyncio.create_task(service.wait_for_failure(), name="watch gRPC"),
        asyncio.create_task(service.database_monitor.run(), name="watch the database"),
        asyncio.create_task(sweep_periodically(service.database, settings), name="sweep"),
        asyncio.create_task(
            service.components.activity.run_forever(service.database), name="activity"
        ),
        *(
            asyncio.create_task(watched.watch_for_changes())
            for watched in service.credential_files.watched
        ),
    ]
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
    is_worker: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT; `ready` is told once calls are answered.

    An error that is raised here is a crash: all is closed, nothing goes on.
    """
    shutdown = GracefulShutdown(settings, is_worker=is_worker)
    shutdown.install_signal_handlers()
    async with run_service(settings, telemetry) as service:
        service.credential_files.reload_on_hangup()
        await service.database.fill_pool()
        await service.components.validator.prepare()
        _tune_garbage_collection()
        log.info("listening", **service.log_addresses)
        if ready is not None:
            ready(service)
        try:
            await _wait_until_stopped(shutdown, service.background_tasks)
            log.info("stopping", grace=settings.shutdown_grace.total_seconds())
        finally:
            shutdown.start_deadline()
    if not service.unfinished:
        shutdown.cancel_deadline()
    log.info("stopped")


def _tune_garbage_collection() -> None:
    """Take what the start has made out of later collections, and collect less often.

    It lives as long as the process, and looking through all of it would hold up every call.
    What calls in flight have made is looked through in vain again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


async def _wait_until_stopped(
    shutdown: GracefulShutdown, background_tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Return when the server shall stop; raise what ended a task in the background."""
    signalled = asyncio.create_task(shutdown.wait_until_requested())
    done, _ = await asyncio.wait(
        {signalled, *background_tasks}, return_when=asyncio.FIRST_COMPLETED
    )
    signalled.cancel()
    for task in done - {signalled}:
        task.result()


def _empty_server(settings: Settings) -> grpc.aio.Server:
    # Unless there are workers, a second server on the port is a mistake.
    shared = ("grpc.so_reuseport", int(settings.workers > 1))
    return new_server([shared, *OPTIONS], PRIORITY_PATHS)


def _interceptors(
    settings: Settings, components: Components, callers: WatchedFiles[Callers] | None
) -> Sequence[HandlerInterceptor]:
    """List what every call passes, from the outside in."""
    return [
        TelemetryInterceptor(tracer=components.telemetry.tracer, meter=components.telemetry.meter),
        ErrorInterceptor(),
        components.drain,
        DeadlineInterceptor(Deadlines.of(settings)),
        AuthenticationInterceptor(callers),
        StreamLimitInterceptor(
            settings.streams, settings.streams_per_connection, components.telemetry.meter
        ),
        DecodingInterceptor(),
        AuditInterceptor(),
        RetryInterceptor(),
        FieldValidationInterceptor(FieldRules().broken_rules),
    ]
