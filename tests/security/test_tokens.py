"""Tokens of sessions and one-time tokens of users."""

import hashlib
import re

import pytest

from tamatar_auth.security.tokens import SessionToken, UserToken, token_digest


@pytest.mark.parametrize(("kind", "prefix"), [(SessionToken, "tms_"), (UserToken, "tmu_")])
def test_token_is_256_random_bits_with_prefix(kind, prefix):
    tokens = {kind.issue().text for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch(prefix + r"[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_token_digest_is_sha256_of_text():
    token = SessionToken.issue()

    assert token.digest == token_digest(token.text) == hashlib.sha256(token.text.encode()).digest()


def test_token_repr_is_silent():
    token = SessionToken.issue()

    assert token.text not in repr(token)
    assert token.text not in f"{token}"
