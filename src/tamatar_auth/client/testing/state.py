"""The users and sessions of the fake service, in memory."""

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import RLock
from typing import Any
from uuid import uuid4

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import Session
from tamatar.auth.v1.session_service_pb2 import SessionEnd
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError

Watcher = SimpleQueue[SessionEnd | ErrorReason.ValueType]
"""A queue of ends, and finally of the reason why the stream ends."""


class FakeState:
    """Users, their sessions, and the watchers of sessions."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.users: dict[str, User] = {}
        self.sessions: dict[str, Session] = {}
        self._tokens: dict[str, str] = {}
        self._watchers: set[Watcher] = set()

    def add_user(self, email: str, **fields: Any) -> User:
        """Add and return a live user. It is verified by default."""
        given: dict[str, Any] = {"user_id": str(uuid4()), "email_verified": True}
        given |= {"is_active": True, "etag": "1"} | fields
        user = User(email=email.lower(), **given)
        user.full_name = user.full_name or f"{user.first_name} {user.last_name}".strip()
        for name in ("create_time", "update_time"):
            if not user.HasField(name):
                getattr(user, name).FromDatetime(_now())
        with self.lock:
            self.users[user.user_id] = user
        return User.FromString(user.SerializeToString())

    def add_session(self, user_id: str, life: timedelta) -> tuple[Session, str]:
        """Start a session, and return it and its token."""
        token = f"tms_{secrets.token_urlsafe(32)}"
        session = Session(session_id=str(uuid4()), user_id=user_id)
        session.create_time.FromDatetime(_now())
        session.last_activity_time.FromDatetime(_now())
        session.expire_time.FromDatetime(_now() + life)
        session.client.SetInParent()
        with self.lock:
            self.get_live_user(user_id).last_login_time.FromDatetime(_now())
            self.sessions[session.session_id] = session
            self._tokens[token] = session.session_id
        return session, token

    def get_session_by_token(self, token: str) -> Session:
        """Return the session of a token, valid or not, or raise `RefusedError`."""
        with self.lock:
            return self.session(self._tokens.get(token, ""))

    def session(self, session_id: str) -> Session:
        """Return a session, valid or not, or raise `RefusedError`."""
        with self.lock:
            if session_id not in self.sessions:
                raise RefusedError(ErrorReason.SESSION_NOT_FOUND)
            return self.sessions[session_id]

    def get_valid_session(self, token: str) -> tuple[Session, User]:
        """Return a valid session and its user, or raise `RefusedError`."""
        with self.lock:
            if token not in self._tokens:
                raise RefusedError(ErrorReason.SESSION_UNKNOWN)
            session = self.sessions[self._tokens[token]]
            user = self.users[session.user_id]
            if session.HasField("revoke_time"):
                raise RefusedError(ErrorReason.SESSION_REVOKED)
            if _is_expired(session):
                raise RefusedError(ErrorReason.SESSION_EXPIRED)
            if user.HasField("delete_time") or not user.is_active:
                raise RefusedError(ErrorReason.USER_INACTIVE)
            return session, user

    def get_live_user(self, user_id: str) -> User:
        """Return a live user, or raise `RefusedError`."""
        return self.get_user_where(lambda user: user.user_id == user_id)

    def get_user_where(self, matches: Callable[[User], bool]) -> User:
        """Return the live user that matches, or raise `RefusedError`."""
        with self.lock:
            for user in self.users.values():
                if matches(user) and not user.HasField("delete_time"):
                    return user
        raise RefusedError(ErrorReason.USER_NOT_FOUND)

    def revoke_sessions(self, *sessions: Session) -> int:
        """Revoke sessions, publish their ends, and return how many were live."""
        with self.lock:
            live = [each for each in sessions if not each.HasField("revoke_time")]
            for session in live:
                session.revoke_time.FromDatetime(_now())
                self.publish(SessionEnd(user_id=session.user_id, session_id=session.session_id))
            return sum(not _is_expired(session) for session in live)

    def list_live_sessions(self, user_id: str) -> Sequence[Session]:
        """Return the live sessions of a user."""
        with self.lock:
            every = [each for each in self.sessions.values() if each.user_id == user_id]
            return [
                each for each in every if not each.HasField("revoke_time") and not _is_expired(each)
            ]

    def add_watcher(self) -> Watcher:
        """Return a queue of all ends from now on."""
        watcher: Watcher = SimpleQueue()
        with self.lock:
            self._watchers.add(watcher)
        return watcher

    def remove_watcher(self, watcher: Watcher) -> None:
        """Stop publishing to a queue."""
        with self.lock:
            self._watchers.discard(watcher)

    def publish(self, event: SessionEnd | ErrorReason.ValueType) -> None:
        """Send an end, or the reason why the stream ends, to all watchers."""
        with self.lock:
            for watcher in self._watchers:
                watcher.put(event)


def _is_expired(session: Session) -> bool:
    return session.expire_time.ToDatetime(tzinfo=UTC) <= _now()


def _now() -> datetime:
    return datetime.now(UTC)
