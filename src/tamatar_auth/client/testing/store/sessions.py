"""Sessions: their records, and how they are validated, refreshed and ended."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import Session, SessionClient
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.store.authentication import PASSWORD, authenticate
from tamatar_auth.client.testing.store.clock import Clock
from tamatar_auth.client.testing.store.session_ends import SessionEnds
from tamatar_auth.client.testing.store.users import UserRecord, Users, new_id

LIFETIME = timedelta(days=7)
MAX_LIVE_SESSIONS = 100
"""The lifetime and the number of a user's sessions by the default settings of the real service."""

GRACE = timedelta(seconds=10)
"""How long a replaced token still works."""

_ACTIVITY_PRECISION = timedelta(minutes=5)


@dataclass
class SessionRecord:
    """A session, live or ended."""

    session: Session
    tokens: list[str] = field(repr=False)
    """All tokens that the session had, the present one last."""
    refresh_time: datetime | None = None

    @property
    def is_revoked(self) -> bool:
        """Whether the session was revoked."""
        return self.session.HasField("revoke_time")

    def is_expired(self, now: datetime) -> bool:
        """Return whether the session has expired."""
        return self.session.expire_time.ToDatetime(tzinfo=UTC) <= now

    def is_live(self, now: datetime) -> bool:
        """Return whether the session is neither revoked nor expired."""
        return not self.is_revoked and not self.is_expired(now)

    def is_in_grace(self, token: str, now: datetime) -> bool:
        """Return whether a token is the previous one, and still works."""
        if self.refresh_time is None or token != self.tokens[-2]:
            return False
        return now < self.refresh_time + GRACE


class Sessions:
    """The sessions of the fake service."""

    def __init__(self, clock: Clock, users: Users, ends: SessionEnds) -> None:
        self._clock = clock
        self._users = users
        self._ends = ends
        self._records: dict[str, SessionRecord] = {}
        self._ids: dict[str, str] = {}  # by token

    def add(
        self,
        user_id: str,
        life: timedelta = LIFETIME,
        client: SessionClient | None = None,
        *,
        methods: Iterable[str] = PASSWORD,
    ) -> SessionRecord:
        """Start a session, and revoke the oldest sessions of the user beyond the limit."""
        now, token = self._clock.now(), _new_token()
        session = Session(session_id=new_id(int(now.timestamp() * 1000)), user_id=user_id)
        session.create_time.FromDatetime(now)
        session.last_activity_time.FromDatetime(now)
        session.expire_time.FromDatetime(now + life)
        authenticate(session, methods, now)
        session.client.MergeFrom(client or SessionClient())
        session.client.SetInParent()
        record = SessionRecord(session, [token])
        self._records[session.session_id] = record
        self._ids[token] = session.session_id
        self.revoke(*self.list_live(user_id)[:-MAX_LIVE_SESSIONS])
        return record

    def get(self, session_id: str) -> SessionRecord:
        """Return a session, live or ended, or raise `RefusedError`."""
        if session_id not in self._records:
            raise RefusedError(ErrorReason.SESSION_NOT_FOUND)
        return self._records[session_id]

    def get_by_token(self, token: str) -> SessionRecord:
        """Return the session that has or had a token, or raise `RefusedError`."""
        return self.get(self._ids.get(token, ""))

    def validate(self, token: str) -> tuple[Session, UserRecord]:
        """Return the valid session of a token and its user, or raise `RefusedError`."""
        record = self._records.get(self._ids.get(token, ""))
        now = self._clock.now()
        if record is None or (token != record.tokens[-1] and not record.is_in_grace(token, now)):
            raise RefusedError(ErrorReason.SESSION_UNKNOWN)
        user = self._check_valid(record)
        last_activity = record.session.last_activity_time.ToDatetime(tzinfo=UTC)
        if now - last_activity >= _ACTIVITY_PRECISION:
            record.session.last_activity_time.FromDatetime(now)
        return record.session, user

    def refresh(self, token: str) -> tuple[SessionRecord, UserRecord]:
        """Replace the token of a session, or raise `RefusedError`."""
        record = self._records.get(self._ids.get(token, ""))
        if record is None:
            raise RefusedError(ErrorReason.SESSION_UNKNOWN)
        user, now = self._check_valid(record), self._clock.now()
        if token == record.tokens[-1]:
            record.tokens.append(_new_token())
            record.refresh_time = now
            record.session.last_activity_time.FromDatetime(now)
            self._ids[record.tokens[-1]] = record.session.session_id
        elif not record.is_in_grace(token, now):
            self.revoke(record)
            raise RefusedError(ErrorReason.SESSION_REUSED)
        return record, user

    def step_up(self, session_id: str, methods: Iterable[str]) -> SessionRecord:
        """Record that the user has proved again who they are, and replace the token at once."""
        record, now = self._records[session_id], self._clock.now()
        authenticate(record.session, methods, now)
        record.session.last_activity_time.FromDatetime(now)
        record.tokens.append(_new_token())
        record.refresh_time = None
        self._ids[record.tokens[-1]] = session_id
        return record

    def list_of_user(self, user_id: str) -> Sequence[SessionRecord]:
        """Return the sessions of a user, the oldest first."""
        return [each for each in self._records.values() if each.session.user_id == user_id]

    def list_live(self, user_id: str) -> Sequence[SessionRecord]:
        """Return the live sessions of a user, the oldest first."""
        now = self._clock.now()
        return [each for each in self.list_of_user(user_id) if each.is_live(now)]

    def revoke(self, *records: SessionRecord) -> int:
        """Revoke sessions, publish their ends, and return how many were live."""
        now = self._clock.now()
        ended = [each for each in records if not each.is_revoked]
        for record in ended:
            record.session.revoke_time.FromDatetime(now)
            self._ends.publish_session(record.session.user_id, record.session.session_id)
        return sum(not record.is_expired(now) for record in ended)

    def revoke_of_user(self, user_id: str, *, except_id: str = "") -> int:
        """Revoke the live sessions of a user, all or all but one, and return how many."""
        live = self.list_live(user_id)
        return self.revoke(*(each for each in live if each.session.session_id != except_id))

    def expire(self, record: SessionRecord) -> None:
        """Expire a session, and publish its end."""
        record.session.expire_time.CopyFrom(record.session.create_time)
        self._ends.publish_session(record.session.user_id, record.session.session_id)

    def remove_of_user(self, user_id: str) -> None:
        """Remove the sessions of a user."""
        for record in self.list_of_user(user_id):
            for token in record.tokens:
                del self._ids[token]
            del self._records[record.session.session_id]

    def _check_valid(self, record: SessionRecord) -> UserRecord:
        """Return the user of a session, or raise the refusal of the session."""
        if record.is_revoked:
            raise RefusedError(ErrorReason.SESSION_REVOKED)
        if record.is_expired(self._clock.now()):
            raise RefusedError(ErrorReason.SESSION_EXPIRED)
        user_id = record.session.user_id
        user = self._users.get_where(lambda user: user.user_id == user_id, include_deleted=True)
        if user.is_deleted or not user.user.is_active:
            raise RefusedError(ErrorReason.USER_INACTIVE)
        return user


def _new_token() -> str:
    """Return a token of the length of the real service. Its letters mean nothing to callers."""
    return f"tms_{secrets.token_urlsafe(37)}"
