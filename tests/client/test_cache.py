"""The session cache against a model of the service: it never returns an ended session."""

import runpy
import time
from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from tamatar.auth.v1.session_pb2 import Session
from tamatar.auth.v1.session_service_pb2 import SessionEnd, ValidateSessionResponse
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client import AAL1, AAL2, StepUp
from tamatar_auth.client import cache as cache_module
from tamatar_auth.client.cache import MAX_STREAM_SILENCE, SessionCache

MAX_AGE = 30
LIFE = 100
FIVE_MINUTES = timedelta(minutes=5)
USERS = ("ada", "bob")
SESSIONS = {f"{user}{n}": user for user in USERS for n in range(3)}


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def answer(session, life=LIFE):
    """Return the service's response for a valid session."""
    known = Session(session_id=session, user_id=SESSIONS[session])
    known.expire_time.FromDatetime(datetime.fromtimestamp(life, UTC))
    return ValidateSessionResponse(session=known, user=User(user_id=SESSIONS[session]))


def end(session):
    return SessionEnd(user_id=SESSIONS[session], session_id=session)


def end_of_all(user):
    return SessionEnd(user_id=user)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return SessionCache(max_age=MAX_AGE, size=3, clock=clock, wall_clock=clock)


def kept(cache, session):
    """Store a response, and return whether the cache kept it."""
    cache.store(cache.begin(), session, answer(session))
    return cache.find(session) is not None


class TestStreams:
    """The stream without which the cache is unused."""

    @pytest.mark.parametrize("gap", ["before", "between", "broken"])
    def test_answer_begun_before_stream_is_not_cached(self, cache, gap):
        if gap != "before":
            cache.stream_opened()
        ticket = cache.begin()
        if gap != "before":
            cache.stream_broken()
        if gap != "broken":
            cache.stream_opened()

        cache.store(ticket, "ada0", answer("ada0"))

        assert len(cache) == 0

    def test_cache_is_unused_after_stream_broke_or_fell_silent(self, cache, clock):
        cache.stream_opened()
        assert kept(cache, "ada0")
        clock.seconds += MAX_STREAM_SILENCE
        assert cache.find("ada0") is not None
        clock.seconds += 0.1
        assert cache.find("ada0") is None
        cache.stream_opened()
        assert kept(cache, "ada0")

        cache.stream_broken()
        cache.stream_opened()

        assert cache.find("ada0") is None

    def test_answer_after_stream_broke_is_not_cached(self, cache):
        cache.stream_opened()
        cache.stream_broken()

        assert not kept(cache, "ada0")
        assert len(cache) == 0

    def test_message_after_silence_revives_no_answer(self, cache, clock):
        cache.stream_opened()
        assert kept(cache, "ada0")
        assert cache.apply_ends([]) is True
        clock.seconds += MAX_STREAM_SILENCE + 0.1

        # Both were sent in time, and arrive together.
        assert cache.apply_ends([]) is False
        assert cache.find("ada0") is None
        assert cache.apply_ends([end("ada0")]) is False

        assert not kept(cache, "ada1")
        cache.stream_opened()
        assert kept(cache, "ada1")


