"""Builds the gRPC servers: servicers, interceptors, gRPC's options, and listening addresses."""

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tamatar.auth.v1.diagnostics_service_pb2_grpc import add_DiagnosticsServiceServicer_to_server
from tamatar.auth.v1.factor_service_pb2_grpc import add_FactorServiceServicer_to_server
from tamatar.auth.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from tamatar.auth.v1.user_service_pb2_grpc import add_UserServiceServicer_to_server
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.interceptors.audit_trail import AuditInterceptor
from tamatar_auth.interceptors.authentication import AuthenticationInterceptor
from tamatar_auth.interceptors.base import HandlerInterceptor
from tamatar_auth.interceptors.deadlines import DeadlineInterceptor
from tamatar_auth.interceptors.decoding import DecodingInterceptor
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.field_validation import FieldValidationInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.interceptors.request_receipt import RequestReceiptInterceptor
from tamatar_auth.interceptors.retries import RetryInterceptor
from tamatar_auth.interceptors.stream_limits import (
    OPEN_STREAMS,
    OPEN_STREAMS_PER_CONNECTION,
    StreamLimitInterceptor,
)
from tamatar_auth.interceptors.telemetry import TelemetryInterceptor
from tamatar_auth.security.authorization import find_rule_mismatch
from tamatar_auth.security.passwords.policy import PasswordPolicy
from tamatar_auth.security.tls import TlsCredentials, server_credentials
from tamatar_auth.server.accept_loop import new_server
from tamatar_auth.server.components import HEALTH_SERVICE, SERVICES, Components
from tamatar_auth.server.ports import (
    HEALTH_LISTEN,
    LISTEN,
    StartError,
    refuse_if_taken,
    unusable_address,
)
from tamatar_auth.servicers.diagnostics import DiagnosticsServicer
from tamatar_auth.servicers.factors import FactorServicer
from tamatar_auth.servicers.field_rules import FieldRules
from tamatar_auth.servicers.page_tokens import PageTokens
from tamatar_auth.servicers.reflection import add_reflection
from tamatar_auth.servicers.sessions import SessionServicer
from tamatar_auth.servicers.users import UserServicer

PRIORITY_PATHS = ("/tamatar.auth.v1.SessionService/ValidateSession",)
"""The methods that the accept loop prefers: frequent, cheap, and in every caller's way."""

CALLS_PER_CONNECTION = 50
"""Calls in flight on one connection, besides its streams of WatchSessions. gRPC's clients let
further calls wait, and proxies open further connections."""

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    # Calls that clients have left count until they are released. Without this room gRPC refuses
    # calls of clients that obey the limit of streams.
    ("grpc.http2.max_deallocating_streams", 1000),
    ("grpc.max_allowed_incoming_connections", 2000),
    ("grpc.tcp_receive_buffer_size", 64 * 1024),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # Beyond these limits gRPC cancels calls at random, also those of other connections.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # Until a client has acknowledged SETTINGS, it may send 16 MiB of metadata with each call.
    ("grpc.http2.settings_timeout", 5_000),
    # Keepalive finds clients that vanished, also between calls.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may send keepalive pings, too; gRPC disconnects a client that pings more often.
    ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),  # so that clients find new replicas
    ("grpc.max_connection_age_grace_ms", 60 * 1000),
)


def build_server(settings: Settings, components: Components) -> grpc.aio.Server:
    """Build the server that answers calls. It has no port yet, and is not started.

    Raises `StartError` if a method has no rule that says which callers may call it.
    """
    server = _new_server(settings, components)
    methods: Any = HandlerRegistry(server, _interceptors(settings, components))
    _add_servicers(settings, components, methods)
    add_HealthServicer_to_server(components.health, methods)
    add_reflection([*SERVICES, HEALTH_SERVICE], methods)
    if problem := find_rule_mismatch(methods.by_service):
        raise StartError(problem)
    return server


def build_health_server(settings: Settings, components: Components) -> grpc.aio.Server:
    """Build a server that answers health and nothing else, so that probes need no credentials."""
    server = _new_server(settings, components)
    interceptors = [
        ErrorInterceptor(),
        _receipt(settings, components),
        components.drain,
        _open_stream_limit(),
        DecodingInterceptor(),
    ]
    methods: Any = HandlerRegistry(server, interceptors)
    add_HealthServicer_to_server(components.health, methods)
    return server


