"""Batches: every caller gets its row, from a statement that began after the call."""

import asyncio
import itertools
import random
from collections import Counter
from datetime import timedelta

import pytest
from opentelemetry.trace import INVALID_SPAN

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.instrumentation.call_record import (
    MAX_LINKS,
    CallRecord,
    SampledCall,
    current_call,
)
from tamatar_auth.storage.session_validation import batch_loader, batch_window
from tamatar_auth.storage.session_validation.batch_loader import (
    MAX_KEYS,
    MAX_STATEMENTS,
    BatchLoader,
)
from tamatar_auth.storage.session_validation.batch_window import MAX_WAIT, TICK
from tests.support.waiting import PATIENCE


class Refused(Exception):  # noqa: N818 - as the failures are named
    """Raised by a statement."""


class Table:
    """Rows for all keys that are not negative; records the keys of each statement."""

    def __init__(self):
        self.taken, self.ended = [], []
        self.may_begin, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_begin.set()
        self.may_end.set()
        self.error = None
        self.on_taken = lambda: None
        self.loader = BatchLoader(self._find)

    async def _find(self, take):
        await self.may_begin.wait()
        keys = take()
        self.taken.append(sorted(keys))
        self.on_taken()
        error, may_end = self.error, self.may_end
        await asyncio.sleep(0)
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            self.ended.append(sorted(keys))
            raise
        if error is not None:
            raise error
        return {key: f"row {key}" for key in keys if key >= 0}

    def ask(self, *keys):
        return [asyncio.ensure_future(self.loader.load(key)) for key in keys]

    def hold(self):
        """Hold the statements that begin from now on; return the event that releases them."""
        self.may_end = asyncio.Event()
        return self.may_end


class Moments:
    """Batch windows, which last until a test ends them."""

    def __init__(self):
        self.lasting = []

    def begin(self, seconds, then):
        """Replace the timers of the loop, except the periodic check for cancelled callers."""
        moment = Moment(seconds, then, self.lasting)
        if seconds != batch_loader.CANCEL_CHECK_INTERVAL:
            self.lasting.append(moment)
        return moment

    def let_pass(self):
        """End the one open window; return its length in seconds."""
        (moment,) = self.lasting
        moment.cancel()
        moment.then()
        return moment.seconds


class Moment:
    """One batch window."""

    def __init__(self, seconds, then, lasting):
        self.seconds, self.then, self._lasting = seconds, then, lasting

    def cancel(self):
        if self in self._lasting:
            self._lasting.remove(self)


@pytest.fixture
async def table():
    return Table()


@pytest.fixture
def moments(table, monkeypatch):
    moments = Moments()
    monkeypatch.setattr(table.loader, "_call_later", moments.begin)
    monkeypatch.setattr(batch_window, "IDLE_RESET", 3600)
    return moments


@pytest.fixture
def unhurried(monkeypatch):
    """Let a statement start only after the one before has ended."""
    monkeypatch.setattr(batch_loader, "OVERLAP_AFTER", 3600)


async def steps():
    """Run everything that is ready to run."""
    for _ in range(20):
        await asyncio.sleep(0)


class TestErrors:
    """Statements that fail or never end."""

    async def test_error_reaches_calls_of_its_batch_only(self, table):
        done, table.error = table.hold(), Refused()
        failing = table.ask(1)
        await steps()
        table.error = None
        fine = table.ask(2)
        await steps()
        done.set()

        with pytest.raises(Refused):
            await failing[0]
        assert await fine[0] == "row 2"

    async def test_failed_connection_fails_all_waiting_calls(self):
        may_fail = asyncio.Event()

        async def find(_take):
            await may_fail.wait()
            raise Refused

        loader = BatchLoader(find)
        asked = [asyncio.ensure_future(loader.load(key)) for key in range(3)]
        await steps()
        may_fail.set()

        assert {type(end) for end in await asyncio.gather(*asked, return_exceptions=True)} == {
            Refused
        }

    @pytest.mark.usefixtures("unhurried")
    async def test_error_of_abandoned_batch_reaches_no_call(self):
        may_begin, may_fail, errors = asyncio.Event(), asyncio.Event(), [Refused()]

        async def find(take):
            await may_begin.wait()
            keys = take()
            if errors:
                await may_fail.wait()
                raise errors.pop()
            return dict.fromkeys(keys, "a row")

        loader = BatchLoader(find)
        gone = asyncio.ensure_future(loader.load(1))
        await steps()
        gone.cancel()
        await steps()
        may_begin.set()
        await steps()
        later = asyncio.ensure_future(loader.load(2))
        await steps()
        may_fail.set()

        assert await later == "a row"

    async def test_statement_past_timeout_fails_and_next_one_runs(self):
        stuck = [True]

        async def find(take):
            keys = take()
            if stuck:
                await asyncio.Event().wait()
            return dict.fromkeys(keys, "a row")

        loader = BatchLoader(find, timeout=timedelta(milliseconds=50))
        asked = [asyncio.ensure_future(loader.load(key)) for key in range(3)]

        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageUnavailable}
        stuck.clear()
        assert await loader.load(1) == "a row"

    async def test_cancelled_statement_fails_its_calls(self):
        async def find(take):
            take()
            await asyncio.sleep(60)

        loader = BatchLoader(find)
        asked = asyncio.ensure_future(loader.load(1))
        await steps()
        (statement,) = [
            task for task in asyncio.all_tasks() if "BatchLoader._run" in repr(task.get_coro())
        ]
        statement.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asked


