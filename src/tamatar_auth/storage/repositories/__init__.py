"""Repositories: one class per table or use case, one statement per method."""
