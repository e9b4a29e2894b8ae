"""Fixtures: the services that the pages call."""

from tests.support.cli_fixtures import cli, remote_users, server_address, server_url, surroundings
from tests.support.fake_service import fake
from tests.support.sample_service import sample_address
from tests.support.wheel_environment import wheel, wheel_environment

__all__ = [
    "cli",
    "fake",
    "remote_users",
    "sample_address",
    "server_address",
    "server_url",
    "surroundings",
    "wheel",
    "wheel_environment",
]