def bind_calls(
    server: grpc.aio.Server, settings: Settings, tls: WatchedFiles[TlsCredentials] | None
) -> Sequence[ListenAddress]:
    """Bind the server of calls; return its addresses, or raise `StartError`."""
    for address in settings.listen:
        _refuse_if_taken(address, settings, LISTEN)
    return [_bind(server, address, tls, LISTEN) for address in settings.listen]


def bind_health(server: grpc.aio.Server, settings: Settings) -> ListenAddress | None:
    """Bind the health server; return its address, or None if the settings have none."""
    address = settings.health_listen
    if address is None:
        return None
    _refuse_if_taken(address, settings, HEALTH_LISTEN)
    return _bind(server, address, None, HEALTH_LISTEN)


def _new_server(settings: Settings, components: Components) -> grpc.aio.Server:
    # Without workers, a second server on the port is a mistake.
    reuse_port = ("grpc.so_reuseport", int(settings.workers > 1))
    streams = (
        "grpc.max_concurrent_streams",
        CALLS_PER_CONNECTION + settings.limits.streams_per_connection,
    )
    options = [reuse_port, streams, *OPTIONS]
    return new_server(options, PRIORITY_PATHS, components.connections)


def _interceptors(settings: Settings, components: Components) -> Sequence[HandlerInterceptor]:
    """List the interceptors of every call, outermost first."""
    limits = settings.limits
    tracer, meter = components.telemetry.tracer, components.telemetry.meter
    return [
        TelemetryInterceptor(tracer=tracer, meter=meter),
        ErrorInterceptor(),
        AuthenticationInterceptor(components.credential_files.callers),
        _receipt(settings, components),
        components.drain,
        DeadlineInterceptor(limits.call_deadline, limits.password_call_deadline),
        StreamLimitInterceptor(limits.streams, limits.streams_per_connection, meter),
        _open_stream_limit(),
        DecodingInterceptor(),
        AuditInterceptor(),
        RetryInterceptor(),
        FieldValidationInterceptor(FieldRules().broken_rules),
    ]


def _receipt(settings: Settings, components: Components) -> RequestReceiptInterceptor:
    return RequestReceiptInterceptor(settings.limits.call_deadline, components.connections.close)


def _open_stream_limit() -> StreamLimitInterceptor:
    return StreamLimitInterceptor(OPEN_STREAMS, OPEN_STREAMS_PER_CONNECTION, of_other_services=True)


def _add_servicers(settings: Settings, components: Components, methods: Any) -> None:
    database, passwords = components.database, components.passwords
    key = settings.page_token_key
    tokens = PageTokens(key.get_secret_value() if key else None)
    users = UserServicer(
        database,
        passwords,
        PasswordPolicy(settings.passwords),
        tokens,
        settings.user_tokens,
    )
    sessions = SessionServicer(
        database,
        passwords,
        tokens,
        settings.sessions,
        components.validator,
        components.session_feed,
        components.factor_keys,
        components.passkeys,
    )
    issuer = settings.factors.issuer_name
    factors = FactorServicer(database, components.factor_keys, components.passkeys, issuer)
    add_UserServiceServicer_to_server(users, methods)
    add_SessionServiceServicer_to_server(sessions, methods)
    add_FactorServiceServicer_to_server(factors, methods)
    add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(database), methods)


def _refuse_if_taken(address: ListenAddress, settings: Settings, setting: str) -> None:
    if settings.workers == 1:  # the supervisor of several workers has checked and reserved the port
        refuse_if_taken(address, setting)


def _bind(
    server: grpc.aio.Server,
    address: ListenAddress,
    tls: WatchedFiles[TlsCredentials] | None,
    setting: str,
) -> ListenAddress:
    try:
        if tls is None or address.path:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), server_credentials(tls))
    except RuntimeError:
        raise unusable_address(address, setting) from None
    return address if address.path else address._replace(port=port)
