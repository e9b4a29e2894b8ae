"""ListUsers: filters, orders and pages, compared with a model in Python."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from sqlalchemy import insert, text, update
from uuid_utils.compat import uuid7

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.servicers.page_tokens import PageQuery, PageTokens
from tamatar_auth.storage.repositories import (
    KeysetCursor,
    user_counts,
    user_lists,
    user_pages,
)
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import ada, refusal, refused

SEED = 20260101
START = datetime(2026, 1, 1, tzinfo=UTC)


def population(size):
    """Yield users with few different values, so that filters and orders meet equal ones."""
    dice = random.Random(SEED)
    for number in range(size):
        deleted = dice.random() < 0.2
        created = START + timedelta(seconds=dice.randrange(size // 4))
        yield {
            "id": uuid7(),
            "email": f"{dice.choice(['ann', 'an_', 'an%', 'bob'])}{number}@example.com",
            "username": f"{dice.choice(['x', 'y_'])}{number}" if dice.random() < 0.8 else None,
            "email_verified": dice.random() < 0.5,
            "is_active": not deleted and dice.random() < 0.7,
            "created_at": created,
            "updated_at": created + timedelta(seconds=dice.randrange(100)),
            "deleted_at": created if deleted else None,
        }


@pytest.fixture
async def people(database):
    """A thousand users, as rows in the database and as dictionaries."""
    rows = list(population(1000))
    async with database.transaction() as tx:
        await tx.connection.execute(insert(users_table), rows)
    return rows


def random_filter(dice):
    """Return a filter, and the same filter as a function."""
    message, tests = pb.UserFilter(), []
    message.deleted = deleted = dice.choice(pb.DeletedFilter.values())
    if deleted in {pb.DELETED_FILTER_UNSPECIFIED, pb.DELETED_FILTER_EXCLUDE}:
        tests.append(lambda row: row["deleted_at"] is None)
    elif deleted == pb.DELETED_FILTER_ONLY:
        tests.append(lambda row: row["deleted_at"] is not None)
    if dice.random() < 0.4:
        message.email_prefix = prefix = dice.choice(["a", "AN", "an_", "an%", "bob1", "%", "_"])
        tests.append(lambda row: row["email"].startswith(prefix.lower()))
    if dice.random() < 0.3:
        message.username_prefix = name = dice.choice(["x", "Y_", "y%"])
        tests.append(lambda row: (row["username"] or "").startswith(name.lower()))
    for flag in ("email_verified", "is_active"):
        if dice.random() < 0.3:
            wanted = dice.random() < 0.5
            setattr(message, flag, wanted)
            tests.append(lambda row, flag=flag, wanted=wanted: row[flag] is wanted)
    if dice.random() < 0.3:
        low = START + timedelta(seconds=dice.randrange(200))
        message.created_from.FromDatetime(low)
        tests.append(lambda row: row["created_at"] >= low)
    if dice.random() < 0.3:
        high = START + timedelta(seconds=dice.randrange(250))
        message.created_before.FromDatetime(high)
        tests.append(lambda row: row["created_at"] < high)
    return message, lambda row: all(test(row) for test in tests)


async def at_once():
    """Return at once."""


async def read_all(users, request, before_each=at_once):
    """Read every page; return the ids and the reported totals."""
    found, totals = [], set()
    while True:
        await before_each()
        page = await users.ListUsers(request)
        found += [user.user_id for user in page.users]
        if page.HasField("total_size") and not page.total_size_is_estimate:
            totals.add(page.total_size)
        request.page_token = page.next_page_token
        if not request.page_token:
            return found, totals


COLUMNS = {"create_time": "created_at", "update_time": "updated_at", "email": "email"}


@pytest.fixture
def few_rows(monkeypatch):
    """Bounds of rows that pages and counts of a thousand users exceed."""
    monkeypatch.setattr(user_pages, "MAX_SORTED_ROWS", 10)
    monkeypatch.setattr(user_pages, "MAX_SCANNED_ROWS", 50)
    monkeypatch.setattr(user_lists, "MAX_PAGES_OF_EXTREME", 100)
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ENTRIES", 100)
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ROWS", 100)


@pytest.mark.parametrize("seed", range(25))
async def test_pages_hold_every_matching_user_once_in_order(users, people, seed):
    await pages_hold_every_matching_user_once_in_order(users, people, seed)


@pytest.mark.parametrize("seed", range(25, 75))
async def test_short_pages_hold_every_match_once_in_order(users, people, few_rows, seed):
    await pages_hold_every_matching_user_once_in_order(users, people, seed)


async def pages_hold_every_matching_user_once_in_order(users, people, seed):
    dice = random.Random(seed)
    matching, holds = random_filter(dice)
    name = dice.choice(list(COLUMNS))
    descending = dice.random() < 0.5
    request = pb.ListUsersRequest(
        page_size=dice.choice([0, 7, 100, 5000]),
        filter=matching,
        order_by=name + (" desc" if descending else ""),
        include_total=True,
    )

    found, totals = await read_all(users, request)

    expected = [row for row in people if holds(row)]
    expected.sort(key=lambda row: (row[COLUMNS[name]], row["id"]), reverse=descending)
    assert found == [str(row["id"]) for row in expected]
    assert totals <= {len(expected)}
    stats = await users.GetUserStats(pb.GetUserStatsRequest(filter=request.filter))
    assert stats.user_count_is_estimate or stats.user_count == len(expected)
    assert stats.user_count_is_estimate is (totals == set())
    if expected:
        created = sorted(row["created_at"] for row in expected)
        assert stats.first_create_time.ToDatetime(tzinfo=UTC) == created[0]
        assert stats.last_create_time.ToDatetime(tzinfo=UTC) == created[-1]


class TestBounds:
    """Pages, totals and counts beyond the bounds of rows."""

    async def test_page_of_far_matches_is_short_and_continues(self, users, people, few_rows):
        live = [row for row in people if row["deleted_at"] is None]
        prefix = max(live, key=lambda row: (row["created_at"], row["id"]))["email"][:3]
        newest = pb.UserFilter(email_prefix=prefix)
        newest.created_from.FromDatetime(START + timedelta(seconds=125))
        request = pb.ListUsersRequest(filter=newest, order_by="email desc", page_size=500)

        first = await users.ListUsers(request)

        assert len(first.users) < 50
        assert first.next_page_token

    async def test_total_at_the_bound_is_exact_and_beyond_it_estimated(
        self, users, people, database, monkeypatch
    ):
        live = sum(row["deleted_at"] is None for row in people)
        await analyze(database)
        for bound, is_estimate in ((live, False), (live - 1, True)):
            monkeypatch.setattr(user_counts, "MAX_COUNTED_ENTRIES", bound)
            page = await users.ListUsers(pb.ListUsersRequest(include_total=True))
            stats = await users.GetUserStats(pb.GetUserStatsRequest())
            assert page.total_size_is_estimate is is_estimate
            assert stats.user_count_is_estimate is is_estimate
            assert page.total_size == stats.user_count == live

    @pytest.mark.parametrize(
        "matching",
        [
            {},
            {"email_verified": True},
            {"is_active": False},
            {"email_verified": False, "is_active": True},
            {"deleted": pb.DELETED_FILTER_ONLY},
            {"deleted": pb.DELETED_FILTER_INCLUDE, "is_active": False},
            {"email_prefix": "an"},
            {"username_prefix": "x"},
            {"email_prefix": "bob", "email_verified": True},
        ],
    )
    async def test_estimates_are_within_five_percent_of_all(
        self, users, people, few_rows, database, monkeypatch, matching
    ):
        await analyze(database)
        stats = await users.GetUserStats(pb.GetUserStatsRequest(filter=matching))
        monkeypatch.undo()
        exact = await users.GetUserStats(pb.GetUserStatsRequest(filter=matching))

        assert stats.user_count_is_estimate
        assert not exact.user_count_is_estimate
        assert abs(stats.user_count - exact.user_count) <= len(people) / 20

    async def test_estimate_is_not_below_what_was_counted(self, users, people, few_rows, database):
        async with database.transaction() as tx:
            await tx.connection.execute(text("UPDATE users SET email_verified = true"))
        await analyze(database)
        async with database.transaction() as tx:
            await tx.connection.execute(text("UPDATE users SET email_verified = false"))
        request = pb.GetUserStatsRequest(filter={"email_verified": False})

        assert (await users.GetUserStats(request)).user_count > 100


async def analyze(database):
    """Collect the statistics of users, as autovacuum does."""
    async with database.transaction() as tx:
        await tx.connection.execute(text("ANALYZE users"))


async def test_pages_during_insertions_omit_no_earlier_user(users, people, database):
    stop, came = asyncio.Event(), asyncio.Event()

    async def newcomer_came():
        came.clear()
        await came.wait()

    async def newcomers():
        number = 0
        while not stop.is_set():
            number += 1
            row = {
                "id": uuid7(),
                "email": f"new{number}@example.com",
                "created_at": START + timedelta(seconds=number % 250),
            }
            async with database.transaction() as tx:
                await tx.connection.execute(insert(users_table).values(row))
            came.set()

    arriving = asyncio.create_task(newcomers())
    request = pb.ListUsersRequest(page_size=20, include_total=True)
    found, totals = await read_all(users, request, newcomer_came)
    stop.set()
    await arriving

    live = {str(row["id"]) for row in people if row["deleted_at"] is None}
    assert live <= set(found)
    assert len(found) == len(set(found))
    assert len(totals) > 1


async def test_list_total_and_rows_are_of_one_snapshot(users, database, service):
    for number in range(3):
        await users.CreateUser(ada(email=f"u{number}@example.com", password=""))
    page_of_all = pb.ListUsersRequest(include_total=True)

    async def come_and_go():
        async with database.transaction() as tx:
            await tx.connection.execute(
                update(users_table).values(deleted_at=START, is_active=False)
            )
        async with database.transaction() as tx:
            await tx.connection.execute(update(users_table).values(deleted_at=None))

    for _ in range(20):
        answer, _ = await asyncio.gather(users.ListUsers(page_of_all), come_and_go())
        assert answer.total_size == len(answer.users)


async def test_list_page_size_defaults_to_50_and_ends_at_1000(users, people):
    assert len((await users.ListUsers(pb.ListUsersRequest())).users) == 50
    everyone = pb.UserFilter(deleted=pb.DELETED_FILTER_INCLUDE)
    huge = pb.ListUsersRequest(page_size=2_000_000_000, filter=everyone)
    answer = await users.ListUsers(huge)
    assert len(answer.users) == 1000
    assert answer.next_page_token == ""


async def test_list_page_of_long_users_ends_below_message_limit(users, database):
    wide = {"first_name": "😀" * 100, "last_name": "😀" * 100, "deleted_by": "😀" * 255}
    url = "https://example.com/" + "😀" * 2000
    async with database.transaction() as tx:
        rows = [
            {"id": uuid7(), "email": f"u{number}@example.com", "avatar_url": url, **wide}
            for number in range(1000)
        ]
        await tx.connection.execute(insert(users_table), rows)

    request = pb.ListUsersRequest(page_size=1000, include_total=True)
    first = await users.ListUsers(request)
    found, totals = await read_all(users, request)

    assert 0 < len(first.users) < 1000
    assert len(set(found)) == len(found) == 1000
    assert totals == {1000}


async def test_created_from_between_microseconds_rounds_up(users, people):
    newest = max(row["created_at"] for row in people)
    request = pb.GetUserStatsRequest(filter={"deleted": pb.DELETED_FILTER_INCLUDE})
    request.filter.created_from.FromDatetime(newest)
    at_the_last = (await users.GetUserStats(request)).user_count
    request.filter.created_from.nanos += 1

    assert at_the_last > 0
    assert (await users.GetUserStats(request)).user_count == 0


async def test_list_total_is_returned_on_request_only(users):
    assert not (await users.ListUsers(pb.ListUsersRequest())).HasField("total_size")
    asked = await users.ListUsers(pb.ListUsersRequest(include_total=True))
    assert asked.HasField("total_size")
    assert asked.total_size == 0


@pytest.mark.parametrize(
    "order_by",
    ["name", "email asc", "email desc desc", "email, create_time", "EMAIL", "id", "desc"],
)
async def test_list_with_unknown_order_is_refused(users, order_by):
    said = await refused(users.ListUsers(pb.ListUsersRequest(order_by=order_by)))

    assert said.code is StatusCode.INVALID_ARGUMENT
    assert list(said.fields) == ["order_by"]


async def test_list_page_token_of_other_query_is_refused(users, people):
    first = await users.ListUsers(pb.ListUsersRequest(page_size=1))
    token = first.next_page_token
    foreign = PageTokens(None).issue(
        PageQuery("ListUsers", "created_at False", pb.UserFilter()),
        KeysetCursor(START, people[0]["id"]),
    )
    requests = [
        pb.ListUsersRequest(page_token=token, filter={"email_verified": True}),
        pb.ListUsersRequest(page_token=token, order_by="email"),
        pb.ListUsersRequest(page_token=token, order_by="create_time desc"),
        pb.ListUsersRequest(page_token=token[:-2] + "xx"),
        pb.ListUsersRequest(page_token="no token"),
        pb.ListUsersRequest(page_token="é"),
        pb.ListUsersRequest(page_token=foreign),
    ]
    for request in requests:
        assert await refusal(users.ListUsers(request)) == (
            StatusCode.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
        )
    await users.ListUsers(pb.ListUsersRequest(page_token=token, page_size=7))


@pytest.mark.parametrize("nanos", [999_999_000, 999_999_999])
async def test_last_timestamp_is_a_valid_end(users, people, nanos):
    last = Timestamp(seconds=253_402_300_799, nanos=nanos)
    matching = pb.UserFilter(created_before=last)

    everyone = await users.GetUserStats(pb.GetUserStatsRequest())
    assert await users.GetUserStats(pb.GetUserStatsRequest(filter=matching)) == everyone
    later = pb.UserFilter(created_from=last)
    assert (await users.GetUserStats(pb.GetUserStatsRequest(filter=later))).user_count == 0
