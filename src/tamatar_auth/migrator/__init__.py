"""Alembic migrations that run safely beside live traffic."""
