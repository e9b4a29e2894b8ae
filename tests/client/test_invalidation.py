"""Guards with a cache: responses are reused while a stream reports ended sessions."""

import asyncio
import threading
from contextvars import ContextVar
from types import SimpleNamespace

import grpc
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import SessionEnd
from tamatar_auth import client
from tamatar_auth.client import AAL2, SessionGuard, StepUp, aio, backoff, cache, invalidation
from tamatar_auth.client.aio import invalidation as aio_invalidation
from tamatar_auth.client.cache import SessionCache
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.client.testing import FakeAuthServer
from tests.support.guarded_shop import Blocking, Customer, aio_shop
from tests.support.waiting import PATIENCE, eventually


class Guarded:
    """A guard of either kind, called from a test's event loop."""

    def __init__(self, guard, is_blocking):
        self.guard, self._is_blocking = guard, is_blocking

    async def ask(self, token, step_up=None):
        """Return the user's address, or the reason of the refusal."""
        try:
            if self._is_blocking:
                return (await asyncio.to_thread(self.guard.session, token, step_up)).user.email
            return (await self.guard.session(token, step_up)).user.email
        except CallRejected as refused:
            return refused.reason or refused.code.name
        except (RuntimeError, ValueError) as error:  # of the caller's token
            return type(error).__name__

    async def close(self):
        await (asyncio.to_thread(self.guard.close) if self._is_blocking else self.guard.close())

    async def until(self, token, expected):
        """Ask until the result starts with a text."""

        async def is_expected():
            return (await self.ask(token)).startswith(expected)

        await eventually(is_expected)

    async def live(self):
        """Wait for a live stream."""
        await self.ask("tms_unknown")
        await eventually(lambda: self.guard._cache.is_live)


@pytest.fixture
def ada(fake):
    return fake.add_user("ada@example.com")


@pytest.fixture
def token(fake, ada):
    return fake.start_session(ada)


@pytest.fixture(params=["blocking", "asyncio"])
async def guarded(request, fake):
    if request.param == "blocking":
        with client.connect(fake.address) as auth:
            guarded = Guarded(SessionGuard(auth), is_blocking=True)
            yield guarded
            await guarded.close()
    else:
        async with aio.connect(fake.address) as auth:
            guarded = Guarded(aio.SessionGuard(auth), is_blocking=False)
            yield guarded
            await guarded.close()


def asked(fake):
    return fake.calls["ValidateSession"]


