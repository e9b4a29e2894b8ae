"""The history and the final rows of a run, and conclusions from them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from tests.chaos.history import Call, History, Outcome, Watch

USER_ENDS = ("RevokeUserSessions", "ChangePassword", "DeactivateUser", "DeleteUser")
CHANGES = ("UpdateUser", "ChangePassword", "DeactivateUser", "ActivateUser", "DeleteUser")
ALWAYS_CHANGES = ("UpdateUser", "ChangePassword", "DeleteUser")
"""Changes that always raise a user's version."""
VALIDATIONS = ("ValidateSession", "BatchValidateSessions", "RefreshSession")

GRACE = 10.0
"""Seconds that a replaced token works."""
SLACK = 3.0
"""Seconds by which the clock of the clients may be late."""


@dataclass(frozen=True)
class StoredUser:
    """The final row of a user."""

    id: str
    email: str
    first_name: str
    is_active: bool
    is_deleted: bool
    version: int
    has_profile: bool


@dataclass(frozen=True)
class StoredSession:
    """The final row of a session."""

    id: str
    user: str
    is_valid: bool


@dataclass(frozen=True)
class Stored:
    """The final rows of the database."""

    users: Mapping[str, StoredUser]
    sessions: Mapping[str, StoredSession]


class Evidence:
    """A history, and the final rows of the database."""

    def __init__(self, history: History, stored: Stored) -> None:
        self.history = history
        self.stored = stored
        self.of_user: dict[str, list[Call]] = defaultdict(list)
        self.of_session: dict[str, list[Call]] = defaultdict(list)
        for call in history.calls:
            self.of_user[call.user].append(call)
            self.of_session[call.session].append(call)

    @property
    def validations_after_end(self) -> int:
        """The number of validations that began after the end of their session was known."""
        asked = [call for call in self.history.of(*VALIDATIONS) if call.session]
        over = {call.session: self.over_by(call.session, call.user) for call in asked}
        return sum(call.began > over[call.session] for call in asked)

    @property
    def unacknowledged_changes(self) -> int:
        """The number of changes that no client saw acknowledged."""
        acknowledged = {call.user for call in self.history.of("CreateUser") if call.is_ok}
        acknowledged |= {call.session for call in self.history.of("CreateSession") if call.is_ok}
        rows = sum(key not in acknowledged for key in (*self.stored.users, *self.stored.sessions))
        changes = sum(
            user.version - 1 - len({c.version for c in self.calls_of(user.id, *CHANGES) if c.is_ok})
            for user in self.stored.users.values()
        )
        return rows + changes

    def calls_of(self, user: str, *methods: str) -> list[Call]:
        return [call for call in self.of_user[user] if call.method in methods]

    def ends_of(self, session: str, user: str) -> list[Call]:
        """Return the calls that end a session, whatever their outcome."""
        own = [call for call in self.of_session[session] if call.method == "RevokeSession"]
        started = [call for call in self.of_session[session] if call.method == "CreateSession"]
        known_by = started[0].ended if started else inf
        return own + [call for call in self.calls_of(user, *USER_ENDS) if call.began >= known_by]

    def due_ends(self, watch: Watch) -> dict[str, Call]:
        """Return the sessions whose end a watch must have received, with the certain end.

        A watch receives ends in the order of commits. An end that was answered before the
        last received end was requested was committed earlier.
        """
        later = max((self._asked_to_end(session) for session in watch.ends), default=0.0)
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
        """Return when a session's end, or what led to it, was first requested."""
        user = self.stored.sessions[session].user
        asked = [call for call in self.of_session[session] if call.method == "RevokeSession"]
        asked += self._may_have_found_reuse(session)
        started = [call for call in self.of_session[session] if call.method == "CreateSession"]
        # A session whose creation was never answered has no known beginning.
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
        """Return the calls that ended a session if their token had been replaced."""
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
        """Return whether the token of a call may have stopped working during the call.

        A replaced token works for `GRACE`, or until its successor is replaced too.
        """
        refreshes = [
            one
            for one in self.of_session[call.session]
            if one.method == "RefreshSession" and one.may_have_happened and one.began < call.ended
        ]
        replacements = [one for one in refreshes if one.token == call.token]
        others = [one for one in refreshes if one.token != call.token]
        return any(
            one.began + GRACE - SLACK < call.ended
            or any(one.began < other.ended for other in others)
            for one in replacements
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
        """Return when the end of a session was first known."""
        ends = [call.ended for call in self.ends_of(session, user) if call.is_ok]
        known = {"SESSION_REVOKED", "SESSION_REUSED"}
        refused = [call.ended for call in self.of_session[session] if call.reason in known]
        return min(ends + refused, default=inf)


def describe(call: Call) -> str:
    how = call.reason or (call.refusal.code.name if call.refusal else call.outcome)
    return f"{call.method} ({how}, {call.began:.3f}-{call.ended:.3f})"
