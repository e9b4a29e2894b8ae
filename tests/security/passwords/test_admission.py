"""Turns: bounded, on threads of low priority, and lost on nobody who went away."""

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from contextvars import ContextVar

import pytest

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import ServerBusy
from tamatar_auth.security.passwords.admission import HashTurns
from tamatar_auth.security.passwords.hasher import Passwords
from tamatar_auth.security.passwords.metrics import watch_hashes, watch_turns
from tests.support.telemetry_capture import Recording
from tests.support.waiting import eventually

THREADS, QUEUE = 2, 3


class Work:
    """Work for a thread, which ends when it is let."""

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
async def turns():
    turns = HashTurns(THREADS, QUEUE)
    yield turns
    await turns.close()


@pytest.fixture
def work():
    work = Work()
    yield work
    work.let()


async def one(turns, work):
    """Take a turn for one piece of work."""
    async with turns.turn() as turn:
        return await turn.run(work)


async def begin(turns, work, count):
    """Take turns, and return when as many works as can have begun."""
    tasks = [
        asyncio.create_task(one(turns, lambda number=number: work(number)))
        for number in range(count)
    ]
    await reach(turns, taken=count, hashing=min(count, THREADS), waiting=max(0, count - THREADS))
    return tasks


async def reach(turns, **load):
    async def reached():
        return turns.load._asdict() == load

    await eventually(reached)


async def begun(work, count):
    async def enough():
        return len(work.begun) == count

    await eventually(enough)


async def test_of_two_hundred_at_once_as_many_have_a_turn_as_there_are(turns, work):
    tasks = [asyncio.create_task(one(turns, work)) for _ in range(200)]
    await begun(work, THREADS)
    assert turns.load == (THREADS + QUEUE, THREADS, QUEUE)
    work.let()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert outcomes.count("work") == THREADS + QUEUE == len(work.begun)
    assert sum(isinstance(outcome, ServerBusy) for outcome in outcomes) == 200 - THREADS - QUEUE
    assert work.most_at_once == THREADS


async def test_whoever_is_refused_is_told_how_long_those_before_take(turns):
    async with AsyncExitStack() as taken:
        for _ in range(THREADS + QUEUE):
            await taken.enter_async_context(turns.turn())
        with pytest.raises(ServerBusy) as refused:
            await one(turns, int)

    # Nothing was measured yet: a hash counts as a quarter of a second.
    assert 0.25 * 5 / 2 / 2 <= refused.value.retry_after <= 0.25 * 5 / 2


async def test_the_wait_follows_the_hashes_that_were_measured(turns):
    async def told():
        await one(turns, int)
        async with AsyncExitStack() as taken:
            for _ in range(THREADS + QUEUE):
                await taken.enter_async_context(turns.turn())
            with pytest.raises(ServerBusy) as refused:
                await one(turns, int)
        return refused.value.retry_after

    await eventually(lambda: is_shortest(told))


async def is_shortest(told):
    return await told() == 0.1


async def test_a_turn_that_was_given_back_is_another_ones(turns):
    for _ in range(3 * (THREADS + QUEUE)):
        assert await one(turns, int) == 0
    await reach(turns, taken=0, hashing=0, waiting=0)


async def test_a_turn_is_given_back_when_the_work_fails(turns):
    for _ in range(THREADS + QUEUE + 1):
        with pytest.raises(ValueError, match="invalid literal"):
            await one(turns, lambda: int("x"))

    assert await one(turns, int) == 0


async def test_work_whose_caller_went_away_before_it_began_never_runs(turns, work):
    tasks = await begin(turns, work, THREADS + QUEUE)
    for task in tasks[THREADS:]:
        task.cancel()
    await reach(turns, taken=THREADS, hashing=THREADS, waiting=0)
    work.let()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sorted(work.begun) == [0, 1]
    assert [task.cancelled() for task in tasks] == [False] * THREADS + [True] * QUEUE