class TestCachedAnswers:
    """Answers that are reused, and answers that are not."""

    async def test_valid_session_is_asked_for_once(self, fake, guarded, token):
        await guarded.live()
        before = asked(fake)

        assert {await guarded.ask(token) for _ in range(10)} == {"ada@example.com"}

        assert asked(fake) == before + 1

    @pytest.mark.parametrize("way", ["revoke", "revoke_all", "deactivate", "delete", "expire"])
    async def test_ended_session_is_refused_soon(self, fake, guarded, ada, token, way):
        await guarded.live()
        other = fake.start_session(fake.add_user("bob@example.com"))
        assert await guarded.ask(token) == "ada@example.com"
        assert await guarded.ask(other) == "bob@example.com"
        before = asked(fake)

        getattr(fake, way)(ada if way in {"revoke_all", "deactivate", "delete"} else token)

        await guarded.until(token, "SESSION_")
        assert await guarded.ask(other) == "bob@example.com"
        assert asked(fake) == before + 1

    async def test_refused_session_is_asked_for_each_time(self, fake, guarded, token):
        await guarded.live()
        fake.revoke(token)
        before = asked(fake)

        assert {await guarded.ask(token) for _ in range(3)} == {"SESSION_REVOKED"}

        assert asked(fake) == before + 3

    async def test_session_without_stream_is_asked_for_each_time(
        self, fake, guarded, token, monkeypatch
    ):
        monkeypatch.setattr(backoff, "MIN_SECONDS", 60)
        # Silence must not be what turns the cache off.
        monkeypatch.setattr(cache, "MAX_STREAM_SILENCE", 3600)
        await guarded.live()
        assert await guarded.ask(token) == "ada@example.com"

        fake.break_streams()

        await eventually(lambda: not guarded.guard._cache.is_live)
        before = asked(fake)
        assert {await guarded.ask(token) for _ in range(3)} == {"ada@example.com"}
        assert asked(fake) == before + 3
        fake.revoke(token)
        assert await guarded.ask(token) == "SESSION_REVOKED"

    @pytest.mark.parametrize("reason", ["SESSION_REVOKED", "STEP_UP_REQUIRED"])
    async def test_cached_answer_is_unused_after_session_was_refused(
        self, guarded, token, monkeypatch, reason
    ):
        def refused(*_):
            raise CallRejected(StatusCode.UNAUTHENTICATED, "", reason)

        async def refused_later(*_):
            refused()

        await guarded.live()
        assert await guarded.ask(token) == "ada@example.com"
        is_blocking = isinstance(guarded.guard, SessionGuard)
        monkeypatch.setattr(guarded.guard, "_validate", refused if is_blocking else refused_later)

        assert await guarded.ask(token, StepUp(level=AAL2)) == reason
        expected = "SESSION_REVOKED" if reason == "SESSION_REVOKED" else "ada@example.com"
        assert await guarded.ask(token) == expected

    async def test_answer_whose_session_ends_meanwhile_is_not_kept(
        self, fake, guarded, token, monkeypatch
    ):
        validate, cache = guarded.guard._validate, guarded.guard._cache

        def ended(answer):
            end = SessionEnd(session_id=answer.session.session_id, user_id=answer.user.user_id)
            assert cache.apply_ends([end])
            return answer

        async def validated(*asked):
            return ended(await validate(*asked))

        is_blocking = isinstance(guarded.guard, SessionGuard)
        late = (lambda *asked: ended(validate(*asked))) if is_blocking else validated
        await guarded.live()
        monkeypatch.setattr(guarded.guard, "_validate", late)
        before = asked(fake)

        assert {await guarded.ask(token) for _ in range(2)} == {"ada@example.com"}
        assert asked(fake) == before + 2

    async def test_cached_answer_is_unused_during_outage(self, fake, guarded, token):
        await guarded.live()
        assert await guarded.ask(token) == "ada@example.com"

        await asyncio.to_thread(fake.stop)

        await guarded.until(token, "UNAVAILABLE")
        await asyncio.to_thread(fake.start)
        await guarded.until(token, "ada@example.com")

    async def test_guard_without_permission_to_watch_asks_each_time(self, scripted, caplog):
        async with aio.connect(scripted.address) as auth:
            guard = aio.SessionGuard(auth)
            before = len(scripted.asked)
            for _ in range(3):
                await guard.session("tms_one")
                await asyncio.sleep(0.05)
            await guard.close()

        asked = [each.method for each in scripted.asked[before:]]
        assert asked.count("ValidateSession") == 3
        assert not len(guard._cache)

    async def test_guard_with_zero_max_age_neither_caches_nor_watches(self, fake, token):
        async with aio.connect(fake.address) as auth:
            guard = aio.SessionGuard(auth, max_age=0)
            for _ in range(3):
                assert await guard.session(token)
            await guard.close()

        assert fake.calls == {"ValidateSession": 3}

    async def test_cached_answer_is_safe_from_changes_by_handler(self, fake, guarded, token):
        await guarded.live()
        session = guarded.guard.session(token)
        given = await session if asyncio.iscoroutine(session) else session
        given.user.email = "eve@example.com"
        given.session.user_id = "eve"

        session = guarded.guard.session(token)
        given = await session if asyncio.iscoroutine(session) else session
        assert given.user.email == "ada@example.com"
        assert given.session.user_id == given.user_id

    async def test_blocking_handlers_on_asyncio_use_cached_answers(self, fake, token):
        async with aio.connect(fake.address) as auth:
            guard = aio.SessionGuard(auth)
            guarded = Guarded(guard, is_blocking=False)
            await guarded.live()
            async with (
                aio_shop(guard, Blocking()) as address,
                grpc.aio.insecure_channel(address) as channel,
            ):
                customer = Customer(channel, token)
                await customer.ask("unary_unary")
                before = asked(fake)
                for _ in range(5):
                    assert await customer.ask("unary_unary") == [b"ada@example.com 1"]
            await guard.close()

        assert asked(fake) == before


class Token:
    """The caller's token, which may be unreadable."""

    def __init__(self):
        self.is_away = False
        self.seen = []

    def __call__(self):
        self.seen.append(IN_A_CALL.get())
        if self.is_away:
            raise RuntimeError("away")
        return "tmc_any"


IN_A_CALL: ContextVar[bool] = ContextVar("in_a_call", default=False)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(backoff, "MIN_SECONDS", 0.02)
    monkeypatch.setattr(backoff, "MAX_SECONDS", 0.02)
    monkeypatch.setattr(invalidation, "SILENCE_CHECK_INTERVAL", 0.02)


