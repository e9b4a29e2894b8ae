"""What keeps a deployment in order: migrations, seeding, sweeping, the embedded PostgreSQL."""


class ForeseenError(Exception):
    """Something an operator can mend; the text says what, and no traceback is needed."""
