"""A PostgreSQL server for development and tests."""
