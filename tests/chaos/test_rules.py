"""The rules, applied to histories written by hand."""

from dataclasses import replace

import pytest
from grpc import StatusCode

from tests.chaos.evidence import Evidence, Stored, StoredSession, StoredUser
from tests.chaos.faults import AT_REST, KILLED, LOCKED, TERMINATED
from tests.chaos.history import Call, History, Outcome, Span, Watch
from tests.chaos.rules import Promise, broken
from tests.support.calls import Refusal

ADA = "ada@chaos.example"
REVOKED = Refusal(StatusCode.UNAUTHENTICATED, "The session was revoked.", "SESSION_REVOKED")
AWAY = "The database is not available. Try again."


def ok(method, began, ended, **about):
    """Return a call about Ada that succeeded."""
    values = {"user": "ada", **about}
    return Call(method, began=began, ended=ended, outcome=Outcome.OK, **values)


def refused(method, began, ended, refusal, **about):
    """Return a call about Ada that was refused, with details."""
    call = Call(method, began=began, ended=ended, **{"user": "ada", **about})
    call.refuse(refusal, b"details")
    return call


def in_doubt(method, began, ended, **about):
    """Return a call about Ada with an unknown outcome."""
    call = Call(method, began=began, ended=ended, **{"user": "ada", **about})
    call.refuse(Refusal(StatusCode.CANCELLED, ""), b"")
    return call


CREATED = ok("CreateUser", 0, 1, address=ADA, value="Ada", version=1)
SIGNED_IN = ok("CreateSession", 2, 3, session="s", token="t", value="old")
BEGINNING = (CREATED, SIGNED_IN)

USER = StoredUser("ada", ADA, "Ada", True, False, 1, True)  # noqa: FBT003 - rows go by place
SESSION = StoredSession("s", "ada", is_valid=True)


def judged(*calls, user=USER, session=SESSION, more=(), faults=(), said=()):
    """Return the promises that a history breaks."""
    history = History([*BEGINNING, *calls], list(faults), {}, list(said))
    sessions = [one for one in (session, *more) if one]
    stored = Stored({user.id: user} if user else {}, {one.id: one for one in sessions})
    return {violation.promise for violation in broken(Evidence(history, stored))}


def watched(*ends, more=(), unknown=()):
    """Return the promises broken in a history with two ends and a watch from 4 on.

    Some of Ada's sessions were never reported to a client.
    """
    calls = [
        ok("RevokeSession", 4.5, 5, session="s"),
        ok("CreateSession", 2, 3, session="other", token="o", value="old"),
        ok("RevokeSession", 6, 7, session="other"),
        *more,
    ]
    history = History([*BEGINNING, *calls], watches=[Watch(4, set(ends))])
    ended = [replace(SESSION, id=id_, is_valid=False) for id_ in ("s", "other", *unknown)]
    stored = Stored({"ada": USER}, {one.id: one for one in ended})
    return {violation.promise for violation in broken(Evidence(history, stored))}


class TestWatches:
    """Ends of sessions that a watch must receive."""

    def test_watch_must_receive_earlier_ends_too(self):
        assert watched() == watched("s") == watched("s", "other") == set()
        assert watched("other") == {Promise.NOTIFIED}

    def test_refresh_in_doubt_may_end_session_early(self):
        refresh = in_doubt("RefreshSession", 4.1, 4.2, session="other", token="o")

        assert watched("other", more=[refresh]) == set()

    def test_unreported_session_may_end_at_any_time(self):
        calls = [
            in_doubt("CreateSession", 2, 3),
            ok("RevokeUserSessions", 4.1, 4.2),
            in_doubt("RevokeUserSessions", 6, 7),
        ]

        assert watched("unknown", more=calls, unknown=["unknown"]) == set()


def validated(began, ended):
    return ok("ValidateSession", began, ended, session="s", token="t")


