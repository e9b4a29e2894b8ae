"""Rules for responses: ended things stay ended, and refusals have their reasons."""

from collections.abc import Callable, Iterator
from math import inf

from tests.chaos.evidence import GRACE, SLACK, VALIDATIONS, Evidence, describe
from tests.chaos.history import Call


def calls_after_end(evidence: Evidence) -> Iterator[Call]:
    """Yield the validations that succeeded and began after the end of their session was known."""
    over_by: dict[str, float] = {}
    for call in evidence.history.of(*VALIDATIONS):
        if call.is_ok:
            if call.session not in over_by:
                over_by[call.session] = evidence.over_by(call.session, call.user)
            if call.began > over_by[call.session]:
                yield call


def good_after_end(evidence: Evidence) -> Iterator[str]:
    for call in calls_after_end(evidence):
        yield f"{describe(call)} of session {call.session}, which was over"
    for call in evidence.history.of(*VALIDATIONS):
        if not call.is_ok:
            continue
        replaced = [
            one.ended
            for one in evidence.of_session[call.session]
            if one.method == "RefreshSession" and one.is_ok and one.token == call.token
        ]
        if replaced and call.began > min(replaced) + GRACE + SLACK:
            yield f"{describe(call)} with a token that was replaced long ago"


def old_passwords(evidence: Evidence) -> Iterator[str]:
    changed = {
        (call.user, call.old): call.ended
        for call in evidence.history.of("ChangePassword")
        if call.is_ok
    }
    for call in evidence.history.of("CreateSession"):
        if call.is_ok and call.began > changed.get((call.user, call.value), inf):
            yield f"{describe(call)} with a password that was changed"


def used_after_deletion(evidence: Evidence) -> Iterator[str]:
    for calls in evidence.of_user.values():
        gone = [call.ended for call in calls if call.method == "DeleteUser" and call.is_ok]
        for call in calls:
            # An ended session may be revoked again.
            ended = call.method in {"DeleteUser", "CreateUser", "RevokeSession"}
            if call.is_ok and not ended and call.began > min(gone, default=inf):
                yield f"{describe(call)} of user {call.user}, who was deleted"


def missed_ends(evidence: Evidence) -> Iterator[str]:
    for watch in evidence.history.watches:
        for session, end in evidence.due_ends(watch).items():
            if session not in watch.ends:
                since = f"the watch from {watch.began:.3f}"
                yield f"{describe(end)} of session {session} was not received by {since}"


def stale_reads(evidence: Evidence) -> Iterator[str]:
    for calls in evidence.of_user.values():
        versions = sorted((c.ended, c.version) for c in calls if c.is_ok and c.version)
        for call in calls:
            if call.method == "GetUser" and call.is_ok:
                known = [version for ended, version in versions if ended < call.began]
                if call.version < max(known, default=0):
                    yield f"{describe(call)} describe of version {call.version}, not {max(known)}"


def unreasoned(evidence: Evidence) -> Iterator[str]:
    for call in evidence.history.calls:
        for reasons, is_justified, problem in JUSTIFICATIONS:
            if call.reason in reasons and not is_justified(evidence, call):
                yield f"{describe(call)}: {problem}"


def _is_contested(evidence: Evidence, call: Call) -> bool:
    """Return whether another creation may have the address; a repeated one is the same."""
    return any(
        other.address == call.address
        and other.may_have_happened
        and other.began < call.ended
        and (other.request or other) != (call.request or call)
        for other in evidence.history.of("CreateUser")
    )


def _is_barred(evidence: Evidence, call: Call) -> bool:
    return evidence.was_asked(call, "DeactivateUser", "DeleteUser")


def _is_ended(evidence: Evidence, call: Call) -> bool:
    return evidence.may_have_ended(call.session, call.user, call.ended)


JUSTIFICATIONS: tuple[tuple[set[str], Callable[[Evidence, Call], bool], str], ...] = (
    ({"SESSION_REVOKED"}, _is_ended, "no call revoked it"),
    ({"SESSION_UNKNOWN", "SESSION_REUSED"}, Evidence.was_replaced, "it was never replaced"),
    ({"SESSION_EXPIRED", "SESSION_IDLE"}, lambda *_: False, "it lives for days"),
    ({"USER_INACTIVE", "USER_NOT_FOUND"}, _is_barred, "no call barred or deleted the user"),
    ({"EMAIL_TAKEN"}, _is_contested, "no other call wanted the address"),
    (
        {"INVALID_CREDENTIALS"},
        lambda evidence, call: _is_barred(evidence, call) or evidence.is_password_in_doubt(call),
        "no call changed the password",
    ),
)
"""Refusals, the calls that may have led to them, and the complaint if there are none."""
