"""Advisory locks, for work that one process of all replicas does at a time."""

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """The second of the two numbers that identify a lock in PostgreSQL."""

    MIGRATION = 1
    SWEEP = 2
    SESSION_ENDS = 3


LOCK_NAMESPACE = 0x746D7472
"""The first number of our locks, which no other program of the database uses."""
