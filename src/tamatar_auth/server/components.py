"""The parts of a server that calls share: storage, passwords, health, telemetry."""

from dataclasses import dataclass

from tamatar.auth.v1 import (
    diagnostics_service_pb2,
    factor_service_pb2,
    session_service_pb2,
    user_service_pb2,
)
from tamatar_auth.config.settings import Settings
from tamatar_auth.interceptors.in_flight import InFlightInterceptor
from tamatar_auth.migrator.revisions import head_revision
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.server.connections import Connections
from tamatar_auth.server.credential_files import CredentialFiles
from tamatar_auth.server.database_monitor import DatabaseMonitor
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.servicers.messages import ends_message
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connect import standby_settings
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine, on_read_only
from tamatar_auth.storage.instrumentation.pool_metrics import (
    Pools,
    engine_pool_usage,
    observe_pools,
)
from tamatar_auth.storage.instrumentation.queries import observe_statements
from tamatar_auth.storage.session_events.feed import SessionEndFeed
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.standby_reader import StandbyReader
from tamatar_auth.storage.session_validation.validator import (
    MAX_CONNECTIONS,
    LastActivityWriter,
    SessionValidator,
)

SERVICES = tuple(
    service.full_name
    for file in (
        user_service_pb2,
        session_service_pb2,
        factor_service_pb2,
        diagnostics_service_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""The full names of the gRPC services that a server answers."""

WRITING_SERVICES = ("tamatar.auth.v1.UserService",)
"""The services that are of little use on a read-only database."""

HEALTH_SERVICE = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Components:
    """The parts that servicers and interceptors work with, and that a shutdown closes."""

    credential_files: CredentialFiles
    passwords: PasswordHasher
    factor_keys: FactorKeys
    passkeys: PasskeyVerifier
    health: HealthServicer
    drain: InFlightInterceptor
    connections: Connections
    database: Database
    database_monitor: DatabaseMonitor
    validator: SessionValidator
    standbys: StandbyReader | None
    activity: LastActivityWriter
    session_feed: SessionEndFeed
    orphaned: OrphanedStatements
    telemetry: Telemetry


def create_components(settings: Settings, telemetry: Telemetry) -> Components:
    """Create the parts of a server. None of them connects to the database yet.

    Raises `OperatorError` if a file that the settings name cannot be read.
    """
    credential_files = CredentialFiles.load(settings)
    in_development = settings.environment == "development"
    factor_keys = FactorKeys.load(settings.factors, in_development=in_development)
    passkeys = PasskeyVerifier.load(settings.factors, factor_keys, in_development=in_development)
    passwords = PasswordHasher.create(settings.passwords, telemetry.meter)
    health = HealthServicer(SERVICES, WRITING_SERVICES)
    orphaned = OrphanedStatements(telemetry.meter)
    database, dedicated_pool, session_feed, standbys = _create_storage(
        settings, orphaned, telemetry
    )
    monitor = DatabaseMonitor(settings.database, database, health, head_revision(), orphaned)
    on_read_only(database.engine, monitor.reconnect)
    activity = LastActivityWriter()
    return Components(
        credential_files=credential_files,
        passwords=passwords,
        factor_keys=factor_keys,
        passkeys=passkeys,
        health=health,
        drain=InFlightInterceptor(settings.limits.calls_in_flight, telemetry.meter),
        connections=Connections(telemetry.meter),
        database=database,
        database_monitor=monitor,
        validator=SessionValidator(
            dedicated_pool, activity, settings.sessions.idle_limit or None, standbys
        ),
        standbys=standbys,
        activity=activity,
        session_feed=session_feed,
        orphaned=orphaned,
        telemetry=telemetry,
    )


def _create_storage(
    settings: Settings, orphaned: OrphanedStatements, telemetry: Telemetry
) -> tuple[Database, DedicatedPool, SessionEndFeed, StandbyReader | None]:
    """Create what connects to PostgreSQL; a read-only primary disconnects all but standbys."""
    engine = create_engine(settings.database, orphaned)
    observer = observe_statements(
        engine, settings.telemetry.slow_query, tracer=telemetry.tracer, meter=telemetry.meter
    )
    dedicated_pool = DedicatedPool(settings.database, observer, MAX_CONNECTIONS, orphaned)
    session_feed = SessionEndFeed(
        settings.database, ends_message, orphaned, telemetry.meter, observer.observe_text
    )
    on_read_only(engine, dedicated_pool.invalidate)
    on_read_only(engine, session_feed.disconnect)
    orphaned.fence.on_close(session_feed.disconnect)
    pools: Pools = {
        "calls": lambda: engine_pool_usage(engine),
        "validations": dedicated_pool.count,
    }
    standbys = None
    if (replicas := standby_settings(settings.database)) is not None:
        # Silence of a standby says nothing about the primary, so it has statements of its own.
        standby_pool = DedicatedPool(replicas, observer, MAX_CONNECTIONS)
        standbys = StandbyReader(dedicated_pool, standby_pool, telemetry.meter)
        pools = {**pools, "standbys": standby_pool.count}
    if telemetry.meter is not None:
        observe_pools(telemetry.meter, pools)
    database = Database(engine, orphaned, idle_limit=settings.sessions.idle_limit or None)
    return database, dedicated_pool, session_feed, standbys
