"""`make bench`: it measures right answers only, and its figures are computed right."""

import asyncio
import os
import shutil
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from sqlalchemy import select

from benchmarks import client, h2load, report
from benchmarks.calls import GET_USER, LIST_USERS, PASSWORD, session_calls, token
from benchmarks.chart import Series, draw_chart
from benchmarks.machine import autogroup_warning
from benchmarks.plan import Load
from benchmarks.sample_data import add_expired, load_users
from benchmarks.samples import BenchmarkError, Sample, median_ratio, p50, p99, rate
from benchmarks.servers import Server
from benchmarks.sign_in_clients import sign_in
from benchmarks.statements import Statements
from tamatar_auth.jobs.sweep import sweep
from tamatar_auth.security.passwords.hasher import PasswordSchemes
from tamatar_auth.security.passwords.peppers import Peppers
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.tables import users
from tests.support.canaries import SUITE
from tests.support.commands import ROOT, missing_tool, run
from tests.support.waiting import eventually

USERS = 60
H2LOAD_OUTPUT = """\
finished in 1.50s, 3476.00 req/s, 205.41KB/s
requests: 5214 total, 5246 started, 5214 done, {succeeded} succeeded, 0 failed, 0 errored
status codes: 5214 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 308.12KB (315511) total, 15.42KB (15792) headers, 25.46KB ({data}) data
"""
VALIDATE = session_calls(USERS)["ValidateSession"]


@pytest.fixture
async def filled(settings, migrated_database):
    """A service over a database that the loader has filled."""
    SUITE.add_secrets(PASSWORD, *map(token, range(USERS + 20)))
    load_users(
        migrated_database,
        users=USERS,
        sessions=USERS + 20,
        password_hash=PasswordSchemes(
            settings.passwords.bcrypt_cost, Peppers.load(settings.passwords)
        ).hash(PASSWORD),
        report_progress=lambda _: None,
    )
    async with run_service(settings.with_database(migrated_database)) as service:
        yield service


@pytest.fixture
def server(filled):
    return Server(os.getpid(), str(filled.addresses[0]))


def sample(*latencies, seconds=1.0):
    return Sample(latencies=latencies, seconds=seconds, calls=len(latencies))


async def signed_in(server):
    results = await sign_in(server.address, 2, 0.2)
    assert not results.others
    return len(results.signed_in) >= 2


class TestMeasuredCalls:
    """Calls whose answers are checked, and their statements."""

    @pytest.mark.parametrize("call", [*session_calls(USERS).values(), GET_USER, LIST_USERS])
    async def test_benchmark_call_checks_its_answer(self, server, call):
        answered = await client.checked_call(server, call, 7)

        assert not call.is_right(8, answered)

    async def test_benchmark_session_beyond_users_belongs_to_a_user(self, server):
        await client.checked_call(server, VALIDATE, USERS + 3)

    async def test_error_ends_the_measurement(self, server):
        with pytest.raises(BenchmarkError, match="UNAUTHENTICATED"):
            await client.closed_loop(server, VALIDATE, iter([USERS + 20]), Load(1, 0, 1))

    async def test_wrong_answer_ends_the_measurement(self, server):
        particular = replace(VALIDATE, is_right=lambda _, encoded: encoded == b"")

        with pytest.raises(BenchmarkError, match="wrong response for number 1"):
            await client.checked_call(server, particular, 1)

    async def test_loaded_users_sign_in_without_rehash(self, server, filled):
        """A rehash would double the cost of a sign-in."""
        # If the machine stalls, the time may be over before any sign-in began.
        await eventually(lambda: signed_in(server))

        async with filled.database.read() as db:
            found = await db.connection.execute(select(users.c.password_hash).distinct())
        assert len(found.all()) == 1

    async def test_loaded_expired_sessions_are_all_swept(self, filled, settings):
        add_expired(filled.settings.database.url.get_secret_value(), USERS * 2, USERS)

        swept = await sweep(filled.database, settings.retention)

        assert swept.expired_sessions == USERS * 2

    async def test_measured_calls_match_counted_statements(self, server, filled):
        url = filled.settings.database.url.get_secret_value()
        await client.checked_call(server, GET_USER, 1)
        before = Statements.read(url)
        looped = await client.closed_loop(
            server, GET_USER, client.cycle(range(USERS)), Load(4, 0.1, 0.3)
        )
        spent = Statements.read(url).since(before)

        assert len(looped.latencies) <= looped.calls
        assert looped.calls <= spent.all <= looped.calls + 10  # some are of the database monitor
        assert spent.writing == 0

    async def test_writing_statements_are_counted(self, server, filled):
        url = filled.settings.database.url.get_secret_value()
        before = Statements.read(url)
        await client.checked_call(server, session_calls(USERS)["RevokeSession"], 1)
        spent = Statements.read(url).since(before)

        assert (spent.writing, spent.plus(spent).writing) == (1, 2)

    @pytest.mark.parametrize(
        ("succeeded", "data", "size"),
        [(5213, 5214 * 105, 100), (5214, 5214 * 90, 100), (5214, 5213 * 5, 0)],
        ids=["a call failed", "answers were errors", "one empty answer was an error"],
    )
    def test_failed_h2load_calls_end_the_measurement(self, succeeded, data, size):
        summary = h2load.H2loadSummary.read(H2LOAD_OUTPUT.format(succeeded=succeeded, data=data))

        with pytest.raises(BenchmarkError, match="failed"):
            h2load.check(VALIDATE, summary, size)


