"""The client for asyncio."""

from typing import TYPE_CHECKING, Self, Unpack

import grpc

from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.client.aio.channel import AuthChannel
from tamatar_auth.client.target import ConnectOptions, bearer_metadata, resolve_target

if TYPE_CHECKING:  # the classes exist only in the type stubs
    from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceAsyncStub
    from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceAsyncStub
    from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from tamatar.auth.v1.user_service_pb2_grpc import UserServiceAsyncStub


class AuthClient:
    """A client for asyncio. It may be made before an event loop runs.

    Each event loop has connections of its own, which open with the first call.
    """

    users: "UserServiceAsyncStub"
    sessions: "SessionServiceAsyncStub"
    diagnostics: "DiagnosticsServiceAsyncStub"
    factors: "FactorServiceAsyncStub"

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        """The channel, for the stubs of other services, such as health."""
        self.users = UserServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.diagnostics = DiagnosticsServiceStub(channel)
        self.factors = FactorServiceStub(channel)

    async def close(self) -> None:
        """Close the connections of the running event loop, and cancel calls in flight."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def connect(address: str, **connect_options: Unpack[ConnectOptions]) -> AuthClient:
    """Return a client of the service at an address, as `tamatar_auth.client.connect` does.

    >>> async with connect("auth.example.com:50051", token=token) as auth:
    ...     (await auth.users.GetUser(GetUserRequest(email="ada@example.com"))).user.user_id
    """
    target = resolve_target(address, connect_options)

    def open_channel() -> grpc.aio.Channel:
        if target.credentials is None:
            return grpc.aio.insecure_channel(target.address, target.options)
        return grpc.aio.secure_channel(target.address, target.credentials, target.options)

    token = connect_options.get("token")
    return AuthClient(AuthChannel(open_channel, lambda: bearer_metadata(token)))