class Storm:
    """Calls that start, wait, are cancelled and are refused at random."""

    def __init__(self, seed):
        self.chance, self.clock, self.ends = random.Random(seed), itertools.count(), Counter()
        self.loader = BatchLoader(self._find)

    async def _find(self, take):
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        self._refuse_sometimes()
        keys, began = take(), next(self.clock)
        await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.01, 0.04)))
        self._refuse_sometimes()
        return {key: (key, began) for key in keys if key % 7}

    def _refuse_sometimes(self):
        if self.chance.random() < 0.2:
            raise Refused

    async def ask(self, key):
        came = next(self.clock)
        try:
            row = await self.loader.load(key)
        except (Refused, ServiceStopping, asyncio.CancelledError) as error:
            self.ends[type(error).__name__] += 1
            return
        self.ends["answered"] += 1
        if key % 7:
            assert row[0] == key
            assert row[1] > came
        else:
            assert row is None

    async def blow(self):
        """Start 1500 calls; return their tasks."""
        tasks = []
        for _ in range(1500):
            tasks.append(asyncio.create_task(self.ask(self.chance.randrange(200))))
            if self.chance.random() < 0.3:
                await asyncio.sleep(self.chance.choice((0, 0, 0, 0.001, 0.003)))
            if self.chance.random() < 0.2:
                self.chance.choice(tasks).cancel()
        return tasks


class TestBatches:
    """Calls that share a statement."""

    async def test_lone_call_is_looked_up_at_once(self, table):
        (asked,) = table.ask(1)
        await steps()

        assert table.taken == [[1]]
        assert await asked == "row 1"

    async def test_key_without_row_returns_none(self, table):
        assert await table.loader.load(-1) is None

    async def test_calls_during_a_statement_share_the_next(self, table):
        done = table.hold()
        first = table.ask(1)
        await steps()
        later = table.ask(2, 3, 3, -4)
        await steps()
        done.set()

        assert await asyncio.gather(*first, *later) == ["row 1", "row 2", "row 3", "row 3", None]
        assert table.taken == [[1], [-4, 2, 3]]

    async def test_calls_waiting_for_a_connection_share_a_statement(self, table):
        table.may_begin.clear()
        first = table.ask(1)
        await steps()
        later = table.ask(2, 3)
        await steps()
        table.may_begin.set()

        await asyncio.gather(*first, *later)
        assert table.taken == [[1, 2, 3]]

    async def test_batch_after_a_large_batch_waits_for_company(self, table, moments):
        done = table.hold()
        waiting = table.ask(1)
        await steps()
        waiting += table.ask(*range(2, 22))
        await steps()
        done.set()
        await steps()
        assert moments.let_pass() == TICK
        await asyncio.gather(*waiting)

        again = table.ask(1)
        await steps()
        assert len(table.taken) == 2
        again += table.ask(2)
        assert moments.let_pass() == MAX_WAIT
        await asyncio.gather(*again)
        assert table.taken[2:] == [[1, 2]]

    async def test_complete_batch_starts_without_waiting(self, table, moments):
        await asyncio.gather(*table.ask(*range(5)))
        again = table.ask(*range(5))
        assert moments.let_pass() == 2 * TICK
        await asyncio.gather(*again)

        await asyncio.gather(*table.ask(*range(5)))
        assert table.taken == [[0, 1, 2, 3, 4]] * 3

    async def test_batch_size_of_long_ago_is_forgotten(self, table, monkeypatch):
        monkeypatch.setattr(batch_window, "IDLE_RESET", 0.0)
        await asyncio.gather(*table.ask(*range(20)))

        table.ask(1)
        await steps()

        assert table.taken[-1] == [1]

    async def test_call_during_a_statement_waits_for_a_later_one(self, table, moments):
        done = table.hold()
        first = table.ask(1)
        await steps()
        second = table.ask(2)
        await steps()
        done.set()
        await asyncio.gather(*first)
        await steps()
        assert table.taken == [[1]]

        third = table.ask(3)
        moments.let_pass()

        assert await asyncio.gather(*second, *third) == ["row 2", "row 3"]
        assert table.taken == [[1], [2, 3]]

    async def test_batch_above_max_keys_is_split(self, table):
        keys = range(2 * MAX_KEYS + 5)

        assert await asyncio.gather(*table.ask(*keys)) == [f"row {key}" for key in keys]
        assert max(map(len, table.taken)) == MAX_KEYS

    async def test_slow_statement_delays_no_other_within_max_statements(self, table):
        table.hold()
        slow = []
        for key in range(MAX_STATEMENTS):
            slow += table.ask(key)
            while len(table.taken) <= key:  # noqa: ASYNC110 - the timer is the code's own
                await asyncio.sleep(0.001)
        late = table.ask(100, 101)
        await asyncio.sleep(3 * batch_loader.OVERLAP_AFTER)
        assert len(table.taken) == MAX_STATEMENTS

        table.may_end.set()
        assert await asyncio.gather(*late) == ["row 100", "row 101"]
        await asyncio.gather(*slow)

    @pytest.mark.parametrize("seed", range(10))
    async def test_random_calls_get_own_rows_read_after_they_began(self, seed):
        storm = Storm(seed)
        tasks = await storm.blow()
        tasks.append(asyncio.create_task(storm.loader.close()))
        tasks += [asyncio.create_task(storm.ask(key)) for key in range(20)]

        done, pending = await asyncio.wait(tasks, timeout=PATIENCE)

        assert not pending
        assert not [task.exception() for task in done if not task.cancelled() and task.exception()]
        assert storm.ends["answered"] > 100
        assert storm.ends["Refused"]
        assert storm.ends["ServiceStopping"]


