"""A service in memory, for the tests of those who call the real one."""

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
    """A gRPC server on a port of loopback that answers as the service does, without a database.

    It answers ValidateSession, BatchValidateSessions, GetSession, RevokeSession,
    RevokeUserSessions, WatchSessions, GetUser and BatchGetUsers; other methods are UNIMPLEMENTED.
    Callers need no token.

    >>> with FakeAuthServer() as fake, connect(fake.address) as auth:
    ...     token = fake.start_session(fake.add_user("ada@example.com"))
    ...     auth.sessions.ValidateSession(ValidateSessionRequest(session_token=token)).user.email
    'ada@example.com'
    """

    def __init__(
        self, *, threads: int = 32, heartbeat_interval: float = HEARTBEAT_INTERVAL
    ) -> None:
        """Prepare a server; each stream occupies one of its threads."""
        self.address = "127.0.0.1:0"
        """Where it answers, as soon as it was started; it keeps its port."""
        self.calls: Counter[str] = Counter()
        """How often each method was called."""
        self._threads = threads
        self._heartbeat_interval = heartbeat_interval
        self._state = FakeState()
        self._is_available = True
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Begin to answer; raise `OSError` if the port cannot be had."""
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
        """Answer no more; what is known is kept for the next start."""
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
        """Add a user; the fields are those of `User`, such as `first_name`."""
        return self._state.add_user(email, **fields)

    def start_session(self, user: User, *, life: timedelta = timedelta(days=7)) -> str:
        """Sign a user in; return the token of the session."""
        return self._state.add_session(user.user_id, life)[1]

    def revoke(self, token: str) -> None:
        """End the session of a token."""
        self._state.revoke_sessions(self._state.get_session_by_token(token))

    def revoke_all(self, user: User) -> None:
        """End the sessions of a user."""
        self._state.revoke_sessions(*self._state.list_live_sessions(user.user_id))

    def expire(self, token: str) -> None:
        """Let the life of the session be over that a token is of."""
        with self._state.lock:
            session = self._state.get_session_by_token(token)
            session.expire_time.CopyFrom(session.create_time)
            ended = SessionEnd(user_id=session.user_id, session_id=session.session_id)
            self._state.publish(ended)

    def deactivate(self, user: User) -> None:
        """Bar a user from signing in, and end the sessions."""
        with self._state.lock:
            self._state.users[user.user_id].is_active = False
            self._state.publish(SessionEnd(user_id=user.user_id))
            self._state.revoke_sessions(*self._state.list_live_sessions(user.user_id))

    def delete(self, user: User) -> None:
        """Delete a user, and end the sessions."""
        with self._state.lock:
            self.deactivate(user)
            self._state.users[user.user_id].delete_time.GetCurrentTime()

    def break_streams(self) -> None:
        """End all streams, as the service does when they may lack something."""
        self._state.publish(ErrorReason.STREAM_INTERRUPTED)

    @property
    def is_available(self) -> bool:
        """Whether calls are answered; if not, all end UNAVAILABLE, as without a database."""
        return self._is_available

    @is_available.setter
    def is_available(self, value: bool) -> None:
        self._is_available = value
        if not value:
            self.break_streams()

    def _check_available(self) -> None:
        if not self._is_available:
            raise RefusedError(ErrorReason.STORAGE_UNAVAILABLE)