class TestH2load:
    """h2load, its output and its failures."""

    async def test_h2load_measures_server_and_detects_wrong_answers(self, server):
        if shutil.which("h2load") is None:
            missing_tool("h2load is missing: .ci/run installs nghttp2-client")
        (size,) = {len(await client.checked_call(server, VALIDATE, number)) for number in (1, 2)}

        async def drive(numbers):
            # On a thread, because the server runs on this event loop.
            return await asyncio.to_thread(
                h2load.drive,
                server,
                VALIDATE,
                Load(2, 0.1, 0.9),
                numbers=numbers,
                answer_bytes=[size, size],
            )

        driven = await drive([1, 2])

        assert 0 < len(driven.latencies) <= driven.calls
        with pytest.raises(BenchmarkError, match="bytes came where"):
            await drive([1, USERS + 20])

    def test_h2load_output_is_parsed(self):
        summary = h2load.H2loadSummary.read(H2LOAD_OUTPUT.format(succeeded=5214, data=26070))

        assert summary == h2load.H2loadSummary(requests=5214, failed=0, data=26070)
        with pytest.raises(BenchmarkError, match="could not be parsed"):
            h2load.H2loadSummary.read("finished")

    def test_answers_may_differ_by_length_of_timestamps(self):
        h2load.check(VALIDATE, h2load.H2loadSummary(10, 0, 10 * 105 + 30), 100)
        h2load.check(VALIDATE, h2load.H2loadSummary(10, 0, 10 * 5), 0)

    def test_warm_up_is_not_measured(self):
        logs = [
            "0\t200\t400000\n1200000\t200\t300000\n",
            "900000\t200\t200000\n1000000\t200\t1000000\n",
        ]

        measured = h2load.sample(logs, warm_up=1.0)

        assert measured.latencies == [0.2, 0.3, 1.0]
        assert measured.seconds == 1.0
        assert measured.calls == 4

    def test_missing_h2load_error_names_package(self, tmp_path):
        ended = run(sys.executable, "-m", "benchmarks", cwd=ROOT, code=2, PATH=str(tmp_path))

        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert "nghttp2-client" in ended.stderr


class TestReport:
    """Ratios, tables and charts."""

    def test_median_ratio_is_that_of_rounds(self):
        ours, base = [sample(1, 2, 9), sample(4, 5)], [sample(1), sample(5, 6)]

        assert median_ratio(ours, base, rate) == 2.0
        assert [p50(ours[0]), p99(ours[0])] == [2, 9]

    def test_targets_table_shows_what_is_reached(self):
        rows = [
            report.at_least("calls", 0.75, 0.7),
            report.at_most("time", 25, 24.96, unit=" ms", digits=1),
        ]

        assert report.targets_table(rows).splitlines()[2:] == [
            "| calls  | >= 0.75  | 0.70     | not reached |",
            "| time   | <= 25 ms | 25.0 ms  | ok          |",
        ]

    def test_chart_has_a_point_for_each_figure(self):
        line = Series("a < b", "#000000", {1: [sample(0.1)], 32: [sample(0.1, 0.3)]})

        drawn = ET.fromstring(draw_chart([line, line], "caption"))  # noqa: S314 - drawn here

        assert len(drawn.findall(".//{*}circle")) == 8
        assert "a < b" in [each.text for each in drawn.findall(".//{*}text")]

    def test_autogroup_scheduler_is_warned_about(self, tmp_path):
        switch = tmp_path / "sched_autogroup_enabled"
        assert autogroup_warning(switch) is None

        for value, is_warned in (("0\n", False), ("1\n", True)):
            switch.write_text(value)
            assert bool(autogroup_warning(switch)) is is_warned
