"""A fake service in memory, for the tests of calling services."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Self

import grpc

from tamatar.auth.v1 import factor_service_pb2, session_service_pb2, user_service_pb2
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.step_up import AAL1, AAL2
from tamatar_auth.client.testing.factor_shortcuts import FactorShortcuts
from tamatar_auth.client.testing.handlers import CallLog, FakeHandlers
from tamatar_auth.client.testing.identifiers import normalize_email, normalize_password
from tamatar_auth.client.testing.passkeys import FakePasskey
from tamatar_auth.client.testing.servicers import (
    FakeFactorServicer,
    FakeSessionServicer,
    FakeUserServicer,
)
from tamatar_auth.client.testing.servicers.lifecycle import CALLER
from tamatar_auth.client.testing.servicers.sessions import HEARTBEAT_INTERVAL
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.authentication import PASSWORD, TWO_FACTORS
from tamatar_auth.client.testing.store.sessions import LIFETIME

__all__ = ["FakeAuthServer", "FakePasskey"]

_USERS = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
_FACTORS = factor_service_pb2.DESCRIPTOR.services_by_name["FactorService"]
_SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]


class FakeAuthServer(FactorShortcuts):
    """A gRPC server on a loopback port that behaves like the service, without a database.

    It answers all calls of SessionService and FactorService, and those of UserService but
    ImportUsers and ExportUsers. Other calls fail with UNIMPLEMENTED. Callers need no token.

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
        self._threads = threads
        self._heartbeat_interval = heartbeat_interval
        self._store = FakeStore()
        self._log = CallLog()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Start to answer calls. Raises `OSError` if the port is taken."""
        server = grpc.server(
            ThreadPoolExecutor(self._threads, "fake-auth"), options=[("grpc.so_reuseport", 0)]
        )
        servicers = {
            _USERS: FakeUserServicer(self._store),
            _FACTORS: FakeFactorServicer(self._store),
            _SESSIONS: FakeSessionServicer(self._store, self._heartbeat_interval),
        }
        server.add_generic_rpc_handlers([FakeHandlers(servicers, self._store, self._log)])
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
            self._store.ends.end_streams(ErrorReason.SERVICE_STOPPING)
            self._server.stop(grace=1).wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def calls(self) -> "Counter[str]":
        """The number of calls of each method."""
        return self._log.counts

    def add_user(self, email: str, *, password: str = "", **fields: Any) -> User:
        """Add and return a user. The fields are those of `User`, such as `first_name`.

        The user is active and its address is verified, unless the fields say otherwise. Raises
        `RefusedError` if the address or the username is taken.
        """
        given: dict[str, Any] = {"is_active": True, "email_verified": True} | fields
        with self._store.lock:
            record = self._store.users.add(User(email=normalize_email(email), **given))
            record.password = normalize_password(password)
            return User.FromString(record.user.SerializeToString())

    def start_session(
        self,
        user: User,
        *,
        life: timedelta = LIFETIME,
        level: AssuranceLevel.ValueType = AAL1,
        authentication_age: timedelta = timedelta(0),
    ) -> str:
        """Sign a user in without a password, and return the token of the session.

        The session has an assurance level, as after a second factor, and an authentication that
        may be some time ago.
        """
        methods = TWO_FACTORS if level == AAL2 else PASSWORD
        with self._store.lock:
            record = self._store.users.get(user.user_id)
            started = self._store.sessions.add(user.user_id, life, methods=methods)
            authenticated_at = self._store.clock.now() - authentication_age
            started.session.authenticate_time.FromDatetime(authenticated_at)
            record.user.last_login_time.CopyFrom(started.session.create_time)
            return started.tokens[-1]

    def revoke(self, token: str) -> None:
        """Revoke the session of a token."""
        with self._store.lock:
            self._store.sessions.revoke(self._store.sessions.get_by_token(token))

    def revoke_all(self, user: User) -> None:
        """Revoke the sessions of a user."""
        with self._store.lock:
            self._store.sessions.revoke_of_user(user.user_id)

    def expire(self, token: str) -> None:
        """Expire the session of a token."""
        with self._store.lock:
            self._store.sessions.expire(self._store.sessions.get_by_token(token))

    def deactivate(self, user: User) -> None:
        """Deactivate a user, and end its sessions."""
        with self._store.lock:
            self._store.deactivate(self._store.users.get(user.user_id))

    def delete(self, user: User) -> None:
        """Delete a user, and end its sessions."""
        with self._store.lock:
            self._store.delete(self._store.users.get(user.user_id), CALLER)

    def advance(self, time: timedelta) -> None:
        """Move the clock of the service forward: sessions and one-time tokens expire."""
        with self._store.lock:
            self._store.clock.advance(time)

    def fail_next(self, method: str, reason: ErrorReason.ValueType) -> None:
        """Refuse the next call of a method, such as `CreateSession`, for a reason."""
        with self._store.lock:
            self._log.fail_next(method, reason)

    def break_streams(self) -> None:
        """End all streams, like the service when it may have missed ends of sessions."""
        self._store.ends.end_streams(ErrorReason.STREAM_INTERRUPTED)

    @property
    def is_available(self) -> bool:
        """Whether calls succeed. If False, they fail with UNAVAILABLE, as without a database."""
        return self._log.is_available

    @is_available.setter
    def is_available(self, value: bool) -> None:
        self._log.is_available = value
        if not value:
            self.break_streams()