class TestAnswers:
    """Answers that contradict what was answered before."""

    def test_consistent_history_breaks_nothing(self):
        ended = replace(SESSION, is_valid=False)

        assert judged(validated(4, 5)) == set()
        assert (
            judged(ok("RevokeSession", 4, 6, session="s"), validated(5, 7), session=ended) == set()
        )

    def test_deleted_user_must_not_be_used(self):
        gone = replace(USER, is_active=False, is_deleted=True, version=2)
        deleted = ok("DeleteUser", 4, 5, version=2)
        ended = replace(SESSION, is_valid=False)

        read = ok("GetUser", 6, 7, version=2)
        assert judged(deleted, read, user=gone, session=ended) == {Promise.ENDED}
        assert judged(deleted, ok("GetUser", 4, 7, version=1), user=gone, session=ended) == set()

    @pytest.mark.parametrize(
        "end",
        ["RevokeSession", "RevokeUserSessions", "ChangePassword", "DeactivateUser", "DeleteUser"],
    )
    def test_session_is_valid_until_its_end_is_answered(self, end):
        revoked = ok(end, 4, 5, session="s", version=2)

        assert Promise.ENDED in judged(revoked, validated(5.1, 6))
        assert Promise.ENDED not in judged(revoked, validated(4.9, 6))

    def test_end_begun_before_session_was_known_is_ignored(self):
        assert judged(ok("RevokeUserSessions", 2.5, 3.5), validated(4, 5)) == set()

    def test_end_in_doubt_may_have_happened(self):
        doubt = in_doubt("RevokeSession", 4, 5, session="s")

        assert judged(doubt) == set()
        assert judged(doubt, session=replace(SESSION, is_valid=False)) == set()
        assert judged(session=replace(SESSION, is_valid=False)) == {Promise.NOTHING_ELSE}

    def test_session_found_revoked_must_stay_revoked(self):
        doubt = in_doubt("RevokeSession", 4, 5, session="s")
        refusal_ = refused("ValidateSession", 6, 7, REVOKED, session="s", token="t")

        assert judged(doubt, refusal_, validated(8, 9)) == {Promise.ENDED}

    def test_changed_password_must_not_sign_in(self):
        changed = ok("ChangePassword", 4, 5, old="old", value="new", version=2)
        again = ok("CreateSession", 6, 7, session="s", token="t", value="old")
        ended = replace(SESSION, is_valid=False)

        found = judged(changed, again, user=replace(USER, version=2), session=ended)
        assert Promise.ENDED in found

    def test_read_must_see_answered_changes(self):
        changed = ok("UpdateUser", 4, 5, value="one", version=2)
        user = replace(USER, first_name="one", version=2)

        assert judged(changed, ok("GetUser", 6, 7, version=1), user=user) == {Promise.STALE}
        assert judged(changed, ok("GetUser", 4, 7, version=1), user=user) == set()


class TestWrites:
    """Acknowledged writes that must be there, and rows that must not."""

    @pytest.mark.parametrize("missing", ["user", "session"])
    def test_missing_acknowledged_row_is_lost(self, missing):
        assert Promise.KEPT in judged(**{missing: None})

    @pytest.mark.parametrize("end", ["RevokeSession", "RevokeUserSessions"])
    def test_live_session_after_its_end_is_lost_write(self, end):
        assert judged(ok(end, 4, 5, session="s")) == {Promise.KEPT}

    def test_unrequested_row_is_found(self):
        doubt = in_doubt("CreateSession", 4, 5, value="old")
        other = replace(SESSION, id="other")

        assert judged(doubt, more=[other]) == set()
        assert judged(more=[other]) == {Promise.NOTHING_ELSE}

    def test_stored_name_must_be_last_written(self):
        first = ok("UpdateUser", 4, 5, value="one", version=2)
        second = ok("UpdateUser", 6, 7, value="two", version=3)
        user = replace(USER, version=3)

        assert judged(first, second, user=replace(user, first_name="two")) == set()
        assert judged(first, second, user=replace(user, first_name="one")) == {Promise.KEPT}
        assert judged(first, second, user=replace(user, first_name="three")) == {Promise.KEPT}

    def test_any_of_concurrent_writes_may_remain(self):
        first = ok("UpdateUser", 4, 6, value="one", version=3)
        second = ok("UpdateUser", 5, 7, value="two", version=2)

        for name in ("one", "two"):
            assert judged(first, second, user=replace(USER, first_name=name, version=3)) == set()

    def test_two_changes_must_have_two_versions(self):
        changes = [ok("UpdateUser", 4, 6, value=name, version=2) for name in ("one", "two")]

        assert judged(*changes, user=replace(USER, first_name="two", version=2)) == {Promise.KEPT}

    def test_versions_must_not_exceed_requested_changes(self):
        doubt = in_doubt("UpdateUser", 4, 5, value="one")

        assert judged(doubt, user=replace(USER, first_name="one", version=2)) == set()
        assert judged(doubt, user=replace(USER, first_name="one", version=3)) == {
            Promise.NOTHING_ELSE
        }

    def test_address_may_be_reused_only_after_deletion(self):
        second = ok("CreateUser", 8, 9, user="eve", address=ADA, value="Eve", version=1)
        deleted = ok("DeleteUser", 4, 5, version=2)

        assert Promise.ALONE in judged(second)
        assert Promise.ALONE not in judged(deleted, second)

    def test_session_of_dead_user_is_found(self):
        gone = replace(USER, is_active=False, is_deleted=True, version=2)

        assert Promise.WHOLE in judged(in_doubt("DeleteUser", 4, 5), user=gone)
        assert Promise.WHOLE in judged(user=replace(USER, has_profile=False))


