"""The hash queue: bounded permits, on threads of low priority, freed on cancellation."""

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from contextvars import ContextVar

import pytest

from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.errors import ServerBusy
from tamatar_auth.security.passwords.hash_queue import HashQueue, hash_recorder, observe_permits
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tests.support.telemetry_capture import Recording
from tests.support.waiting import eventually

THREADS, QUEUE = 2, 3


class Work:
    """Work for a thread, which ends when a test releases it."""

    def __init__(self):
        self.begun = []
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()
        self._let = threading.Event()

    def __call__(self, name="work"):
        with self._lock:
            self.begun.append(name)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        self._let.wait(30)
        with self._lock:
            self._running -= 1
        return name

    def let(self):
        self._let.set()


@pytest.fixture
async def hash_queue():
    hash_queue = HashQueue(THREADS, QUEUE)
    yield hash_queue
    await hash_queue.close()


@pytest.fixture
def work():
    work = Work()
    yield work
    work.let()


async def one(hash_queue, work):
    """Take a permit for one piece of work."""
    async with hash_queue.permit() as permit:
        return await permit.run(work)


async def begin(hash_queue, work, count):
    """Request permits, and return once as many works as possible have begun."""
    tasks = [
        asyncio.create_task(one(hash_queue, lambda number=number: work(number)))
        for number in range(count)
    ]
    await reach(
        hash_queue, taken=count, hashing=min(count, THREADS), waiting=max(0, count - THREADS)
    )
    return tasks


async def reach(hash_queue, **load):
    async def reached():
        return hash_queue.load._asdict() == load

    await eventually(reached)


async def begun(work, count):
    async def enough():
        return len(work.begun) == count

    await eventually(enough)


async def is_shortest(retry_delay):
    return await retry_delay() == 0.1


class TestCancellation:
    """Work whose caller went away."""

    async def test_cancelled_work_in_queue_never_runs(self, hash_queue, work):
        tasks = await begin(hash_queue, work, THREADS + QUEUE)
        for task in tasks[THREADS:]:
            task.cancel()
        await reach(hash_queue, taken=THREADS, hashing=THREADS, waiting=0)
        work.let()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert sorted(work.begun) == [0, 1]
        assert [task.cancelled() for task in tasks] == [False] * THREADS + [True] * QUEUE

    async def test_cancelled_work_leaves_the_queue(self, hash_queue, work):
        tasks = await begin(hash_queue, work, THREADS)
        for _ in range(2 * QUEUE):
            task = asyncio.create_task(one(hash_queue, work))
            await reach(hash_queue, taken=THREADS + 1, hashing=THREADS, waiting=1)
            task.cancel()
            await reach(hash_queue, taken=THREADS, hashing=THREADS, waiting=0)

        work.let()
        await asyncio.gather(*tasks)


