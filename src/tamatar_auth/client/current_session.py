"""The session of the call that is handled."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from tamatar.auth.v1.session_pb2 import Session
from tamatar.auth.v1.session_service_pb2 import ValidateSessionResponse
from tamatar.auth.v1.user_pb2 import User

_CURRENT_SESSION: ContextVar["CurrentSession | None"] = ContextVar(
    "tamatar_auth_session", default=None
)


@dataclass(frozen=True, slots=True)
class CurrentSession:
    """A session that was valid when it was checked, and its user. It does not hold the token."""

    session: Session
    user: User

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.session.session_id

    @property
    def user_id(self) -> str:
        """The id of the user."""
        return self.user.user_id


def current_session() -> CurrentSession:
    """Return the session of the call that is handled.

    Raises `LookupError` if there is none: in open methods, in optional methods that are called
    without a session, and outside of calls.

    >>> current_session().user.email
    'ada@example.com'
    """
    session = _CURRENT_SESSION.get()
    if session is None:
        raise LookupError("there is no session: the guard requires none for this call")
    return session


def find_current_session() -> CurrentSession | None:
    """Return the session of the call that is handled, or None."""
    return _CURRENT_SESSION.get()


def as_current_session(response: ValidateSessionResponse) -> CurrentSession:
    """Return the session in a response. It is a copy, because a handler may change it."""
    session, user = Session(), User()
    session.CopyFrom(response.session)
    user.CopyFrom(response.user)
    return CurrentSession(session, user)


def bind_session(session: CurrentSession | None) -> None:
    """Make `current_session` return a session in the rest of this task."""
    _CURRENT_SESSION.set(session)


@contextlib.contextmanager
def bound_session(session: CurrentSession | None) -> Iterator[None]:
    """Make `current_session` return a session inside the block."""
    token = _CURRENT_SESSION.set(session)
    try:
        yield
    finally:
        # An abandoned generator is closed in another context, where the token is not valid.
        with contextlib.suppress(ValueError):
            _CURRENT_SESSION.reset(token)