async def test_the_queue_never_holds_what_was_cancelled(turns, work):
    tasks = await begin(turns, work, THREADS)
    for _ in range(2 * QUEUE):
        task = asyncio.create_task(one(turns, work))
        await reach(turns, taken=THREADS + 1, hashing=THREADS, waiting=1)
        task.cancel()
        await reach(turns, taken=THREADS, hashing=THREADS, waiting=0)

    work.let()
    await asyncio.gather(*tasks)


async def test_a_turn_whose_caller_went_away_is_kept_until_its_thread_is_free(turns, work):
    tasks = await begin(turns, work, THREADS + QUEUE)
    await begun(work, THREADS)
    tasks[0].cancel()
    await asyncio.wait({tasks[0]})

    assert tasks[0].cancelled()
    assert turns.load == (THREADS + QUEUE, THREADS, QUEUE)
    with pytest.raises(ServerBusy):
        await one(turns, work)
    work.let()
    await asyncio.gather(*tasks, return_exceptions=True)
    await reach(turns, taken=0, hashing=0, waiting=0)


async def test_who_can_wait_for_a_turn_gets_one(turns, work):
    tasks = await begin(turns, work, THREADS + QUEUE)

    async def patient():
        async with turns.turn_in_time() as turn:
            return await turn.run(int)

    waiting = asyncio.create_task(patient())
    await asyncio.sleep(0)
    assert not waiting.done()
    work.let()

    assert await waiting == 0
    await asyncio.gather(*tasks)


async def test_closing_waits_for_what_runs_and_leaves_no_thread(work):
    before = set(threading.enumerate())
    turns = HashTurns(THREADS, QUEUE)
    tasks = await begin(turns, work, THREADS)
    await begun(work, THREADS)
    threads = set(threading.enumerate()) - before
    for task in tasks:
        task.cancel()
    closing = asyncio.create_task(turns.close())
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not closing.done()

    work.let()
    await closing

    assert len(threads) == THREADS
    assert not any(thread.is_alive() for thread in threads)


def test_an_interpreter_ends_though_nobody_closed():
    program = """
import asyncio, bcrypt, sys
from tamatar_auth.security.passwords.admission import HashTurns

async def main():
    turns = HashTurns(1, 1)
    async def one():
        async with turns.turn() as turn:
            await turn.run(lambda: bcrypt.hashpw(b"x", bcrypt.gensalt(10)))
    await one()
    tasks = [asyncio.create_task(one()) for _ in range(2)]
    while turns.load != (2, 1, 1):
        await asyncio.sleep(0.001)

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


async def test_the_work_knows_of_the_call_that_it_is_for(turns):
    call = ContextVar("call", default="none")
    call.set("this one")

    assert await one(turns, call.get) == "this one"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_the_threads_give_way_and_nothing_else_does(turns):
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    ours = niceness()

    assert await one(turns, niceness) == min(19, ours + 10)
    assert niceness() == ours


async def test_turns_and_hashes_are_counted(work):
    recording = Recording()
    turns = HashTurns(THREADS, QUEUE, watch_hashes(recording.meter))
    watch_turns(turns, recording.meter)

    tasks = await begin(turns, work, THREADS + 1)
    async with turns.turn():
        states = {
            point.attributes["tamatar.hash.turn.state"]: point.value
            for point in recording.points("tamatar.hash.turn.count")
        }
    tasks[-1].cancel()
    await reach(turns, taken=THREADS, hashing=THREADS, waiting=0)
    work.let()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert states == {"hashing": 2, "waiting": 1, "other": 1}
    assert [point.value for point in recording.points("tamatar.hash.turn.max")] == [5]
    for name in ("tamatar.hash.duration", "tamatar.hash.wait.duration"):
        assert [point.count for point in recording.points(name)] == [THREADS]
    await turns.close()


@pytest.mark.parametrize(
    ("cores", "given", "most"),
    [
        (8, {}, 7 * 17),
        (1, {}, 17),
        (8, {"hash_threads": 2}, 34),
        (8, {"hash_threads": 2, "hash_queue": 0}, 2),
    ],
)
def test_settings_and_cores_say_how_many_turns_there_are(monkeypatch, cores, given, most):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)

    assert Passwords.of(Settings(_env_file=None, **given)).turns.most == most
