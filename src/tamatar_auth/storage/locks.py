"""Advisory locks: what only one process of all replicas does at a time."""

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """The second of the two numbers that PostgreSQL knows a lock by."""

    MIGRATION = 1
    SWEEP = 2


LOCK_NAMESPACE = 0x746D7472
"""The first number, so that no other program of the database meets our locks."""
