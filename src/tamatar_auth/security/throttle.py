"""Under which account attempts are counted: the normalised address, whoever has it or not."""

import hashlib


def account_of_email(email: str) -> bytes:
    """Give the account of an address in its normal form: 32 bytes."""
    return hashlib.sha256(b"email:" + email.encode()).digest()


def account_of_username(username: str) -> bytes:
    """Give the account of a name that no user has; a user's attempts count by its address."""
    return hashlib.sha256(b"username:" + username.encode()).digest()


def account_of_user_id(user_id: str) -> bytes:
    """Give the account of an id that no user has."""
    return hashlib.sha256(b"user:" + user_id.encode()).digest()
