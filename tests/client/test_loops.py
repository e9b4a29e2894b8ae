"""One client and one guard on several event loops, made before any of them runs."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest
from tamatar_auth.client import aio
from tamatar_auth.client.guard_rules import CallRejected
from tests.support.commands import run
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def token(fake):
    return fake.start_session(fake.add_user("ada@example.com"))


def elsewhere(coroutine_function, *arguments):
    """Run a coroutine on an event loop of its own, and return its result."""

    async def run_on_new_loop():
        return await coroutine_function(*arguments)

    return asyncio.to_thread(run_on_loop_of_its_own, run_on_new_loop())


class EndedLoop(asyncio.SelectorEventLoop):
    """A loop that ignores late events of gRPC after its end.

    An error would keep grpcio from the events behind it, and this process has a server whose
    wake-up socket is read whole. So a call of a later test would wait for ever.
    """

    def call_soon_threadsafe(self, *arguments, **keywords):
        if not self.is_closed():
            return super().call_soon_threadsafe(*arguments, **keywords)
        return None


def run_on_loop_of_its_own(coroutine):
    with asyncio.Runner(loop_factory=EndedLoop) as runner:
        return runner.run(coroutine)


async def who(guard, token):
    return (await guard.session(token)).user.email


FORKING = """
import asyncio, os, sys
from tamatar_auth.client import SessionGuard, aio, connect

address, token, kind = sys.argv[1:]
guard = (SessionGuard(connect(address)) if kind == "blocking" else
         aio.SessionGuard(aio.connect(address)))
children = []
for _ in range(2):
    if child := os.fork():
        children.append(child)
        continue
    session = guard.session(token) if kind == "blocking" else asyncio.run(guard.session(token))
    os._exit(0 if session.user.email == "ada@example.com" else 1)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_client_made_before_fork_answers_in_children(fake, token, kind, tmp_path):
    command = (sys.executable, "-c", FORKING, fake.address, token, kind)

    await asyncio.to_thread(run, *command, cwd=tmp_path)


class TestLoops:
    """Loops that use the same client, one after the other and at the same time."""

    async def test_client_made_without_a_loop_answers_on_each(self, fake, token):
        auth = await asyncio.to_thread(aio.connect, fake.address)
        guard = aio.SessionGuard(auth)

        for _ in range(3):
            assert await elsewhere(who, guard, token) == "ada@example.com"

    async def test_client_is_used_by_two_loops_at_once(self, fake, token):
        guard = aio.SessionGuard(aio.connect(fake.address), max_age=0)
        both = threading.Barrier(2)

        async def ask_beside_other():
            await asyncio.to_thread(both.wait)
            return {await who(guard, token) for _ in range(20)}

        answers = await asyncio.gather(*(elsewhere(ask_beside_other) for _ in range(2)))

        assert answers == [{"ada@example.com"}] * 2

    async def test_loops_that_call_at_the_same_moment_keep_their_channels(self, fake, token):
        both = threading.Barrier(2)

        def wait_for_other():
            """Return the token of the caller once both calls have chosen their channels."""
            both.wait(PATIENCE)
            return "any"

        guard = aio.SessionGuard(aio.connect(fake.address, token=wait_for_other), max_age=0)

        answers = await asyncio.gather(*(elsewhere(who, guard, token) for _ in range(2)))

        assert answers == ["ada@example.com"] * 2

    async def test_loops_that_drop_the_same_channel_both_answer(self, fake, token):
        guard = aio.SessionGuard(aio.connect(fake.address), max_age=0)
        answers = []

        class ObservedLoop(EndedLoop):
            """A loop that another loop drops while one looks at it."""

            def is_closed(self):
                closed = super().is_closed()
                if closed and not answers:
                    answers.append("at work")
                    with ThreadPoolExecutor(1) as thread:
                        answers[:] = [
                            thread.submit(run_on_loop_of_its_own, who(guard, token)).result()
                        ]
                return closed

        def run_and_end():
            loop = ObservedLoop()
            loop.run_until_complete(who(guard, token))
            loop.close()

        await asyncio.to_thread(run_and_end)
        answers.append(await elsewhere(who, guard, token))

        assert answers == ["ada@example.com"] * 2

    async def test_closed_client_says_so_and_works_on_next_loop(self, fake, token):
        auth = aio.connect(fake.address)
        request = ValidateSessionRequest(session_token=token)

        async def close_and_call():
            await auth.sessions.ValidateSession(request)
            await auth.close()
            with pytest.raises(grpc.aio.UsageError, match="the client is closed: close it after"):
                await auth.sessions.ValidateSession(request)

        for _ in range(2):
            await elsewhere(close_and_call)

    async def test_channels_of_ended_loops_are_dropped(self, fake, token):
        auth = aio.connect(fake.address)
        for _ in range(3):
            await elsewhere(who, aio.SessionGuard(auth, max_age=0), token)

        assert len(auth.channel._channels) == 1


class TestCache:
    """The cache of a guard whose event loop ended."""

    async def test_guard_watches_again_on_next_loop(self, fake, token):
        guard = aio.SessionGuard(aio.connect(fake.address))

        async def live_answers():
            await who(guard, token)
            await eventually(lambda: guard._cache.is_live)
            await who(guard, token)
            before = fake.calls["ValidateSession"]
            await who(guard, token)
            return fake.calls["ValidateSession"] - before

        assert [await elsewhere(live_answers) for _ in range(2)] == [0, 0]

    async def test_session_revoked_between_loops_is_refused(self, fake, token):
        guard = aio.SessionGuard(aio.connect(fake.address))

        def run_without_cancelling():
            """End a loop as a program does that leaves its tasks behind."""
            loop = EndedLoop()
            loop.run_until_complete(cached())
            guard._watcher._task._log_destroy_pending = False
            loop.close()

        async def cached():
            await who(guard, token)
            await eventually(lambda: guard._cache.is_live)
            await who(guard, token)
            assert len(guard._cache) == 1

        await asyncio.to_thread(run_without_cancelling)
        fake.revoke(token)

        with pytest.raises(CallRejected, match="SESSION_REVOKED"):
            await elsewhere(who, guard, token)
