"""Imports and exports with a service that breaks off, or that is newer than this client."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc import StatusCode

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_service_pb2 import (
    ExportedUser,
    ExportUsersResponse,
    ImportResult,
    ImportUsersResponse,
)
from tamatar.auth.v1.user_service_pb2_grpc import (
    UserServiceServicer,
    add_UserServiceServicer_to_server,
)
from tamatar_auth.cli.transfer.chunks import MAX_CHUNK_USERS
from tamatar_auth.cli.transfer.exporter import UserExporter
from tamatar_auth.cli.transfer.file_formats import Row
from tamatar_auth.cli.transfer.importer import UserImporter
from tamatar_auth.client import UnavailableError, connect

CREATED = {"outcome": "IMPORT_OUTCOME_CREATED", "user_id": "1"}
NEWER = 9999


class Scripted(UserServiceServicer):
    """Ends the first streams as scripted, and answers all requests of later ones."""

    def __init__(self):
        self.breaks = []
        """For each of the first streams: the number of responses, and the final status."""
        self.result = CREATED

    def ImportUsers(self, requests, context):
        answers, status = self.breaks.pop(0) if self.breaks else (None, None)
        for number, request in enumerate(requests):
            if number == answers:
                if status is not None:
                    context.abort(status, "as the test wants it")
                return
            yield ImportUsersResponse(results=[self.result for _ in request.users])

    def ExportUsers(self, request, context):
        answers, status = self.breaks.pop(0) if self.breaks else (1, None)
        first = int(request.after_user_id or 0) + 1
        for number in range(first, first + answers):
            yield ExportUsersResponse(users=[ExportedUser(user=PortableUser(user_id=str(number)))])
        if status is not None:
            context.abort(status, "as the test wants it")


@pytest.fixture
def script():
    return Scripted()


@pytest.fixture
def auth(script):
    server = grpc.server(ThreadPoolExecutor(4))
    add_UserServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with connect(f"127.0.0.1:{port}") as auth:
        yield auth
    server.stop(None).wait()


def rows(number):
    return [Row(line, PortableUser(email=f"{line}@x.test")) for line in range(1, number + 1)]


def sent(auth, users, notify=lambda _: None, **options):
    importer = UserImporter(auth, users)
    return [result for results in importer.results(notify, **options) for result in results]


def test_unanswered_requests_of_ended_stream_are_sent_again(auth, script):
    script.breaks = [(1, None), (0, None)]
    said = []

    results = sent(auth, rows(3 * MAX_CHUNK_USERS), notify=said.append)

    assert [result.line for result in results] == list(range(1, 3 * MAX_CHUNK_USERS + 1))
    assert len(said) == 2
    assert "ended before all of it was answered" in said[0]


def test_stream_that_ends_without_answers_is_no_success(auth, script):
    script.breaks = [(0, None)]

    with pytest.raises(UnavailableError, match="before all of it was answered"):
        sent(auth, rows(1), patience=0)


@pytest.mark.parametrize(
    ("newer", "outcome", "reason"),
    [
        ({"outcome": "IMPORT_OUTCOME_REFUSED", "reason": NEWER}, "REFUSED", "ERROR_REASON_9999"),
        ({"outcome": NEWER}, "REFUSED", "IMPORT_OUTCOME_9999"),
        ({}, "REFUSED", "IMPORT_OUTCOME_0"),
    ],
)
def test_unknown_outcome_is_reported_by_number(auth, script, newer, outcome, reason):
    script.result = ImportResult(**newer)

    (result,) = sent(auth, rows(1))

    assert (result.outcome, result.reason) == (outcome, reason)


def test_slow_input_uses_no_patience(auth, script):
    script.breaks = [(1, StatusCode.UNAVAILABLE)]
    patience = 2

    def slow():
        yield from rows(MAX_CHUNK_USERS + 1)
        time.sleep(2 * patience)

    results = sent(auth, slow(), patience=patience)

    assert len(results) == MAX_CHUNK_USERS + 1


def test_lasting_outage_ends_the_import(auth, script):
    script.breaks = [(0, StatusCode.UNAVAILABLE)] * 100

    with pytest.raises(UnavailableError, match="as the test wants it"):
        sent(auth, rows(1), patience=0.2)


class TestExport:
    """How long an export retries."""

    def test_progress_between_failures_renews_patience(self, auth, script):
        script.breaks = [(1, StatusCode.UNAVAILABLE)] * 8
        exporter = UserExporter(auth, after="", password_hashes=False)

        started = time.monotonic()
        batches = list(exporter.users(lambda _: time.sleep(0.2), patience=1))

        assert time.monotonic() - started > 1
        assert [user.user.user_id for users in batches for user in users] == list("123456789")

    def test_lasting_outage_ends_the_export(self, auth, script):
        script.breaks = [(1, StatusCode.UNAVAILABLE)] + [(0, StatusCode.UNAVAILABLE)] * 100
        exporter = UserExporter(auth, after="", password_hashes=False)

        with pytest.raises(UnavailableError, match="as the test wants it"):
            list(exporter.users(lambda _: None, patience=0.2))

        assert exporter.after == "1"
