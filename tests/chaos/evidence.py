"""What is known of a run in the end, and what follows from it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from tests.chaos.history import Call, History, Outcome, Watch

USER_ENDS = ("RevokeUserSessions", "ChangePassword", "DeactivateUser", "DeleteUser")
CHANGES = ("UpdateUser", "ChangePassword", "DeactivateUser", "ActivateUser", "DeleteUser")
ALWAYS_CHANGES = ("UpdateUser", "ChangePassword", "DeleteUser")
"""Changes that count in a user's version whatever was before."""
VALIDATIONS = ("ValidateSession", "BatchValidateSessions", "RefreshSession")

GRACE = 10.0
"""Seconds that a replaced token works."""
SLACK = 3.0
"""Seconds by which the clock of the clients may be late."""


@dataclass(frozen=True)
class StoredUser:
    """What the database has of a user in the end."""

    id: str
    email: str
    first_name: str
    is_active: bool
    is_deleted: bool
    version: int
    has_profile: bool


@dataclass(frozen=True)
class StoredSession:
    """What the database has of a session in the end."""

    id: str
    user: str
    is_valid: bool


@dataclass(frozen=True)
class Stored:
    """What the database has in the end."""

    users: Mapping[str, StoredUser]
    sessions: Mapping[str, StoredSession]


class Evidence:
    """A history, and what the database has in the end."""

    def __init__(self, history: History, stored: Stored) -> None:
        self.history = history
        self.stored = stored
        self.of_user: dict[str, list[Call]] = defaultdict(list)
        self.of_session: dict[str, list[Call]] = defaultdict(list)
        for call in history.calls:
            self.of_user[call.user].append(call)
            self.of_session[call.session].append(call)

    @property
    def asked_in_vain(self) -> int:
        """How many validations began after somebody knew that their session was over."""
        asked = [call for call in self.history.of(*VALIDATIONS) if call.session]
        over = {call.session: self.over_by(call.session, call.user) for call in asked}
        return sum(call.began > over[call.session] for call in asked)

    @property
    def done_in_doubt(self) -> int:
        """How many changes are there of which no client was told."""
        told_of = {call.user for call in self.history.of("CreateUser") if call.is_ok}
        told_of |= {call.session for call in self.history.of("CreateSession") if call.is_ok}
        rows = sum(key not in told_of for key in (*self.stored.users, *self.stored.sessions))
        changes = sum(
            user.version - 1 - len({c.version for c in self.calls_of(user.id, *CHANGES) if c.is_ok})
            for user in self.stored.users.values()
        )
        return rows + changes

    def calls_of(self, user: str, *methods: str) -> list[Call]:
        return [call for call in self.of_user[user] if call.method in methods]

    def ends_of(self, session: str, user: str) -> list[Call]:
        """Return the calls that end a session, whatever became of them."""
        own = [call for call in self.of_session[session] if call.method == "RevokeSession"]
        started = [call for call in self.of_session[session] if call.method == "CreateSession"]
        known_by = started[0].ended if started else inf
        return own + [call for call in self.calls_of(user, *USER_ENDS) if call.began >= known_by]

    def to_be_told(self, watch: Watch) -> dict[str, Call]:
        """Return the sessions that a watch had to tell of, and what ended each for certain.

        It tells in the order of commits. What was answered before the end of another session
        was asked for, of which it told, came before that.
        """
        later = max((self._asked_to_end(session) for session in watch.told), default=0.0)
        return {
            session.id: end
            for session in self.stored.sessions.values()
            for end in self.ends_of(session.id, session.user)
            if end.is_ok
            and watch.began <= end.began
            and end.ended < later
            and not self.may_have_ended(session.id, session.user, watch.began)
        }

    def _asked_to_end(self, session: str) -> float:
        """Tell when somebody first asked for a session's end, or for what led to it."""
        user = self.stored.sessions[session].user
        asked = [call for call in self.of_session[session] if call.method == "RevokeSession"]
        asked += self._may_have_found_reuse(session)
        started = [call for call in self.of_session[session] if call.method == "CreateSession"]
        # Of a session that no client was told of it is not known when it began.
        since = started[0].began if started else 0.0
        asked += [call for call in self.calls_of(user, *USER_ENDS) if call.done_by >= since]
        return min((call.began for call in asked), default=0.0)

    def may_have_ended(self, session: str, user: str, moment: float) -> bool:
        ends = [call for call in self.of_session[session] if call.method == "RevokeSession"]
        ends += self.calls_of(user, *USER_ENDS)
        reused = self._may_have_found_reuse(session)
        return any(call.may_have_happened and call.began < moment for call in ends + reused) or any(
            call.reason == "SESSION_REUSED" for call in reused
        )

    def _may_have_found_reuse(self, session: str) -> list[Call]:
        """Return the calls that ended a session if a token of theirs had been replaced."""
        return [
            call
            for call in self.of_session[session]
            if call.reason == "SESSION_REUSED"
            or (call.method == "RefreshSession" and call.outcome is Outcome.UNKNOWN)
        ]

    def was_asked(self, call: Call, *methods: str) -> bool:
        return any(
            one.may_have_happened and one.began < call.ended
            for one in self.calls_of(call.user, *methods)
        )

    def was_replaced(self, call: Call) -> bool:
        return any(
            one.method == "RefreshSession"
            and one.token == call.token
            and one.may_have_happened
            and one.began + GRACE - SLACK < call.ended
            for one in self.of_session[call.session]
        )

    def is_password_in_doubt(self, call: Call) -> bool:
        shown = call.old or call.value
        return any(
            (one.old == shown and one.may_have_happened and one.began < call.ended)
            or (one.value == shown and not (one.is_ok and one.ended <= call.began))
            for one in self.calls_of(call.user, "ChangePassword")
            if one is not call
        )

    def over_by(self, session: str, user: str) -> float:
        """Tell when somebody knew that a session was over."""
        ends = [call.ended for call in self.ends_of(session, user) if call.is_ok]
        told = {"SESSION_REVOKED", "SESSION_REUSED"}
        heard = [call.ended for call in self.of_session[session] if call.reason in told]
        return min(ends + heard, default=inf)


def told(call: Call) -> str:
    how = call.reason or (call.refusal.code.name if call.refusal else call.outcome)
    return f"{call.method} ({how}, {call.began:.3f}-{call.ended:.3f})"
