"""The judgement of runs on the cluster, applied to histories written by hand."""

from dataclasses import replace

from grpc import StatusCode

from tests.chaos.evidence import Evidence, Stored
from tests.chaos.history import History, Watch
from tests.chaos.rules import Promise
from tests.chaos.test_rules import BEGINNING, SESSION, USER, ok, refused
from tests.chaos.watchers import LATEST
from tests.cluster.faults import FAULTS
from tests.cluster.judgement import BOUND, Moments, judge
from tests.cluster.report import broken_promises
from tests.support.calls import Refusal

PROMOTED = 100.0
SPLIT = Moments(80.0, 99.0, PROMOTED, 120.0, 121.0, leaves_primary=True)
ENDED = ok("RevokeSession", 101, 102, session="s")

REJECTED = refused(
    "ValidateSession",
    PROMOTED + BOUND + 1,
    PROMOTED + BOUND + 2,
    Refusal(StatusCode.UNAUTHENTICATED, "", "SESSION_REVOKED"),
    session="s",
    token="t",
)


def judged(*calls, moments=SPLIT, watches=()):
    """Return the judgement of a history in which Ada's session was revoked."""
    history = History([*BEGINNING, ENDED, *calls], watches=list(watches))
    stored = Stored({"ada": USER}, {"s": replace(SESSION, is_valid=False)})
    return judge(Evidence(history, stored), moments)


def validated(began):
    return ok("ValidateSession", began, began + 0.1, session="s", token="t")


class TestBound:
    """Answers of an old primary after a promotion."""

    def test_answer_within_bound_is_no_violation(self):
        judgement = judged(validated(PROMOTED + BOUND - 1))

        assert judgement.violations == []
        assert judgement.stale == [BOUND - 1]

    def test_refusal_of_old_primary_within_bound_is_no_violation(self):
        missing = Refusal(StatusCode.NOT_FOUND, "", "SESSION_NOT_FOUND")
        late = refused("RevokeSession", 103, 104, missing, session="s")

        assert judged(late).violations == []

    def test_answer_after_bound_is_violation(self):
        judgement = judged(validated(PROMOTED + BOUND + 1))

        assert judgement.counts == {Promise.ENDED: 1}

    def test_answer_before_promotion_is_violation(self):
        early = ok("RevokeSession", 90, 91, session="s")

        assert judged(early, validated(95)).counts == {Promise.ENDED: 1}

    def test_answer_without_old_primary_is_violation(self):
        whole = replace(SPLIT, leaves_primary=False)

        assert judged(validated(103), moments=whole).counts == {Promise.ENDED: 1}


class TestBlindRuns:
    """Runs whose calls could not have shown a broken promise."""

    def test_run_that_asked_after_the_bound_is_not_blind(self):
        judgement = judged(REJECTED, watches=[Watch(50, {"s"}, ended=500)])

        assert judgement.asked == 1
        assert judgement.blind == []

    def test_run_that_asked_within_the_bound_only_is_blind(self):
        early = replace(REJECTED, began=PROMOTED + BOUND - 1)

        judgement = judged(early, watches=[Watch(50, {"s"}, ended=500)])

        assert judgement.blind == ["no ended session was validated"]
        assert not judgement.is_good

    def test_run_without_writes_and_watches_is_blind(self):
        judgement = judge(Evidence(History([REJECTED]), Stored({}, {})), SPLIT)

        assert len(judgement.blind) == 3

    def test_blind_run_is_reported(self):
        assert broken_promises(judged()) == [
            "the run shows little: no ended session was validated",
            "the run shows little: no end was reported to a watch",
        ]

    def test_fault_with_old_primary_outlasts_its_bound(self):
        faults = [fault for fault in FAULTS.values() if fault.leaves_primary]

        assert faults
        assert all(fault.least > BOUND for fault in faults)


class TestDeafWatches:
    """Watches that stay open and report nothing."""

    def test_watch_open_for_too_long_is_violation(self):
        deaf = Watch(50, ended=ENDED.ended + LATEST + 1)

        assert judged(watches=[deaf]).counts == {Promise.NOTIFIED: 1}

    def test_watch_that_ends_in_time_is_no_violation(self):
        assert judged(watches=[Watch(50, ended=ENDED.ended + 1)]).violations == []

    def test_watch_that_received_the_end_is_no_violation(self):
        assert judged(watches=[Watch(50, {"s"}, ended=500)]).violations == []


def test_gap_is_the_longest_time_without_a_write():
    judgement = judged(ok("UpdateUser", 105, 106, value="x"))

    assert judgement.gap_of_writes(0) == ENDED.ended - SPLIT.began
