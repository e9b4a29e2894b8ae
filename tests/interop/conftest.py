"""Fixtures: servers with the sample users, and the clients in examples/."""

import pytest

from tests.support.example_clients import LANGUAGES, build
from tests.support.replicas import replicas, shared_replicas
from tests.support.sample_service import sample_address

__all__ = ["replicas", "sample_address", "shared_replicas"]

pytest.register_assert_rewrite("tests.interop.story")


@pytest.fixture(scope="session", params=LANGUAGES, ids=lambda language: language.name)
def client(request, tmp_path_factory, worker_id):
    """A client that was built."""
    own = tmp_path_factory.getbasetemp()
    return build(request.param, own if worker_id == "master" else own.parent)