class TestEnds:
    """Ended sessions, whose answers the cache drops."""

    def test_cached_answer_is_used_until_session_ends(self, cache):
        cache.stream_opened()

        assert kept(cache, "ada0")
        assert kept(cache, "ada1")
        cache.apply_ends([end("ada0")])
        assert cache.find("ada0") is None
        assert cache.find("ada1") == answer("ada1")

    def test_end_of_all_sessions_drops_answers_of_user(self, cache):
        cache.stream_opened()
        assert all(kept(cache, session) for session in ("ada0", "ada1", "bob0"))

        cache.apply_ends([end_of_all("ada")])

        assert [cache.find(each) is None for each in ("ada0", "ada1", "bob0")] == [
            True,
            True,
            False,
        ]
        assert len(cache) == 1

    @pytest.mark.parametrize("ended", [end("ada0"), end_of_all("ada")])
    def test_answer_that_crossed_its_end_is_not_cached(self, cache, ended):
        cache.stream_opened()
        ticket, other = cache.begin(), cache.begin()

        cache.apply_ends([ended])
        cache.store(ticket, "ada0", answer("ada0"))
        cache.store(other, "bob0", answer("bob0"))

        assert cache.find("ada0") is None
        assert cache.find("bob0") is not None

    def test_refused_token_drops_its_answer_and_those_before(self, cache):
        cache.stream_opened()
        assert kept(cache, "ada0")
        late, other = cache.begin(), cache.begin()

        cache.forget("ada0")
        assert cache.find("ada0") is None
        cache.store(late, "ada0", answer("ada0"))
        cache.store(other, "ada1", answer("ada1"))

        assert cache.find("ada0") is None
        assert cache.find("ada1") is not None
        assert kept(cache, "ada0")

    def test_end_is_remembered_among_many(self, cache, monkeypatch):
        monkeypatch.setattr(cache_module, "MAX_REMEMBERED_ENDS", 2)
        cache.stream_opened()
        ticket, later = cache.begin(), None

        cache.apply_ends([end("ada0")])
        cache.apply_ends([end("bob0"), end("bob1")])
        later = cache.begin()
        cache.store(ticket, "ada0", answer("ada0"))
        assert cache.find("ada0") is None
        cache.store(later, "ada1", answer("ada1"))
        assert cache.find("ada1") is not None

    def test_cached_answer_expires_at_max_age_or_end_of_session(self, cache, clock):
        def live(session, life):
            cache.stream_opened()
            ticket = cache.begin()
            clock.seconds += 1
            asked = clock.seconds - 1
            cache.store(ticket, session, answer(session, asked + life))
            for _ in range(MAX_AGE + 2):
                if cache.find(session) is None:
                    return clock.seconds - asked
                clock.seconds += 1
                cache.apply_ends([])
            return None

        assert live("ada0", LIFE) == MAX_AGE
        assert live("ada1", 12) == 12
        assert live("ada2", 0.5) == 1


class TestStepUp:
    """Cached answers to calls that need a level or a recent authentication."""

    def find(self, cache, *, level=AAL1, age=0, needed_level=0, max_age=None):
        """Return whether the cache answers for a session of a level and an age."""
        response = answer("ada0", cache._wall_clock() + LIFE)
        response.session.assurance_level = level
        authenticated_at = datetime.fromtimestamp(cache._wall_clock() - age, UTC)
        response.session.authenticate_time.FromDatetime(authenticated_at)
        cache.stream_opened()
        cache.store(cache.begin(), "ada0", response)
        assert cache.find("ada0") == response
        return cache.find("ada0", StepUp(level=needed_level, max_age=max_age)) == response

    def test_answer_is_used_for_its_level_and_lower_ones(self, cache):
        assert self.find(cache, level=AAL1, needed_level=AAL1)
        assert self.find(cache, level=AAL2, needed_level=AAL1)
        assert self.find(cache, level=AAL2, needed_level=AAL2)
        assert not self.find(cache, level=AAL1, needed_level=AAL2)

    def test_answer_is_used_until_its_authentication_is_old(self, cache, clock):
        clock.seconds = 1000
        for age, is_used in ((0, True), (299, True), (300, False), (1000, False), (-1, False)):
            assert self.find(cache, age=age, max_age=FIVE_MINUTES) == is_used
        assert not self.find(cache, level=AAL2, age=300, needed_level=AAL2, max_age=FIVE_MINUTES)

    def test_answer_without_time_is_used_for_no_step_up(self, cache):
        cache.stream_opened()
        assert kept(cache, "ada0")

        assert cache.find("ada0", StepUp(level=AAL1)) is None
        assert cache.find("ada0", StepUp(max_age=FIVE_MINUTES)) is None


