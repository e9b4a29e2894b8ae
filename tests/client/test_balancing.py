"""Three processes of the service behind one name: stopped, started, slow, frozen, cut off."""

import contextlib
import threading
import time

import pytest

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest, ValidateSessionRequest
from tamatar.auth.v1.user_service_pb2 import UpdateUserRequest
from tamatar_auth import client
from tests.support.replicas import CALLS, FAIR, HOSTS, PASSWORD, USER, shares
from tests.support.waiting import PATIENCE, until

ONE, TWO, THREE = HOSTS
MASK = {"paths": ["first_name"]}
IN_A_ROW = 30
"""Calls that would not all succeed if one of three replicas failed its share."""


class Caller:
    """A client that validates one session."""

    def __init__(self, auth):
        self.auth = auth
        request = CreateSessionRequest(email=USER, password=PASSWORD)
        started = auth.sessions.CreateSession(request)
        self._request = ValidateSessionRequest(session_token=started.session_token)
        self.user_id = started.user.user_id

    def validate(self, timeout=None):
        assert self.auth.sessions.ValidateSession(self._request, timeout).user.email == USER

    def rename(self, timeout=None):
        """Make a call that is not retried."""
        request = UpdateUserRequest(user_id=self.user_id, first_name="Ada", update_mask=MASK)
        self.auth.users.UpdateUser(request, timeout)

    @contextlib.contextmanager
    def calling(self, threads=2):
        """Call again and again while the block runs; no call may fail."""
        failed, ended = [], threading.Event()

        def call():
            while not ended.wait(0.05):
                try:
                    self.validate()
                    self.rename()
                except Exception as error:  # noqa: BLE001 - a failed assertion counts, too
                    failed.append(error)

        running = [threading.Thread(target=call) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in running:
                thread.join()
        assert failed == []


@contextlib.contextmanager
def caller_of(target):
    with client.connect(target, plaintext=True) as auth:
        yield Caller(auth)


def is_called(replicas, host):
    """Return a condition: a replica has validated more sessions than now."""
    before = replicas.served()[host]
    return lambda: replicas.served()[host] > before


def in_a_row(call):
    """Return whether calls succeed one after the other."""
    with contextlib.suppress(client.AuthError):
        for _ in range(IN_A_ROW):
            call(timeout=2)
        return True
    return False


class TestEvenLoad:
    """The share of each replica."""

    @pytest.mark.parametrize("kind", ["name", "list"])
    def test_calls_are_spread_over_all_addresses(self, replicas, kind):
        addresses = ",".join(f"{host}:{replicas.port}" for host in HOSTS)

        with caller_of(replicas.target if kind == "name" else addresses) as caller:
            until(lambda: caller.validate() or all(replicas.served()[host] for host in HOSTS))
            served = shares(replicas, caller.validate)

        assert served.total() == CALLS
        assert all(served[host] in FAIR for host in HOSTS), served

    def test_slow_replica_fails_no_call(self, replicas):
        with caller_of(replicas.target) as caller:
            with caller.calling():
                for _ in range(10):
                    with replicas.frozen(TWO):
                        time.sleep(0.4)
                    time.sleep(0.1)
            served = shares(replicas, caller.validate)

        assert all(served[host] in FAIR for host in HOSTS), served


class TestReplacement:
    """Replicas that stop and start while clients call."""

    def test_stopped_and_started_replicas_fail_no_call(self, replicas):
        replicas.stop(THREE)
        replicas.names[:] = [ONE, TWO]

        with caller_of(replicas.target) as caller:
            with caller.calling():
                replicas.start(THREE)
                replicas.names[:] = HOSTS
                replicas.stop(ONE)
                until(is_called(replicas, THREE))
                replicas.start(ONE)
                until(is_called(replicas, ONE))
            served = shares(replicas, caller.validate)

        assert all(served[host] in FAIR for host in HOSTS), served

    def test_draining_server_of_one_address_is_called(self, replicas):
        replicas.names[:] = [ONE]
        draining = threading.Thread(target=replicas.stop, args=(ONE,))

        with caller_of(replicas.target) as caller:
            draining.start()
            until(lambda: replicas.is_draining(ONE))
            for _ in range(10):
                caller.rename()
        draining.join()


class TestHealth:
    """Replicas that cannot serve, and do not end."""

    def test_replica_without_database_is_not_called(self, replicas):
        with caller_of(replicas.target) as caller:
            until(lambda: caller.validate() or replicas.served()[THREE])
            with replicas.database.cut_off(THREE):
                until(lambda: in_a_row(caller.rename))
                assert not shares(replicas, caller.validate, IN_A_ROW)[THREE]
            until(lambda: shares(replicas, caller.validate, 3)[THREE])

    def test_frozen_replica_is_left_and_found_again(self, replicas):
        with caller_of(replicas.target) as caller:
            until(lambda: caller.validate() or replicas.served()[TWO])
            with replicas.frozen(TWO):
                until(lambda: in_a_row(caller.rename))
            until(lambda: shares(replicas, lambda: caller.validate(PATIENCE), 3)[TWO])
