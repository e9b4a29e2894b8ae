"""Fixtures: commands that call a server, each as a separate process."""

from tests.support.cli_fixtures import (
    cli,
    remote_users,
    server_address,
    server_url,
    surroundings,
)

__all__ = ["cli", "remote_users", "server_address", "server_url", "surroundings"]
