"""A server with the sample users, for clients of every language."""

import pytest

from tests.support.commands import sample_server


@pytest.fixture(scope="session")
def sample_address(postgres, tmp_path_factory):
    with sample_server(postgres, tmp_path_factory.mktemp("server")) as address:
        yield address
