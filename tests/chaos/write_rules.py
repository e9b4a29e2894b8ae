"""Rules for writes: an acknowledged write is there, whole, and there is nothing else."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import inf

from tests.chaos.evidence import ALWAYS_CHANGES, CHANGES, Evidence, StoredUser, describe
from tests.chaos.history import Call


def lost_rows(evidence: Evidence) -> Iterator[str]:
    for call in evidence.history.calls:
        if call.method == "CreateUser" and call.is_ok and call.user not in evidence.stored.users:
            yield f"the user of {describe(call)} is not there"
        is_start = call.method == "CreateSession" and call.is_ok
        if is_start and call.session not in evidence.stored.sessions:
            yield f"the session of {describe(call)} is not there"
        if call.reason == "SESSION_NOT_FOUND":
            yield f"the session of {describe(call)} was not found"


def lost_ends(evidence: Evidence) -> Iterator[str]:
    for session in evidence.stored.sessions.values():
        for end in evidence.ends_of(session.id, session.user):
            if session.is_valid and end.is_ok:
                yield f"session {session.id} lives in spite of {describe(end)}"


def lost_changes(evidence: Evidence) -> Iterator[str]:
    for user in evidence.stored.users.values():
        done = [call for call in evidence.of_user[user.id] if call.is_ok]
        counted = [call for call in done if call.method in ALWAYS_CHANGES]
        newest = max((call.version for call in done), default=0)
        if user.version < newest or user.version - 1 < len(counted):
            yield f"user {user.id} has version {user.version}, {newest} was answered"
        doubled = [n for n, times in Counter(c.version for c in counted).items() if times > 1]
        if doubled:
            yield f"user {user.id} had two changes with the versions {doubled}"
        if not user.is_deleted and any(call.method == "DeleteUser" for call in done):
            yield f"user {user.id} lives, its deletion was answered"
        if not evidence.calls_of(user.id, "CreateUser"):
            continue  # its creation was never acknowledged
        names = evidence.calls_of(user.id, "UpdateUser", "CreateUser")
        if problem := _register(names, user.first_name):
            yield f"user {user.id} is called {user.first_name}: {problem}"
        if problem := _lost_activity(evidence, user):
            yield problem


def uncalled_rows(evidence: Evidence) -> Iterator[str]:
    made = [call for call in evidence.history.of("CreateUser") if call.may_have_happened]
    asked = Counter(address for address, _ in {(c.address, c.request or str(id(c))) for c in made})
    rows = Counter(user.email for user in evidence.stored.users.values())
    for address in rows:
        if rows[address] > asked[address]:
            yield f"{rows[address]} users of {address}, {asked[address]} were asked for"
    sessions = Counter(session.user for session in evidence.stored.sessions.values())
    for user, count in sessions.items():
        starts = evidence.calls_of(user, "CreateSession")
        started = sum(call.may_have_happened for call in starts)
        if count > started:
            yield f"user {user} has {count} sessions, {started} were asked for"


def uncalled_changes(evidence: Evidence) -> Iterator[str]:
    for user in evidence.stored.users.values():
        possible = sum(call.may_have_happened for call in evidence.calls_of(user.id, *CHANGES))
        if user.version - 1 > possible:
            yield f"user {user.id} was changed {user.version - 1} times, {possible} asked for"
        gone = any(call.may_have_happened for call in evidence.calls_of(user.id, "DeleteUser"))
        if user.is_deleted and not gone:
            yield f"user {user.id} is deleted, without a call"
    for session in evidence.stored.sessions.values():
        if not session.is_valid and not evidence.may_have_ended(session.id, session.user, inf):
            yield f"session {session.id} is revoked, without a call"


def shared_addresses(evidence: Evidence) -> Iterator[str]:
    live = Counter(u.email.lower() for u in evidence.stored.users.values() if not u.is_deleted)
    yield from (f"{address} has {n} live users" for address, n in live.items() if n > 1)
    made: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.history.of("CreateUser"):
        if call.is_ok:
            made[call.address].append(call)
    for address, calls in made.items():
        in_order = sorted(calls, key=lambda call: call.ended)
        for first, second in pairwise(in_order):
            if first.user != second.user and not _made_way(evidence, first, second):
                yield f"{address} was given to {first.user} and to {second.user}"


def halves(evidence: Evidence) -> Iterator[str]:
    for user in evidence.stored.users.values():
        if not user.has_profile:
            yield f"user {user.id} has no profile"
        if user.is_deleted and user.is_active:
            yield f"user {user.id} is deleted and active"
    for session in evidence.stored.sessions.values():
        owner = evidence.stored.users.get(session.user)
        if session.is_valid and (owner is None or owner.is_deleted or not owner.is_active):
            yield f"session {session.id} lives, its user {session.user} does not"


def _lost_activity(evidence: Evidence, user: StoredUser) -> str:
    lets_in = evidence.calls_of(user.id, "CreateUser", "ActivateUser")
    bars = evidence.calls_of(user.id, "DeactivateUser", "DeleteUser")
    done, undone = (lets_in, bars) if user.is_active else (bars, lets_in)
    by = max((call.done_by for call in done if call.may_have_happened), default=0)
    later = [call for call in undone if call.is_ok and call.began > by]
    return f"user {user.id} does not know of {describe(later[-1])}" if later else ""


def _made_way(evidence: Evidence, first: Call, second: Call) -> bool:
    """Return whether one of two users may have been deleted before the other was created."""
    return any(
        gone.may_have_happened and gone.began < other.ended
        for one, other in ((first, second), (second, first))
        for gone in evidence.calls_of(one.user, "DeleteUser")
    )


def _register(writes: Iterable[Call], found: str) -> str:
    """Return why a value cannot be the last one of some writes, or an empty text."""
    by_value = [call for call in writes if call.value == found and call.may_have_happened]
    if not by_value:
        return "no call wrote that, or it was refused"
    by = max(call.done_by for call in by_value)
    later = [call for call in writes if call.is_ok and call.began > by]
    return f"{describe(later[-1])} came later" if later else ""