class TestThreads:
    """Threads of the queue, and its end."""

    async def test_close_waits_for_running_work_and_threads(self, work):
        before = set(threading.enumerate())
        hash_queue = HashQueue(THREADS, QUEUE)
        tasks = await begin(hash_queue, work, THREADS)
        await begun(work, THREADS)
        threads = set(threading.enumerate()) - before
        for task in tasks:
            task.cancel()
        closing = asyncio.create_task(hash_queue.close())
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not closing.done()

        work.let()
        await closing

        assert len(threads) == THREADS
        assert not any(thread.is_alive() for thread in threads)

    def test_interpreter_exits_without_close(self):
        program = """
import asyncio, bcrypt, sys
from tamatar_auth.security.passwords.hash_queue import HashQueue

async def main():
    hash_queue = HashQueue(1, 1)
    async def one():
        async with hash_queue.permit() as permit:
            await permit.run(lambda: bcrypt.hashpw(b"x", bcrypt.gensalt(10)))
    await one()
    tasks = [asyncio.create_task(one()) for _ in range(2)]
    while hash_queue.load != (2, 1, 1):
        await asyncio.sleep(0.001)

asyncio.run(main())
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )

        assert (ended.returncode, ended.stderr) == (0, "")

    async def test_work_runs_in_context_of_its_call(self, hash_queue):
        call = ContextVar("call", default="none")
        call.set("this one")

        assert await one(hash_queue, call.get) == "this one"

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
    async def test_hash_threads_have_lower_priority(self, hash_queue):
        def niceness():
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        ours = niceness()

        assert await one(hash_queue, niceness) == min(19, ours + 10)
        assert niceness() == ours


class TestPermits:
    """Permits, which are bounded and returned."""

    async def test_permits_are_limited_to_threads_and_queue(self, hash_queue, work):
        tasks = [asyncio.create_task(one(hash_queue, work)) for _ in range(200)]
        await begun(work, THREADS)
        assert hash_queue.load == (THREADS + QUEUE, THREADS, QUEUE)
        work.let()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

        assert outcomes.count("work") == THREADS + QUEUE == len(work.begun)
        assert sum(isinstance(outcome, ServerBusy) for outcome in outcomes) == 200 - THREADS - QUEUE
        assert work.most_at_once == THREADS

    async def test_refusal_without_measurement_estimates_retry_delay(self, hash_queue):
        async with AsyncExitStack() as taken:
            for _ in range(THREADS + QUEUE):
                await taken.enter_async_context(hash_queue.permit())
            with pytest.raises(ServerBusy) as refused:
                await one(hash_queue, int)

        # Nothing was measured yet, so a hash counts as a quarter of a second.
        assert 0.25 * 5 / 2 / 2 <= refused.value.retry_after <= 0.25 * 5 / 2

    async def test_refusal_delay_follows_measured_hashes(self, hash_queue):
        async def retry_delay():
            await one(hash_queue, int)
            async with AsyncExitStack() as taken:
                for _ in range(THREADS + QUEUE):
                    await taken.enter_async_context(hash_queue.permit())
                with pytest.raises(ServerBusy) as refused:
                    await one(hash_queue, int)
            return refused.value.retry_after

        await eventually(lambda: is_shortest(retry_delay))

    async def test_returned_permit_is_reused(self, hash_queue):
        for _ in range(3 * (THREADS + QUEUE)):
            assert await one(hash_queue, int) == 0
        await reach(hash_queue, taken=0, hashing=0, waiting=0)

    async def test_permit_is_returned_when_work_fails(self, hash_queue):
        for _ in range(THREADS + QUEUE + 1):
            with pytest.raises(ValueError, match="invalid literal"):
                await one(hash_queue, lambda: int("x"))

        assert await one(hash_queue, int) == 0

    async def test_cancelled_running_work_keeps_its_permit(self, hash_queue, work):
        tasks = await begin(hash_queue, work, THREADS + QUEUE)
        await begun(work, THREADS)
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})

        assert tasks[0].cancelled()
        assert hash_queue.load == (THREADS + QUEUE, THREADS, QUEUE)
        with pytest.raises(ServerBusy):
            await one(hash_queue, work)
        work.let()
        await asyncio.gather(*tasks, return_exceptions=True)
        await reach(hash_queue, taken=0, hashing=0, waiting=0)

    async def test_wait_for_permit_gets_next_free_one(self, hash_queue, work):
        tasks = await begin(hash_queue, work, THREADS + QUEUE)

        async def patient():
            async with hash_queue.permit(wait=True) as permit:
                return await permit.run(int)

        waiting = asyncio.create_task(patient())
        await asyncio.sleep(0)
        assert not waiting.done()
        work.let()

        assert await waiting == 0
        await asyncio.gather(*tasks)

    async def test_permits_and_hashes_are_counted(self, work):
        recording = Recording()
        hash_queue = HashQueue(THREADS, QUEUE, hash_recorder(recording.meter))
        observe_permits(hash_queue, recording.meter)

        tasks = await begin(hash_queue, work, THREADS + 1)
        async with hash_queue.permit():
            states = {
                point.attributes["tamatar.hash.turn.state"]: point.value
                for point in recording.points("tamatar.hash.turn.count")
            }
        tasks[-1].cancel()
        await reach(hash_queue, taken=THREADS, hashing=THREADS, waiting=0)
        work.let()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert states == {"hashing": 2, "waiting": 1, "other": 1}
        assert [point.value for point in recording.points("tamatar.hash.turn.max")] == [5]
        for name in ("tamatar.hash.duration", "tamatar.hash.wait.duration"):
            assert [point.count for point in recording.points(name)] == [THREADS]
        await hash_queue.close()

    @pytest.mark.parametrize(
        ("cores", "given", "capacity"),
        [
            (8, {}, 7 * 17),
            (1, {}, 17),
            (8, {"hash_threads": 2}, 34),
            (8, {"hash_threads": 2, "hash_queue": 0}, 2),
        ],
    )
    def test_capacity_depends_on_settings_and_cores(self, monkeypatch, cores, given, capacity):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)

        assert PasswordHasher.create(PasswordSettings(**given)).hash_queue.capacity == capacity
