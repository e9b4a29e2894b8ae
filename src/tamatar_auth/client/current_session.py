"""Whose session the call in hand belongs to."""

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
    """A session that was found good, and its user as of then. It does not hold the token."""

    session: Session
    user: User

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.session.session_id

    @property
    def user_id(self) -> str:
        """The id of its user."""
        return self.user.user_id


def current_session() -> CurrentSession:
    """Return the session of the call in hand.

    Raises `LookupError` where there is none: in methods that are open, in calls without a session
    to methods where it is optional, and outside of calls.

    >>> current_session().user.email
    'ada@example.com'
    """
    session = _CURRENT_SESSION.get()
    if session is None:
        raise LookupError("there is no session: the guard lets calls without one in here")
    return session


def find_current_session() -> CurrentSession | None:
    """Return the session of the call in hand, or None where there is none."""
    return _CURRENT_SESSION.get()


def as_current_session(response: ValidateSessionResponse) -> CurrentSession:
    """Return the session of an answer: a copy, whatever its handler does with it."""
    session, user = Session(), User()
    session.CopyFrom(response.session)
    user.CopyFrom(response.user)
    return CurrentSession(session, user)


def bind_session(session: CurrentSession | None) -> None:
    """Let `current_session` return a session in the rest of this task."""
    _CURRENT_SESSION.set(session)


@contextlib.contextmanager
def bound_session(session: CurrentSession | None) -> Iterator[None]:
    """Let `current_session` return a session for as long as the block."""
    token = _CURRENT_SESSION.set(session)
    try:
        yield
    finally:
        # What nobody finished is thrown away in a context of another: there is nothing to reset.
        with contextlib.suppress(ValueError):
            _CURRENT_SESSION.reset(token)
