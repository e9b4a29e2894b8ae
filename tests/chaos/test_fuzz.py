"""Calls that nobody would make on purpose end as they should; one that does not is found."""

import pytest
from grpc import StatusCode

from tamatar_auth.storage.repositories.user_lists import UserListRepository
from tests.chaos.fuzz import Fuzzer, leak, methods

CALLS = 1000


@pytest.fixture
def fuzzer(service):
    return Fuzzer(str(service.addresses[0]), seed=1)


async def test_no_call_ends_as_none_may(fuzzer):
    tally = await fuzzer.run(CALLS)

    assert tally.wrong == []
    assert tally.calls == CALLS
    assert set(tally.statuses) == {method.name for method in methods()}
    assert tally.statuses["CreateUser"]["OK"]


async def test_a_call_that_ends_as_none_may_is_found(fuzzer, monkeypatch):
    async def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(UserListRepository, "stats", fail)
    tally = await fuzzer.run(CALLS // 2)

    assert tally.ends == tally.statuses["GetUserStats"][StatusCode.INTERNAL.name] > 0
    assert all(wrong.startswith("GetUserStats: INTERNAL") for wrong in tally.wrong)


@pytest.mark.parametrize(
    ("sentence", "metadata"),
    [
        ("duplicate key value", ()),
        ("", [("detail", "cnry@example.com")]),
        ("", [("detail-bin", b"psycopg")]),
        ("", [("detail", "tms_" + "x" * 43)]),
    ],
)
def test_what_a_status_must_not_say_is_found(sentence, metadata):
    assert leak(sentence, metadata)


def test_what_it_may_say_is_not():
    assert leak("The email address is already registered.", [("detail", "EMAIL_TAKEN")]) is None
    assert leak("", None) is None
