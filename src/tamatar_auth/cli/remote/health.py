"""Checks the health of a service that the commands call."""

from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar_auth.cli.remote.context_file import ServiceContext
from tamatar_auth.cli.remote.failures import error_message
from tamatar_auth.client import AuthError


def check_service(service: ServiceContext, timeout: float) -> str:
    """Return SERVING or NOT_SERVING, or a sentence that says why there is no status."""
    try:
        with service.connect() as auth:
            stub: Any = HealthStub(auth.channel)
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except AuthError as error:
        return error_message(error, service)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
