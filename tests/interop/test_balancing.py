"""The clients in examples/ and three processes of the service that stop, start and fail."""

import contextlib
import threading
from functools import partial

import pytest

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar_auth.client import connect
from tests.support.example_clients import BUILD_PATIENCE
from tests.support.replicas import CALLS, FAIR, HOSTS, NAME, PASSWORD, USER, shares
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(BUILD_PATIENCE)

ONE, TWO, THREE = HOSTS

HEALTH_CHECKING = {"go", "java"}
"""The clients that check the health of servers."""

IN_A_ROW = 10
"""Calls that would not all succeed if one of three replicas failed its share."""


@pytest.fixture
def validate(client, replicas, tmp_path):
    """Return a function by which a client validates a session."""
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{host} {NAME}\n" for host in HOSTS))
    # The clients in Go and TypeScript use a name server, the one in Java a file.
    with_names = {
        "JAVA_TOOL_OPTIONS": f"-Djdk.net.hosts.file={hosts}",
        "GRPC_NODE_USE_ALTERNATIVE_RESOLVER": "true",
    }
    java = f"dns:///{NAME}:{replicas.port}"
    target = java if client.name == "java" else replicas.target
    with connect(f"{ONE}:{replicas.port}") as auth:
        request = CreateSessionRequest(email=USER, password=PASSWORD)
        token = auth.sessions.CreateSession(request).session_token
    with client.running("--address", target, "--plaintext", **with_names) as validate:
        until(lambda: validate(token) == USER and all(replicas.served()[host] for host in HOSTS))
        yield partial(validate, token)


def test_client_spreads_calls_while_a_replica_is_replaced(validate, replicas):
    served = shares(replicas, lambda: valid(validate))
    assert all(served[host] in FAIR for host in HOSTS), served

    with calling(validate):
        replicas.stop(ONE)
        replicas.start(ONE)
    until(lambda: valid(validate) and replicas.served()[ONE])
    served = shares(replicas, lambda: valid(validate))

    assert served.total() == CALLS
    assert all(served[host] in FAIR for host in HOSTS), served


def test_replica_without_database_fails_no_read(client, validate, replicas):
    with replicas.database.cut_off(THREE):
        until(lambda: in_a_row(validate))
        if client.name in HEALTH_CHECKING:
            until(lambda: not shares(replicas, lambda: valid(validate), IN_A_ROW)[THREE])
    until(lambda: shares(replicas, validate, 3)[THREE])


def test_frozen_replica_is_left_and_found_again(validate, replicas):
    with replicas.frozen(TWO):
        until(lambda: in_a_row(validate))
    until(lambda: shares(replicas, validate, 3)[TWO])


def valid(validate):
    assert validate() == USER
    return True


def in_a_row(validate):
    """Return whether calls succeed one after the other."""
    return all(validate() == USER for _ in range(IN_A_ROW))


@contextlib.contextmanager
def calling(validate):
    """Call again and again while the block runs; no call may fail."""
    said, ended = set(), threading.Event()

    def call():
        while not ended.wait(0.01):
            said.add(validate())

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        ended.set()
        caller.join()
    assert said == {USER}
