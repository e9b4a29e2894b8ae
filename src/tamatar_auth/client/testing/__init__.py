"""A fake service in memory, for the tests of calling services."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Self

import grpc

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_service_pb2 import SessionEnd
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.servicers import (
    HEARTBEAT_INTERVAL,
    FakeSessionServicer,
    FakeUserServicer,
    handlers,
)
from tamatar_auth.client.testing.state import FakeState

__all__ = ["FakeAuthServer"]

_USERS = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
_SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]


class FakeAuthServer:
    """A gRPC server on a loopback port that behaves like the service, without a database.

    It implements ValidateSession, BatchValidateSessions, GetSession, RevokeSession,
    RevokeUserSessions, WatchSessions, GetUser and BatchGetUsers. Other methods fail with
    UNIMPLEMENTED. Callers need no token.

    >>> with FakeAuthServer() as fake, connect(fake.address) as auth:
    ...     token = fake.start_session(fake.add_user("ada@example.com"))
    ...     auth.sessions.ValidateSession(ValidateSessionRequest(session_token=token)).user.email
    'ada@example.com'
    """

    def __init__(
        self, *, threads: int = 32, heartbeat_interval: float = HEARTBEAT_INTERVAL
    ) -> None:
        """Create a server. Each stream occupies one of its threads."""
        self.address = "127.0.0.1:0"
        """The address, after the first start. The port stays the same after a restart."""
        self.calls: Counter[str] = Counter()
        """The number of calls of each method."""
        self._threads = threads
        self._heartbeat_interval = heartbeat_interval
        self._state = FakeState()
        self._is_available = True
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Start to answer calls. Raises `OSError` if the port is taken."""
        server = grpc.server(
            ThreadPoolExecutor(self._threads, "fake-auth"), options=[("grpc.so_reuseport", 0)]
        )
        for descriptor, servicer in (
            (_USERS, FakeUserServicer(self._state)),
            (_SESSIONS, FakeSessionServicer(self._state, self._heartbeat_interval)),
        ):
            handler = handlers(descriptor, servicer, self.calls, self._check_available)
            server.add_generic_rpc_handlers([handler])
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        self.address = f"127.0.0.1:{port}"
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop. Users and sessions are kept for the next start."""
        if self._server is not None:
            self._state.publish(ErrorReason.SERVICE_STOPPING)
            self._server.stop(grace=1).wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_user(self, email: str, **fields: Any) -> User:
        """Add and return a user. The fields are those of `User`, such as `first_name`."""
        return self._state.add_user(email, **fields)

    def start_session(self, user: User, *, life: timedelta = timedelta(days=7)) -> str:
        """Sign a user in, and return the token of the session."""
        return self._state.add_session(user.user_id, life)[1]

    def revoke(self, token: str) -> None:
        """Revoke the session of a token."""
        self._state.revoke_sessions(self._state.get_session_by_token(token))

    def revoke_all(self, user: User) -> None:
        """Revoke the sessions of a user."""
        self._state.revoke_sessions(*self._state.list_live_sessions(user.user_id))

    def expire(self, token: str) -> None:
        """Expire the session of a token."""
        with self._state.lock:
            session = self._state.get_session_by_token(token)
            session.expire_time.CopyFrom(session.create_time)
            ended = SessionEnd(user_id=session.user_id, session_id=session.session_id)
            self._state.publish(ended)

    def deactivate(self, user: User) -> None:
        """Deactivate a user, and end its sessions."""
        with self._state.lock:
            self._state.users[user.user_id].is_active = False
            self._state.publish(SessionEnd(user_id=user.user_id))
            self._state.revoke_sessions(*self._state.list_live_sessions(user.user_id))

    def delete(self, user: User) -> None:
        """Delete a user, and end its sessions."""
        with self._state.lock:
            self.deactivate(user)
            self._state.users[user.user_id].delete_time.GetCurrentTime()

    def break_streams(self) -> None:
        """End all streams, like the service when it may have missed ends of sessions."""
        self._state.publish(ErrorReason.STREAM_INTERRUPTED)

    @property
    def is_available(self) -> bool:
        """Whether calls succeed. If False, they fail with UNAVAILABLE, as without a database."""
        return self._is_available

    @is_available.setter
    def is_available(self, value: bool) -> None:
        self._is_available = value
        if not value:
            self.break_streams()

    def _check_available(self) -> None:
        if not self._is_available:
            raise RefusedError(ErrorReason.STORAGE_UNAVAILABLE)
