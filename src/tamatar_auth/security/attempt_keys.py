"""The keys under which attempts with passwords and codes are counted: digests of 32 bytes.

An attempt has two counters. One belongs to what was typed: an address, a username or a user's id,
whether a user has it or not. Its waits are visible, and it reveals no other name of the user.
The other belongs to the account, and follows the user when the address changes.
"""

import hashlib
from uuid import UUID


def key_of_email(email: str) -> bytes:
    """Return the key of a normalised address."""
    return _digest(f"email:{email}")


def key_of_username(username: str) -> bytes:
    """Return the key of a normalised username."""
    return _digest(f"username:{username}")


def key_of_user_id(user_id: UUID) -> bytes:
    """Return the key of an id that a caller named."""
    return _digest(f"id:{user_id}")


def key_of_proof(user_id: UUID) -> bytes:
    """Return the key of the codes of a user's second factors."""
    return _digest(f"proof:{user_id}")


def key_of_account(user_id: UUID) -> bytes:
    """Return the key of a user's account."""
    return _digest(f"user:{user_id}")


def key_without_account(typed: bytes) -> bytes:
    """Return the key that stands for an account if no user has what was typed.

    Attempts write the same rows with and without a user, so that they take the same time.
    """
    return _digest(f"none:{typed.hex()}")


def key_of_reset(email: str) -> bytes:
    """Return the key of the row that a reset without a user writes, as much as a token."""
    return _digest(f"reset:{email}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
