"""Made-up calls end with a proper status, and the fuzzer finds one that does not."""

import pytest
from grpc import StatusCode

from tamatar_auth.storage.repositories.user_lists import UserListRepository
from tests.chaos.fuzz import Fuzzer, leak, methods

CALLS = 1000


@pytest.fixture
def fuzzer(service):
    return Fuzzer(str(service.addresses[0]), seed=1)


async def test_fuzzed_calls_end_with_proper_statuses(fuzzer):
    tally = await fuzzer.run(CALLS)

    assert tally.wrong == []
    assert tally.calls == CALLS
    assert set(tally.statuses) == {method.name for method in methods()}
    assert tally.statuses["CreateUser"]["OK"]


async def test_fuzzer_finds_improper_status(fuzzer, monkeypatch):
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
def test_fuzzer_finds_leak_in_status(sentence, metadata):
    assert leak(sentence, metadata)


def test_fuzzer_accepts_proper_status():
    assert leak("The email address is already registered.", [("detail", "EMAIL_TAKEN")]) is None
    assert leak("", None) is None
