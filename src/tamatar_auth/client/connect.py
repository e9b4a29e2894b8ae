"""The client for blocking calls."""

from typing import Self, Unpack

import grpc

from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.client.channel import AuthChannel
from tamatar_auth.client.target import ConnectOptions, bearer_metadata, resolve_target


class AuthClient:
    """A client for blocking calls. Threads may share it."""

    users: UserServiceStub
    sessions: SessionServiceStub
    diagnostics: DiagnosticsServiceStub
    factors: FactorServiceStub

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        """The channel, for the stubs of other services, such as health."""
        self.users = UserServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.diagnostics = DiagnosticsServiceStub(channel)
        self.factors = FactorServiceStub(channel)

    def close(self) -> None:
        """Close the connections and cancel calls in flight."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(address: str, **connect_options: Unpack[ConnectOptions]) -> AuthClient:
    """Return a client of the service at an address. It connects with the first call.

    The address is any target name of gRPC, such as `auth.example.com:50051`,
    `unix:/run/auth.sock` or `ipv4:10.0.0.1:50051,10.0.0.2:50051`. If it stands for several
    servers, calls are spread over them round-robin. `ConnectOptions` explains the other arguments.

    A call that fails raises `AuthError`. A call without a `timeout` gets 5 seconds, or 10 if it
    hashes a password. While the service is unreachable, calls that may safely run twice are
    retried. Raises `ValueError` if arguments contradict each other.

    >>> with connect("auth.example.com:50051", token=token) as auth:
    ...     auth.users.GetUser(GetUserRequest(email="ada@example.com")).user.user_id
    """
    target = resolve_target(address, connect_options)
    if target.credentials is None:
        channel = grpc.insecure_channel(target.address, target.options)
    else:
        channel = grpc.secure_channel(target.address, target.credentials, target.options)
    return AuthClient(AuthChannel(channel, lambda: bearer_metadata(connect_options.get("token"))))
