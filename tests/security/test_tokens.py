"""Tokens of sessions and one-time tokens of users."""

import base64
import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tamatar_auth.security.tokens import FIRST_DAY, NO_DAY, SessionToken, UserToken, token_digest
from tests.support.rows import new_token

MIDNIGHT = datetime(2026, 12, 5, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
USER = UUID(int=7)
FORMER = "tms_" + "x" * 43
NONCE = b"n" * 32


def content(token):
    return base64.urlsafe_b64decode(token.text.removeprefix("tms_") + "==")


def encoded(content):
    return SessionToken("tms_" + base64.urlsafe_b64encode(content).decode().rstrip("="))


@pytest.mark.parametrize(
    ("issue", "form"), [(new_token, r"tms_[\w-]{50}"), (UserToken.issue, r"tmu_[\w-]{43}")]
)
def test_token_is_256_random_bits_with_prefix(issue, form):
    tokens = {issue().text for _ in range(100)}

    assert len({token[-42:] for token in tokens}) == 100
    assert all(re.fullmatch(form, token) for token in tokens)


def test_token_digest_is_sha256_of_text():
    token = new_token()

    assert token.digest == token_digest(token.text) == hashlib.sha256(token.text.encode()).digest()


def test_token_repr_is_silent():
    token = new_token()

    assert token.text not in repr(token)
    assert token.text not in f"{token}"


class TestHeader:
    """The version, the day and the user of a session token."""

    def test_session_token_begins_with_version_day_and_user(self):
        token = SessionToken.issue(USER, MIDNIGHT - TICK)

        days = (MIDNIGHT - FIRST_DAY).days
        user = hashlib.sha256(USER.bytes).digest()[:2]
        assert content(token)[:5] == bytes([1]) + days.to_bytes(2) + user
        assert len(content(token)) == 37
        assert len(token.text) == 54

    @pytest.mark.parametrize(
        "expires_at",
        [
            MIDNIGHT,
            MIDNIGHT + TICK,
            MIDNIGHT - TICK,
            MIDNIGHT + DAY / 2,
            datetime(2179, 6, 5, tzinfo=UTC),
        ],
        ids=str,
    )
    def test_session_expires_on_the_day_of_its_token(self, expires_at):
        day = SessionToken.issue(USER, expires_at).day

        end = FIRST_DAY + day * DAY
        assert end - DAY <= expires_at < end

    def test_day_is_that_of_utc_in_every_time_zone(self):
        local = datetime.fromisoformat("2026-12-05T01:30:00+02:00")

        assert SessionToken.issue(USER, local).day == SessionToken.issue(USER, MIDNIGHT - TICK).day

    def test_tokens_of_one_user_share_their_user_bits(self):
        tokens = [SessionToken.issue(USER, MIDNIGHT) for _ in range(2)]
        others = [SessionToken.issue(uuid4(), MIDNIGHT) for _ in range(5)]

        assert len({content(token)[3:5] for token in tokens}) == 1
        assert len({content(token)[3:5] for token in (*tokens, *others)}) > 1

    def test_token_of_former_format_has_no_day(self):
        assert SessionToken(FORMER).day is None
        assert SessionToken(f"tms_{secrets.token_urlsafe(32)}").day is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "tms_",
            "tms_x",
            FORMER + "x",
            "😀" * 54,
            "tms_" + "😀" * 50,
            "tms_" + "=" * 50,
            "tms_" + " " * 50,
            "tms_AQ==" + "A" * 46,
            "tms_" + "A" * 50,  # version 0
            "tms_" + "_" * 50,  # version 255
            "tms_AScs" + "A" * 45,
            "tms_AScs" + "A" * 47,
        ],
        ids=ascii,
    )
    def test_malformed_token_has_no_session_day(self, text):
        assert SessionToken(text).day == NO_DAY
        assert SessionToken(text).successor(NONCE).text.startswith("tms_")


class TestSuccessor:
    """The token after a refresh."""

    def test_successor_keeps_version_day_and_user(self):
        token = SessionToken.issue(USER, MIDNIGHT)
        successor = token.successor(NONCE)

        assert content(successor)[:5] == content(token)[:5]
        assert content(successor)[5:] != content(token)[5:]
        assert (successor.day, len(successor.text)) == (token.day, len(token.text))
        assert successor == token.successor(NONCE) != token.successor(b"m" * 32)

    def test_successor_of_former_format_has_former_format(self):
        successor = SessionToken(FORMER).successor(NONCE)

        assert len(successor.text) == len(FORMER)
        assert successor.day is None

    def test_successor_of_broken_user_bits_is_a_token(self):
        broken = new_token().text[:8] + "😀" * 4 + "A" * 42

        assert SessionToken(broken).successor(NONCE).text.startswith("tms_")
