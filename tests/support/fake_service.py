"""The fake service of `tamatar_auth.client.testing`, as a fixture."""

import pytest

from tamatar_auth.client.testing import FakeAuthServer


@pytest.fixture
def fake():
    """The service in memory, with frequent heartbeats on its streams."""
    with FakeAuthServer(heartbeat_interval=0.2) as fake:
        yield fake
