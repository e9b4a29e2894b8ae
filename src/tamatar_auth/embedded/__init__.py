"""A PostgreSQL server of its own, for development and tests."""
