"""A server with the sample users, for clients of every make."""

import pytest

from tests.commands import sample_server

pytest.register_assert_rewrite("tests.interop.story")


@pytest.fixture(scope="session")
def address(postgres, tmp_path_factory):
    with sample_server(postgres, tmp_path_factory.mktemp("server")) as address:
        yield address