class TestWatch:
    """The stream of ends, which is restarted and closed."""

    async def test_broken_stream_is_restarted(self, fake, guarded, token):
        await guarded.live()
        for again in (fake.break_streams, lambda: (fake.stop(), fake.start())):
            before = fake.calls["WatchSessions"]
            await asyncio.to_thread(again)
            await eventually(lambda: fake.calls["WatchSessions"] > before)  # noqa: B023 - at once
            await eventually(lambda: guarded.guard._cache.is_live)
            assert await guarded.ask(token) == "ada@example.com"

    async def test_silent_stream_is_restarted(self, guarded, fake, token, monkeypatch):
        await guarded.live()
        fake.break_streams()
        for module in (cache, invalidation, aio_invalidation):
            monkeypatch.setattr(module, "MAX_STREAM_SILENCE", 0.05)
        monkeypatch.setattr(invalidation, "SILENCE_CHECK_INTERVAL", 0.02)
        before = fake.calls["WatchSessions"]

        await eventually(lambda: fake.calls["WatchSessions"] >= before + 3)

        assert await guarded.ask(token) == "ada@example.com"

    async def test_closed_guard_still_checks_and_leaves_no_thread(self, fake, token):
        others = {*threading.enumerate()}
        with client.connect(fake.address) as auth:
            guarded = Guarded(SessionGuard(auth), is_blocking=True)
            await guarded.live()
            assert "watch sessions" in {each.name for each in {*threading.enumerate()} - others}
            await guarded.close()
            before = asked(fake)

            assert {await guarded.ask(token) for _ in range(3)} == {"ada@example.com"}

        assert asked(fake) == before + 3
        assert "watch sessions" not in {each.name for each in {*threading.enumerate()} - others}

    @pytest.mark.parametrize("module", [client, aio], ids=["blocking", "asyncio"])
    async def test_watch_survives_unreadable_token(self, fake, token, hasty, module, caplog):
        own, others = Token(), {*threading.enumerate()}
        auth = module.connect(fake.address, token=own)
        guarded = Guarded(module.SessionGuard(auth), is_blocking=module is client)
        own.is_away = True
        await guarded.until(token, "RuntimeError")
        await eventually(lambda: len(own.seen) > 10)
        names = [each.name for each in {*threading.enumerate()} - others]
        assert names.count("glance at the watch") <= 1

        own.is_away = False

        await eventually(lambda: guarded.guard._cache.is_live)
        assert await guarded.ask(token) == "ada@example.com"
        assert "sessions cannot be watched, so each is validated: RuntimeError" in caplog.text
        await guarded.close()
        await (auth.close() if module is aio else asyncio.to_thread(auth.close))

    async def test_watch_runs_outside_context_of_call(self, fake, token):
        own = Token()
        async with aio.connect(fake.address, token=own) as auth:
            guard = aio.SessionGuard(auth)
            IN_A_CALL.set(True)
            await guard.session(token)
            await eventually(lambda: guard._cache.is_live)
            await guard.close()

        assert own.seen.count(False) == 1

    async def test_watch_closed_while_it_starts_ends(self, fake):
        with client.connect(fake.address) as auth:

            def close_during_start(request):
                watch._closed.set()
                watch._cancel_call()
                return auth.sessions.WatchSessions(request)

            late = SimpleNamespace(sessions=SimpleNamespace(WatchSessions=close_during_start))
            watch = invalidation.SessionWatcher(late, SessionCache(max_age=30, size=1))
            watch.begin()
            await asyncio.to_thread(watch._thread.join, PATIENCE)

            assert not watch._thread.is_alive()

    async def test_watch_started_again_after_fork_clears_cache(self, scripted):
        """A forked process has the cache, but not the thread."""
        forked = SessionCache(max_age=30, size=1)
        with client.connect(scripted.address) as auth:
            watch = invalidation.SessionWatcher(auth, forked)
            watch._thread = threading.Thread()
            forked.stream_opened()

            watch.begin()

            assert not forked.is_live
            await asyncio.to_thread(watch.close)

    async def test_failed_watch_leaves_no_thread(self, fake, hasty, monkeypatch):
        monkeypatch.setattr(invalidation, "CLOSED_CLIENT_DELAY", 0.5)

        def broken():
            raise ValueError("as for a client that was closed")

        with client.connect(fake.address, token=broken) as auth:
            guarded = Guarded(SessionGuard(auth), is_blocking=True)
            before = threading.active_count()
            for _ in range(30):
                assert await guarded.ask("tms_one") == "ValueError"

            assert threading.active_count() < before + 10
            names = {"watch sessions", "glance at the watch"}
            await eventually(lambda: not names & {each.name for each in threading.enumerate()})

    async def test_stream_is_restarted_after_pause_of_process(self, fake, guarded, token):
        await guarded.live()
        assert await guarded.ask(token) == "ada@example.com"
        before = fake.calls["WatchSessions"]

        guarded.guard._cache._last_message_at -= cache.MAX_STREAM_SILENCE + 1

        await eventually(lambda: fake.calls["WatchSessions"] > before)
        await eventually(lambda: guarded.guard._cache.is_live)


class TestSilentService:
    """A service that sends no heartbeats."""

    @pytest.fixture
    def fake(self):
        with FakeAuthServer(heartbeat_interval=3600) as fake:
            yield fake

    async def test_stream_without_heartbeats_is_restarted(self, guarded, fake, monkeypatch):
        await guarded.live()
        fake.break_streams()
        for module in (cache, invalidation, aio_invalidation):
            monkeypatch.setattr(module, "MAX_STREAM_SILENCE", 0.05)
        monkeypatch.setattr(invalidation, "SILENCE_CHECK_INTERVAL", 0.02)
        before = fake.calls["WatchSessions"]

        await eventually(lambda: fake.calls["WatchSessions"] >= before + 3)