class TestRefusals:
    """Refusals and statuses that need a cause."""

    def test_refusal_as_revoked_needs_a_revocation(self):
        refusal_ = refused("ValidateSession", 4, 5, REVOKED, session="s", token="t")

        assert judged(refusal_) == {Promise.REASONED}

    @pytest.mark.parametrize(
        ("refusal", "promise"),
        [
            (Refusal(StatusCode.UNKNOWN, "Unexpected <class 'E'>"), Promise.STATUS),
            (Refusal(StatusCode.INTERNAL, "The service failed. Its log has the error id."), None),
            (
                Refusal(StatusCode.ABORTED, "deadlock detected", "TRANSACTION_CONFLICT"),
                Promise.SILENT,
            ),
            (Refusal(StatusCode.UNAVAILABLE, AWAY, "STORAGE_UNAVAILABLE"), Promise.RETRY),
        ],
    )
    def test_improper_status_is_found(self, refusal, promise):
        assert (promise or Promise.STATUS) in judged(refused("GetUser", 4, 5, refusal))

    def test_token_is_unknown_once_its_successor_is_replaced(self):
        message = "The session is not known."
        unknown = Refusal(StatusCode.UNAUTHENTICATED, message, "SESSION_UNKNOWN")
        call = refused("ValidateSession", 5.0, 5.5, unknown, session="s", token="t")
        once = ok("RefreshSession", 4.0, 4.1, session="s", token="t", value="new")
        twice = ok("RefreshSession", 5.1, 5.2, session="s", token="new", value="newer")

        assert judged(call) == {Promise.REASONED}
        assert judged(once, call) == {Promise.REASONED}
        assert judged(once, twice, call) == set()

    def test_connection_dead_at_rest_must_not_fail_a_call(self):
        away = Refusal(StatusCode.UNAVAILABLE, AWAY, "STORAGE_UNAVAILABLE", retry_seconds=1)
        refusal_, waited = (refused("GetUser", 4, ended, away) for ended in (4.5, 5))
        rests = [Span(AT_REST, 3.5, 6)]

        assert judged(refusal_) == set()
        assert judged(refusal_, faults=rests) == {Promise.REASONED}
        assert judged(waited, faults=rests) == set()

    def test_server_may_be_away_only_if_killed(self):
        away = Call("GetUser", user="ada", began=4, ended=5)
        away.refuse(Refusal(StatusCode.UNAVAILABLE, "Socket closed"), b"")

        assert judged(away) == {Promise.SILENT}
        assert judged(away, faults=[Span(KILLED, 3, 4)]) == set()

    def test_unhealed_fault_breaks_a_promise(self):
        assert judged(said=["database restarted: not healed"]) == {Promise.HEALED}

    def test_repeated_creation_must_not_conflict_with_itself(self):
        taken = Refusal(StatusCode.ALREADY_EXISTS, "The email address is already registered.")
        taken = replace(taken, reason="EMAIL_TAKEN")
        lost = in_doubt("CreateUser", 4, 5, user="", address="new", request="r")
        again = refused("CreateUser", 6, 7, taken, user="", address="new", request="r")
        other = ok("CreateUser", 4, 5, user="eve", address="new", value="Eve", version=1)

        assert judged(lost, again) == {Promise.REASONED}
        assert Promise.REASONED not in judged(lost, other, again)


def late(began, ended, **about):
    """Return a read of Ada that ended at its deadline."""
    call = Call("GetUser", **{"user": "ada", "began": began, "ended": ended, **about})
    call.refuse(Refusal(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), b"")
    return call


def answered(*, method="GetUser", after=4.0, took=0.1, **about):
    """Return calls of a second, one after the other, that were answered."""
    moments = (after + part / 10 for part in range(10))
    return [ok(method, began, began + took, version=1, **about) for began in moments]


class TestWaits:
    """Calls that wait in vain while others are answered."""

    def test_overtaken_call_must_not_end_at_its_deadline(self):
        assert judged(late(4, 9), *answered(after=5)) == {Promise.PROMPT}
        assert judged(late(4, 5.5), *answered()) == set()
        assert judged(ok("GetUser", 4, 9, version=1), *answered(after=5)) == set()

    def test_overtaken_call_must_not_be_refused_late(self):
        away = Refusal(StatusCode.UNAVAILABLE, AWAY, "STORAGE_UNAVAILABLE", retry_seconds=1)

        slow, quick = (refused("GetUser", 4, ended, away) for ended in (6.5, 5.5))
        assert judged(slow, *answered()) == {Promise.PROMPT}
        assert judged(quick, *answered()) == set()

    @pytest.mark.parametrize(
        "others",
        [
            answered(after=3),
            answered(after=8.5),
            answered(after=5)[:4],
            answered(after=5, took=1.5),
            answered(after=5, server=1),
            answered(after=5, method="UpdateUser", value="Ada"),
        ],
        ids=["earlier", "too late", "too few", "as slow", "elsewhere", "of another kind"],
    )
    def test_call_hangs_only_if_its_like_overtake_it(self, others):
        assert Promise.PROMPT not in judged(late(4, 9), *others)

    def test_call_may_wait_only_during_faults_that_hold_it(self):
        def during(fault, began, ended):
            return judged(late(4, 9), *answered(after=7.5), faults=[Span(fault, began, ended)])

        assert during(LOCKED, 4, 6.5) == during(LOCKED, 5.5, 8) == set()
        assert during(LOCKED, 3, 5) == during(TERMINATED, 4, 8) == {Promise.PROMPT}
