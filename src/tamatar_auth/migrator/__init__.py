"""Runs alembic's migrations safely beside live traffic."""
