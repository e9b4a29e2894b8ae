"""Session tokens."""

import hashlib
import re

from tamatar_auth.security.tokens import SessionToken, token_digest


def test_a_token_is_256_random_bits_with_a_prefix():
    tokens = {SessionToken.issue().text for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch(r"tms_[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_a_token_is_stored_as_its_digest():
    token = SessionToken.issue()

    assert token.digest == token_digest(token.text) == hashlib.sha256(token.text.encode()).digest()


def test_a_token_does_not_show_itself():
    token = SessionToken.issue()

    assert token.text not in repr(token)
    assert token.text not in f"{token}"
