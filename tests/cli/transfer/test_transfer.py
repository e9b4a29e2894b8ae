"""Import and export of files: the result of each row, also if an import is killed."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from uuid import uuid4

import psycopg
import pytest

from tests.support.commands import COMMAND, environment, serving
from tests.support.databases import TEMPLATE
from tests.support.waiting import until

HASH = "$2b$04$6A3byn0SPNdbsDnUgJ4Vc.xKO5G9UwVQB9VhgGwgdw/zziH8oPAW."

LONG = pytest.mark.timeout(300)
"""Ten thousand rows, on a machine that may be busy with other tests."""

BAD = {
    2: ('{"email": "nowhere"}', "INVALID_FIELDS", "email"),
    300: ("no JSON at all", "INVALID_ROW", ""),
    1001: ('{"email": "x@example.com", "passwort_hash": "x"}', "INVALID_ROW", ""),
    1002: ('{"email": "x@example.com", "is_active": "yes"}', "INVALID_ROW", "is_active"),
    5000: (
        '{"email": "x@example.com", "password_hash": "plain"}',
        "INVALID_FIELDS",
        "password_hash",
    ),
    10_000: ('{"email": 1}', "INVALID_ROW", "email"),
}


def person(mark, number):
    return {
        "email": f"{mark}{number}@example.com",
        "username": f"{mark}{number}",
        "first_name": "Grace",
        "password_hash": HASH,
        "profile": {"display_name": "G"},
    }


def write_crowd(path, mark, size, bad=None):
    """Write a number of users, a row each, with some lines replaced by bad rows."""
    rows = {number: json.dumps(person(mark, number)) for number in range(1, size + 1)}
    rows |= {line: row for line, (row, _, _) in (bad or {}).items()}
    path.write_text("".join(f"{row}\n" for row in rows.values()))
    return path


def reported(path):
    """Return the lines of a report, without its first line, which names the source."""
    source, *lines = map(json.loads, path.read_text().splitlines())
    assert source["source"].startswith(("sha256:", "-"))
    return lines


async def crowd(remote_users, mark):
    """Return the number of users of a crowd that the service has."""
    from tamatar.auth.v1 import user_service_pb2 as pb  # noqa: PLC0415

    request = pb.GetUserStatsRequest(filter=pb.UserFilter(email_prefix=mark))
    return (await remote_users.GetUserStats(request)).user_count


@contextlib.contextmanager
def in_the_way(server_url, person):
    """Hold an uncommitted user while the block runs: an import waits before her chunk."""
    with psycopg.connect(server_url) as connection:
        statement = "INSERT INTO users (id, email) VALUES (gen_random_uuid(), %s)"
        connection.execute(statement, [person["email"]])
        yield
        connection.rollback()


@pytest.fixture
def mark():
    """The prefix of the addresses of one test."""
    return f"m{uuid4().hex[:12]}-"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def reported_whole(report):
    """Return the lines of a report, except one that was cut."""
    whole = report.read_text().rpartition("\n")[0].splitlines()[1:]
    return [json.loads(line) for line in whole]


def exported(file, form):
    if form == "jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with file.open(newline="") as text:
        return [as_object(cells) for cells in csv.DictReader(text)]


def as_object(cells):
    said = {name: text for name, text in cells.items() if text and "." not in name}
    profile = {name.partition(".")[2]: text for name, text in cells.items() if text and "." in name}
    said |= {name: said[name] == "true" for name in ("email_verified", "is_active")}
    return said | ({"profile": profile} if profile else {})


class TestExport:
    """Files that the export writes."""

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    async def test_exported_file_can_be_imported(self, cli, tmp_path, remote_users, mark, form):
        people = [
            {**person(mark, 1), "email_verified": True, "is_active": False},
            {**person(mark, 2), "profile": {"bio": 'says "so",\nand more', "locale": "en-GB"}},
            {"email": f"{mark}3@example.com", "create_time": "2020-02-03T04:05:06Z"},
        ]
        first = tmp_path / "first.jsonl"
        first.write_text("".join(json.dumps(one) + "\n" for one in people))
        cli("import", str(first))
        file = tmp_path / f"all.{form}"

        said = cli("export", str(file), "--password-hashes").stderr
        again = cli("import", str(file)).stderr

        assert re.search(r"\d+ users, the last one [0-9a-f-]{36}\.", said)
        assert file.stat().st_mode & 0o777 == 0o600
        rows = [one for one in exported(file, form) if one["email"].startswith(mark)]
        assert [one["email"] for one in rows] == [one["email"] for one in people]
        for one, was in zip(rows, people, strict=True):
            assert one["user_id"]
            assert one.items() >= {**was, "is_active": was.get("is_active", True)}.items()
        total = len(exported(file, form))
        assert f"{total} rows: created 0, existing {total}, refused 0." in again

    def test_export_overwrites_on_request_and_can_be_continued(self, cli, tmp_path, mark):
        file = tmp_path / "all.jsonl"
        cli("import", str(write_crowd(tmp_path / "crowd.jsonl", mark, 3)))
        cli("export", str(file))
        whole = file.read_text()

        assert "use --force" in cli("export", str(file), code=2).stderr
        lines = whole.splitlines(keepends=True)
        file.write_text("".join(lines[:-2]))
        cli("export", str(file), "--after", json.loads(lines[-3])["user_id"])

        assert file.read_text() == whole
        assert cli("export", "-", "--format", "jsonl").stdout == whole

    def test_export_counts_password_hashes_that_stay(self, cli, tmp_path, mark):
        cli(
            "user",
            "create",
            f"{mark}x@example.com",
            "--password-stdin",
            entered="correct horse staple\n",
        )

        said = cli("export", str(tmp_path / "all.csv"), "--password-hashes", "-o", "json")

        assert re.search(r"^[1-9]\d* passwords were not exported", said.stderr, re.MULTILINE)
        counts = json.loads(said.stdout)
        assert counts["user_count"] >= counts["kept_password_count"] > 0
        assert counts["last_user_id"] in said.stderr

    def test_export_to_stdout_has_no_summary_in_json(self, cli):
        said = cli("export", "-", "--format", "csv", "-o", "json", code=2)

        assert said.stderr.startswith("Name a file to use -o json")
        assert not said.stdout


class TestImport:
    """Files, rows and cells that the import reads."""

    async def test_import_dry_run_creates_no_user(self, cli, tmp_path, remote_users, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 5, {2: BAD[2]})

        said = cli("import", str(file), "--dry-run", "-o", "json", code=1)

        assert "5 rows: would be created 4, existing 0, refused 1." in said.stderr
        assert "INVALID_FIELDS: 1" in said.stderr
        assert json.loads(said.stdout) == {
            "dry_run": True,
            "created": 4,
            "existing": 0,
            "refused": 1,
            "reasons": {"INVALID_FIELDS": 1},
            "report": f"{file}.report.jsonl",
        }
        assert await crowd(remote_users, mark) == 0

    async def test_import_from_stdin_writes_no_report(self, cli, tmp_path, remote_users, mark):
        rows = "\n".join(json.dumps(person(mark, number)) for number in range(3))

        said = cli("import", "-", "--format", "jsonl", entered=f"{rows}\n\n").stderr

        assert "3 rows: created 3" in said
        assert "The result of" not in said
        assert await crowd(remote_users, mark) == 3
        assert [path.name for path in tmp_path.iterdir()] == ["contexts.toml"]

    async def test_import_from_pipe_reads_it_once(self, cli, tmp_path, remote_users, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 2)
        pipe = tmp_path / "pipe.jsonl"
        os.mkfifo(pipe)
        with subprocess.Popen(["cp", file, pipe]) as copying:  # noqa: ASYNC220 - it waits for a reader
            try:
                said = cli("import", str(pipe)).stderr
            finally:
                copying.kill()

        assert "2 rows: created 2" in said
        assert await crowd(remote_users, mark) == 2
        assert not (tmp_path / "pipe.jsonl.report.jsonl").exists()

    def test_import_report_never_overwrites_the_input(self, cli, tmp_path, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 2)
        before = file.read_text()

        assert "name another file" in cli("import", str(file), "--report", str(file), code=2).stderr
        assert file.read_text() == before

    def test_import_with_unwritable_report_is_reported(self, cli, tmp_path, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 2)

        assert (
            "nowhere/r: No such" in cli("import", str(file), "--report", "nowhere/r", code=2).stderr
        )

    def test_import_of_unknown_format_needs_option(self, cli, tmp_path):
        (tmp_path / "users.txt").write_text("{}\n")

        for file in ("users.txt", "-"):
            assert "use --format" in cli("import", file, code=2).stderr
        assert "No such file" in cli("import", "nothing.csv", code=2).stderr

    def test_import_refuses_invalid_utf8_row_by_row(self, cli, tmp_path, mark):
        good = json.dumps(person(mark, 1)).encode()
        (tmp_path / "users.jsonl").write_bytes(
            b"\xef\xbb\xbf" + good + b'\n{"email": "\xff@example.com"}\r\n' + b"x" * 300_000 + b"\n"
        )

        said = cli("import", "users.jsonl", code=1).stderr

        assert "3 rows: created 1, existing 0, refused 2." in said
        results = reported(tmp_path / "users.jsonl.report.jsonl")
        assert [line.get("fields") for line in results] == [
            None,
            [{"field": "email", "rule": "must be UTF-8"}],
            [{"field": "", "rule": "is too long"}],
        ]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("mail\nx@example.com\n", "'mail'"),
            ("email,first\nx@example.com,X\n", "'first'"),
            ("first_name\nX\n", "must name the column"),
            ("", "must name the column"),
            ("email,first_name,email\nx@example.com,X,y@example.com\n", "twice"),
        ],
    )
    def test_import_with_unknown_columns_is_refused(self, cli, tmp_path, text, words):
        (tmp_path / "users.csv").write_text(text)

        assert words in cli("import", "users.csv", code=2).stderr

    def test_import_reads_csv_cells_as_people_write_them(self, cli, tmp_path, mark):
        (tmp_path / "users.csv").write_text(
            "email,is_active,email_verified,profile.bio,username\n"
            f'{mark}1@example.com,NO,1,"two\nlines",\n'
            f"{mark}2@example.com,,,,\n"
            f"{mark}3@example.com,maybe,,,\n"
            f"{mark}4@example.com,yes\n"
        )

        cli("import", "users.csv", code=1)

        results = reported(tmp_path / "users.csv.report.jsonl")
        assert [(line["line"], line["result"]) for line in results] == [
            (3, "CREATED"),
            (4, "CREATED"),
            (5, "REFUSED"),
            (6, "REFUSED"),
        ]
        shown = json.loads(cli("user", "get", f"{mark}1@example.com", "-o", "json").stdout)
        assert (shown["is_active"], shown["email_verified"]) == (False, True)
        assert shown["profile"]["bio"] == "two\nlines"


class TestResume:
    """Imports that continue after an interruption, or must not."""

    @LONG
    async def test_import_reports_rows_and_can_be_repeated(self, cli, tmp_path, remote_users, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 10_000, BAD)
        report = tmp_path / "crowd.jsonl.report.jsonl"

        first = cli("import", str(file), code=1)
        results = reported(report)
        second = cli("import", str(file), code=1)

        assert [line["line"] for line in results] == list(range(1, 10_001))
        refused = {line["line"]: line for line in results if line["result"] == "REFUSED"}
        assert set(refused) == set(BAD)
        for number, (_, reason, field) in BAD.items():
            assert refused[number]["reason"] == reason
            assert refused[number]["fields"][0]["field"] == field
        created = [line for line in results if line["result"] == "CREATED"]
        assert len({line["user_id"] for line in created}) == len(created) == 10_000 - len(BAD)
        assert "10000 rows: created 9994, existing 0, refused 6." in first.stderr
        assert await crowd(remote_users, mark) == 9994

        assert "10000 rows: created 0, existing 9994, refused 6." in second.stderr
        again = {line["line"]: line.get("user_id") for line in reported(report)}
        assert again == {line["line"]: line.get("user_id") for line in results}
        assert await crowd(remote_users, mark) == 9994
        assert mark not in report.read_text() + first.stderr

    @LONG
    @pytest.mark.parametrize("options", [("--resume",), ()], ids=["resumed", "begun again"])
    async def test_killed_import_can_be_resumed_or_repeated(
        self, cli, tmp_path, surroundings, remote_users, server_url, mark, options
    ):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 10_000, BAD)
        report = tmp_path / "crowd.jsonl.report.jsonl"
        with in_the_way(server_url, person(mark, 6000)):
            killed = subprocess.Popen(  # noqa: ASYNC220 - it is watched by its report
                [COMMAND, "import", str(file)],
                cwd=tmp_path,
                env=environment(surroundings),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            until(lambda: report.exists() and report.read_text().count("\n") > 1500)
            killed.kill()
            assert killed.wait() == -signal.SIGKILL
        done = reported_whole(report)
        assert 1500 <= len(done) < 10_000

        ended = cli("import", str(file), *options, code=1)

        results = reported(report)
        assert [line["line"] for line in results] == list(range(1, 10_001))
        assert {line["line"] for line in results if line["result"] == "REFUSED"} == set(BAD)
        ids = [line["user_id"] for line in results if "user_id" in line]
        assert len(set(ids)) == len(ids) == 9994
        assert await crowd(remote_users, mark) == 9994
        count = Counter(line["result"] for line in results)
        assert f"created {count['CREATED']}, existing {count['EXISTS']}, refused 6." in ended.stderr
        if options:
            assert results[: len(done)] == done

    @LONG
    def test_import_survives_restart_of_server(self, postgres, tmp_path, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 10_000)
        report = tmp_path / "crowd.jsonl.report.jsonl"
        name = f"outlived_{os.getpid()}"
        given = {
            "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
            "TAMATAR_LISTEN": f"127.0.0.1:{free_port()}",
        }
        context = tmp_path / "contexts.toml"
        context.write_text(f'current = "x"\n[contexts.x]\naddress = "{given["TAMATAR_LISTEN"]}"\n')
        with in_the_way(given["TAMATAR_DATABASE_URL"], person(mark, 6000)):
            with serving(cwd=tmp_path, **given) as first:
                assert first.addresses
                importing = subprocess.Popen(
                    [COMMAND, "import", str(file), "--patience", "120"],
                    cwd=tmp_path,
                    env=environment({"TAMATAR_CONTEXTS_FILE": str(context)}),
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                until(lambda: report.exists() and report.read_text().count("\n") > 1500)
            assert importing.poll() is None
        with serving(cwd=tmp_path, **given) as second:
            assert second.addresses
            said = importing.communicate()[1]
        postgres.drop(name)

        assert importing.returncode == 0, said
        assert "Trying again: UNAVAILABLE" in said
        results = reported(report)
        assert [line["line"] for line in results] == list(range(1, 10_001))
        assert len({line["user_id"] for line in results}) == 10_000

    def test_import_resume_with_report_of_other_file_is_refused(self, cli, tmp_path, mark):
        report = tmp_path / "report.jsonl"
        one = write_crowd(tmp_path / "one.jsonl", mark, 2)
        other = write_crowd(tmp_path / "other.jsonl", mark, 3)
        cli("import", str(one), "--report", str(report))

        said = cli("import", str(other), "--report", str(report), "--resume", code=2).stderr

        assert "the report of another file" in said
        assert len(reported(report)) == 2

    async def test_import_resume_after_dry_run_is_refused(self, cli, tmp_path, remote_users, mark):
        file = str(write_crowd(tmp_path / "crowd.jsonl", mark, 2))
        cli("import", file, "--dry-run")

        assert "without --resume" in cli("import", file, "--resume", code=2).stderr
        cli("import", file)
        assert await crowd(remote_users, mark) == 2

    def test_import_resume_with_report_of_other_service_is_refused(
        self, cli, tmp_path, server_address, mark
    ):
        file = str(write_crowd(tmp_path / "crowd.jsonl", mark, 2))
        cli("import", file)
        contexts = tmp_path / "by_name.toml"
        by_name = server_address.replace("127.0.0.1", "localhost")
        contexts.write_text(f'[contexts.local]\naddress = "{by_name}"\n')

        given = {"TAMATAR_CONTEXTS_FILE": str(contexts)}
        assert "without --resume" in cli("import", file, "--resume", code=2, **given).stderr

    def test_import_during_outage_keeps_earlier_report(self, cli, tmp_path, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 3)
        cli("import", str(file))
        away = tmp_path / "away.toml"
        away.write_text('current = "away"\n[contexts.away]\naddress = "127.0.0.1:1"\n')

        given = {"TAMATAR_CONTEXTS_FILE": str(away)}
        said = cli("import", str(file), "--patience", "0", code=3, **given).stderr

        assert "127.0.0.1:1 does not answer" in said
        assert len(reported(tmp_path / "crowd.jsonl.report.jsonl")) == 3

    @LONG
    @pytest.mark.skipif(os.environ.get("SLOW_TESTS") != "1", reason="slow: set SLOW_TESTS=1")
    async def test_import_of_100000_users_succeeds(self, cli, tmp_path, remote_users, mark):
        file = write_crowd(tmp_path / "crowd.jsonl", mark, 100_000, BAD)

        said = cli("import", str(file), code=1).stderr

        assert "100000 rows: created 99994, existing 0, refused 6." in said
        assert len(reported(tmp_path / "crowd.jsonl.report.jsonl")) == 100_000
        assert await crowd(remote_users, mark) == 99_994
