"""The full names of the gRPC services that a server answers."""

from tamatar.auth.v1 import diagnostics_service_pb2, session_service_pb2, user_service_pb2

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (user_service_pb2, "UserService"),
        (session_service_pb2, "SessionService"),
        (diagnostics_service_pb2, "DiagnosticsService"),
    )
)

HEALTH_SERVICE = "grpc.health.v1.Health"
