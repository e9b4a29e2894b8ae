"""The gRPC services, and what their methods share."""

from typing import Any, TypeAlias

from grpc.aio import ServicerContext

Context: TypeAlias = ServicerContext[Any, Any]
