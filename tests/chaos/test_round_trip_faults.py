"""Each call that changes something, with a fault at every round trip to PostgreSQL.

The change happens wholly or not at all, the answer is true, and nothing is left behind:
no lent connection, no open transaction.
"""

import asyncio
import contextlib
import itertools

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc import StatusCode
from sqlalchemy import select, text

from tamatar.auth.v1 import factor_service_pb2, session_service_pb2, user_service_pb2
from tamatar_auth.server.app import start
from tamatar_auth.storage.tables import metadata
from tests.chaos.faulty_wire import Fault, Wire
from tests.chaos.write_calls import MUTATIONS, Scene, create_user
from tests.support.calls import read_refusal
from tests.support.settings import changed
from tests.support.waiting import eventually

OK = (StatusCode.OK, "")
STORAGE_UNAVAILABLE = (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")

NOT_OF_USERS = {"session_ends", "session_end_log", "primary_heartbeat", "primary_terms"}
"""Tables that background tasks write."""

RESERVES_ATTEMPT = {
    *("create_session", "challenge_user", "change_password", "confirm_totp_factor"),
    *("sign_in_with_code", "sign_in_with_recovery_code"),
    *("step_up_with_password", "step_up_with_code"),
}
"""Calls that count a password or a code before they check it, in a transaction of its own."""

COUNTS_ANSWER = {
    *("sign_in_with_code", "sign_in_with_recovery_code", "sign_in_with_passkey"),
    *("step_up_with_password", "step_up_with_code", "finish_passkey_registration"),
}
"""Calls that count an answer to a challenge before they check it, in a transaction of its own."""

PREPARATIONS = [prepare for several in MUTATIONS.values() for prepare in several]


@pytest.fixture
async def wire(database_url):
    async with Wire.to(database_url) as wire:
        yield wire


@pytest.fixture
async def service(settings, database, wire):
    """A server whose calls go over the wire, and nothing else."""
    given = changed(settings.with_database(wire.url), sessions_per_user=1)
    service = await start(given)
    yield service
    await service.stop()


@pytest.fixture
def scene(users, sessions, factors, database):
    return Scene(users, sessions, factors, database)


def test_every_changing_method_has_a_preparation():
    services = [
        user_service_pb2.DESCRIPTOR.services_by_name["UserService"],
        session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
        factor_service_pb2.DESCRIPTOR.services_by_name["FactorService"],
    ]
    changing = {
        method.name
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    }
    assert changing == set(MUTATIONS)


@pytest.mark.parametrize("prepare", PREPARATIONS, ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER])
async def test_cut_round_trip_leaves_change_whole_or_absent(scene, service, wire, prepare, fault):
    clean = await outcome_of(await prepare(scene), scene)
    left = []
    for at in itertools.count(1):
        call = await prepare(scene)
        plan = wire.plan(fault, at=at)
        said, changes = await outcome_of(call, scene)
        wire.heal()
        await nothing_stays_behind(scene, service)
        if not plan.met.is_set():
            break
        left.append(of_the_call(changes, prepare))
        # A cut call may only succeed if its change was made.
        assert said == STORAGE_UNAVAILABLE or (said, changes) == clean, (at, said)

    assert (said, changes) == clean
    assert all(changes in ([], of_the_call(clean[1], prepare)) for changes in left), left
    # The last cut round trip is the COMMIT: it arrived or it did not.
    assert bool(left[-1]) is (fault is Fault.CUT_AFTER)


@pytest.mark.parametrize("prepare", PREPARATIONS, ids=lambda prepare: prepare.__name__)
async def test_cancelled_call_leaves_change_whole_or_absent(scene, service, wire, prepare):
    clean = await outcome_of(await prepare(scene), scene)
    whole = of_the_call(clean[1], prepare)
    for at in itertools.count(1):
        call = await prepare(scene)
        before = await rows(scene.database)
        plan = wire.plan(Fault.HOLD, at=at)
        was_met = await cancelled_at(plan, call(), wire, service)
        await nothing_stays_behind(scene, service)
        changes = of_the_call(differences(before, await rows(scene.database)), prepare)
        assert changes in ([], whole), (at, changes)
        wire.heal()
        if not was_met:
            break
    assert at > 1
    assert changes == whole


async def test_create_user_cut_at_any_point_creates_one_user(scene, wire):
    clean = await outcome_of(await create_user(scene), scene)
    for at in itertools.count(1):
        call = await create_user(scene)
        before = await rows(scene.database)
        plan = wire.plan(Fault.CUT_AFTER, at=at)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call()
        wire.heal()

        first, second = await call(), await call()
        assert first.user.user_id == second.user.user_id
        assert differences(before, await rows(scene.database)) == clean[1]
        if not plan.met.is_set():
            break


async def cancelled_at(plan, call, wire, service):
    """Cancel a call while the answer of a round trip is held; return whether it got there."""
    await first_of(plan.met.wait(), call.code())
    wire.cancelled.clear()
    call.cancel()
    if plan.met.is_set():
        # The call has abandoned the statement, or waits for its cancellation.
        await first_of(service.components.drain.wait_until_idle(), wire.cancelled.wait())
    plan.released.set()
    await call.code()
    return plan.met.is_set()


async def first_of(*awaited):
    """Wait for one of several, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    done, others = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    assert done


async def outcome_of(call, scene):
    """Make a call; return its outcome, and the changes it made."""
    before = await rows(scene.database)
    try:
        await call()
        said = OK
    except grpc.aio.AioRpcError as error:
        refusal = read_refusal(error)
        said = refusal.code, refusal.reason
        assert refusal.code is not StatusCode.UNAVAILABLE or refusal.retry_seconds
    return said, differences(before, await rows(scene.database))


async def rows(database):
    """Return everything that is stored of users, by table and key."""
    found = {}
    async with database.snapshot() as db:
        for table in metadata.sorted_tables:
            if table.name in NOT_OF_USERS:
                continue
            for row in (await db.connection.execute(select(table))).mappings():
                key = tuple(row[column.name] for column in table.primary_key)
                found[table.name, key] = dict(row)
    return found


def differences(before, after):
    """Return what was added, removed and changed, in the same form for every user."""
    found = []
    for place in before.keys() | after.keys():
        old, new = before.get(place), after.get(place)
        if old is None or new is None:
            found.append((place[0], "removed" if new is None else "added", ()))
        elif old != new:
            changed = tuple(sorted(name for name in old if old[name] != new[name]))
            found.append((place[0], "changed", changed))
    return sorted(found)


def of_the_call(changes, prepare):
    """Leave out what is counted before a check, unless the call clears it in its transaction."""
    return [each for each in changes if not is_count(each, prepare.__name__)]


def is_count(change, call):
    """Return whether a change is the count of an attempt or of an answer."""
    if change[0] == "password_attempts":
        return call in RESERVES_ATTEMPT
    return change == ("challenges", "changed", ("attempts",)) and call in COUNTS_ANSWER


async def nothing_stays_behind(scene, service):
    await service.components.drain.wait_until_idle()
    await eventually(lambda: no_connection_is_lent(service.database))
    await eventually(lambda: no_transaction_is_open(scene.database))
    await scene.users.GetUserStats(user_service_pb2.GetUserStatsRequest())


async def no_connection_is_lent(database):
    return database.pool.in_use == 0  # the attempt of a cancelled call is settled after it


async def no_transaction_is_open(database):
    async with database.read() as db:
        still = await db.connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
            )
        )
        return still.scalar_one() == 0