class TestEntries:
    """What the cache keeps, and for how long."""

    def test_full_cache_drops_least_recently_used_answer(self, cache):
        cache.stream_opened()
        assert all(kept(cache, session) for session in ("ada0", "ada1", "ada2"))
        assert cache.find("ada0") is not None

        assert kept(cache, "bob0")

        assert len(cache) == 3
        assert cache.find("ada1") is None
        assert cache.find("ada0") is not None

    def test_clock_exists_on_every_system(self, monkeypatch):
        for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime"):
            monkeypatch.delattr(time, name, raising=False)

        assert runpy.run_path(cache_module.__file__)["now"]() >= 0

    def test_cache_holds_no_token(self, cache):
        cache.stream_opened()
        assert kept(cache, "ada0")

        assert all("ada0" not in str(key) for key in cache._entries)


ANY_SESSION = st.sampled_from(sorted(SESSIONS)[:4])


class Service(RuleBasedStateMachine):
    """The service ends sessions; streams report ends late, and validations take time."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.cache = SessionCache(max_age=MAX_AGE, size=4, clock=self.clock, wall_clock=self.clock)
        self.ended = set()
        self.stream = None  # the ends on their way; its first message is None
        self.questions = []
        self.asked_at = {}
        self.watch(first_has_come=True)

    @rule(session=ANY_SESSION, steps=st.sampled_from([0, 1, 2, 2]))
    def ask(self, session, steps):
        self.questions.append([session, self.cache.begin(), self.clock.seconds, False])
        for _ in range(steps):
            self._go_on(-1)

    @precondition(lambda self: self.questions)
    @rule(which=st.integers(0, 99))
    def go_on(self, which):
        self._go_on(which % len(self.questions))

    def _go_on(self, which):
        """Let the service read for a validation, or let its response arrive."""
        if not self.questions:
            return
        session, ticket, at, was_read = self.questions.pop(which)
        if was_read:
            before = self.cache.find(session)
            self.cache.store(ticket, session, answer(session))
            if self.cache.find(session) is not before:
                self.asked_at[session] = at
        elif session not in self.ended:
            self.questions.append([session, ticket, at, True])

    @rule(session=ANY_SESSION)
    def revoke(self, session):
        self._end(end(session), {session})

    @rule(user=st.sampled_from(USERS))
    def revoke_all(self, user):
        self._end(end_of_all(user), {each for each, of in SESSIONS.items() if of == user})

    def _end(self, ended, sessions):
        self.ended |= sessions
        if self.stream is not None:
            self.stream.append(ended)

    @precondition(lambda self: self.stream is None)
    @rule(first_has_come=st.booleans())
    def watch(self, first_has_come):
        self.stream = deque([None])
        if first_has_come:
            self.deliver()

    @precondition(lambda self: self.stream)
    @rule()
    def deliver(self):
        received = self.stream.popleft()
        if received is None:
            self.cache.stream_opened()
        elif not self.cache.apply_ends([received]):
            self.stream = None

    @precondition(lambda self: self.stream is not None)
    @rule(luck=st.integers(0, 1))
    def break_off(self, luck):
        if luck:
            return
        self.stream = None
        self.cache.stream_broken()

    @rule(seconds=st.sampled_from([1, 4, 7]))
    def wait(self, seconds):
        self.clock.seconds += seconds

    @precondition(lambda self: self.stream is not None and None not in self.stream)
    @rule()
    def send_keepalive(self):
        if not self.cache.apply_ends([]):
            self.stream = None

    @invariant()
    def uses_no_answer_too_long(self):
        for session, user in SESSIONS.items():
            found = self.cache.find(session)
            if found is None:
                continue
            assert found == answer(session)
            assert self.stream is not None
            assert None not in self.stream
            assert self.clock.seconds - self.asked_at[session] < MAX_AGE
            assert self.clock.seconds < LIFE
            on_its_way = {each.session_id or each.user_id for each in self.stream}
            assert session not in self.ended or {session, user} & on_its_way

    @invariant()
    def is_small(self):
        assert len(self.cache) <= 4
        keys = set().union(*self.cache._keys_by_owner.values())
        assert keys == set(self.cache._entries)


TestService = Service.TestCase
TestService.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