class TestCancellation:
    """Calls that are cancelled, and the end of the loader."""

    @pytest.mark.usefixtures("unhurried")
    async def test_cancelled_call_in_queue_is_not_looked_up(self, table):
        done = table.hold()
        first = table.ask(1)
        await steps()
        gone, stays = table.ask(2, 3)
        await steps()
        gone.cancel()
        await steps()
        done.set()

        assert await asyncio.gather(*first, stays) == ["row 1", "row 3"]
        assert table.taken == [[1], [3]]

    async def test_cancelled_call_in_batch_leaves_others_their_rows(self, table):
        done = table.hold()
        gone, stays = table.ask(1, 2)
        await steps()
        gone.cancel()
        await steps()
        done.set()

        assert await stays == "row 2"
        assert table.taken == [[1, 2]]

    async def test_close_finishes_waiting_calls_and_refuses_new(self, table):
        done = table.hold()
        waiting = table.ask(1)
        await steps()
        waiting += table.ask(2, 3)
        await steps()
        closing = asyncio.create_task(table.loader.close())
        await steps()
        with pytest.raises(ServiceStopping):
            await table.loader.load(4)
        assert not closing.done()

        done.set()
        await closing
        assert await asyncio.gather(*waiting) == ["row 1", "row 2", "row 3"]
        await table.loader.close()

    async def test_close_cancels_abandoned_statement(self, table):
        table.hold()
        (gone,) = table.ask(1)
        await steps()
        gone.cancel()
        await steps()

        await asyncio.wait_for(table.loader.close(), PATIENCE)

    async def test_close_does_not_wait_for_cancelled_calls(self):
        async def find(take):
            take()
            await asyncio.Event().wait()

        loader = BatchLoader(find)
        first = asyncio.ensure_future(loader.load(1))
        await steps()
        gathered = asyncio.ensure_future(loader.load(2))
        for gone in (first, gathered):
            gone.cancel()

        await asyncio.wait_for(loader.close(), PATIENCE)

    async def test_statement_of_cancelled_calls_is_cancelled(self, monkeypatch):
        monkeypatch.setattr(batch_loader, "CANCEL_CHECK_INTERVAL", 0.01)
        table = Table()
        table.hold()
        (alone,) = table.ask(1)
        await steps()
        one, other = table.ask(2, 3)
        await asyncio.sleep(0.1)
        assert table.taken == [[1], [2, 3]]
        assert table.ended == []

        alone.cancel()
        one.cancel()
        await asyncio.sleep(0.1)
        assert table.ended == [[1]]

        other.cancel()
        await asyncio.sleep(0.1)
        assert table.ended == [[1], [2, 3]]


class TestSampledCalls:
    """Calls whose spans are recorded, as the statement that they share sees them."""

    async def test_statement_knows_only_sampled_calls_of_its_batch(self, table, unhurried):
        shared = []
        table.may_begin.clear()
        table.on_taken = lambda: shared.append(current_call.get())
        first, gone = sampled_call(), sampled_call()
        asked = [ask_in(table, first, 1), ask_in(table, None, 2)]
        cancelled = ask_in(table, gone, 3)
        await steps()
        cancelled.cancel()
        await steps()
        table.may_begin.set()
        await asyncio.gather(*asked)
        second = sampled_call()
        await ask_in(table, second, 4)

        assert [call.sampled for call in shared] == [[first], [second]]
        assert {call.rpc for call in shared} == {"Validate"}
        assert not table.loader._sampled
        assert current_call.get() is None

    def test_links_of_shared_statement_are_bounded(self):
        calls = [sampled_call() for _ in range(MAX_LINKS + 1)]

        assert len(CallRecord("Validate", calls, is_shared=True).links) == MAX_LINKS
        assert not CallRecord("Validate", calls[:1]).links


def sampled_call():
    return SampledCall(INVALID_SPAN)


def ask_in(table, sampled, key):
    """Ask in a task of its own, as a call does."""

    async def call():
        current_call.set(CallRecord("Validate", (sampled,) if sampled else ()))
        return await table.loader.load(key)

    return asyncio.create_task(call())
