"""Page tokens: issued and read back, and refused if changed or foreign."""

import contextlib
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tamatar.auth.v1.user_service_pb2 import UserFilter
from tamatar_auth.errors import InvalidPageToken
from tamatar_auth.servicers.page_tokens import PageQuery, PageTokens, page_size
from tamatar_auth.storage.repositories import KeysetCursor

QUERY = PageQuery("ListUsers", "email", UserFilter(email_prefix="a"))
PLACE = KeysetCursor(datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC), UUID(int=7))

places = some.builds(
    KeysetCursor, some.one_of(some.text(), some.datetimes(timezones=some.just(UTC))), some.uuids()
)


@given(places)
def test_page_token_read_returns_issued_cursor(place):
    tokens = PageTokens("k" * 32)

    assert tokens.read(QUERY, tokens.issue(QUERY, place)) == place


def test_empty_page_token_is_first_page():
    assert PageTokens(None).read(QUERY, "") is None


@given(some.text(max_size=200))
def test_arbitrary_text_is_no_page_token(text):
    if text:
        with pytest.raises(InvalidPageToken):
            PageTokens(None).read(QUERY, text)


@given(some.integers(min_value=0), some.integers(min_value=1, max_value=255))
def test_page_token_with_one_changed_byte_is_refused(where, change):
    tokens = PageTokens("k" * 32)
    token = bytearray(tokens.issue(QUERY, PLACE).encode())
    token[where % len(token)] ^= change

    try:
        text = token.decode()
    except UnicodeDecodeError:
        return
    with contextlib.suppress(InvalidPageToken):
        assert tokens.read(QUERY, text) == PLACE  # the unused bits of the last character


@pytest.mark.parametrize(
    "other",
    [
        QUERY._replace(method="ListSessions"),
        QUERY._replace(order="email desc"),
        QUERY._replace(matching=UserFilter(email_prefix="b")),
    ],
)
def test_page_token_of_other_query_is_refused(other):
    tokens = PageTokens("k" * 32)

    with pytest.raises(InvalidPageToken):
        tokens.read(other, tokens.issue(QUERY, PLACE))


def test_page_token_is_readable_with_same_key_only():
    token = PageTokens("k" * 32).issue(QUERY, PLACE)

    assert PageTokens("k" * 32).read(QUERY, token) == PLACE
    with pytest.raises(InvalidPageToken):
        PageTokens("j" * 32).read(QUERY, token)
    with pytest.raises(InvalidPageToken):
        PageTokens(None).read(QUERY, token)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_page_size_is_between_1_and_1000(asked, given_):
    assert page_size(asked) == given_
