"""Fixtures: commands that call a server, each as a process of its own."""

from tests.support.cli_fixtures import (
    cli,
    remote_users,
    server_address,
    server_url,
    surroundings,
)

__all__ = ["cli", "remote_users", "server_address", "server_url", "surroundings"]
