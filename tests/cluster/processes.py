"""The programs on the machines of the rig: etcd, Patroni with PostgreSQL, HAProxy."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.postgres import OLDEST_VERSION
from tests.cluster.isolation import RUN
from tests.cluster.network import inside
from tests.support.commands import BIN, ROOT, environment

DEPLOYED = ROOT / "deploy/patroni"
PASSWORD = "rig"

SOCKETS = Path("/var/run/postgresql").resolve()
"""The folder of sockets, of which each machine has its own."""

# PostgreSQL refuses to run as root, so the programs run as another user of a namespace.
_AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
_OWN_SOCKETS = ("sh", "-ec", f'mount --bind "$0" {SOCKETS}; exec "$@"')


class Process:
    """A program that can be started, frozen, killed and started again."""

    def __init__(self, command: Sequence[str | Path], log: Path, **env: str) -> None:
        self._command, self._log, self._env = command, log, env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.is_running:
            return
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C is for the rig alone.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._log.parent,
                env=environment(self._env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


class Node:
    """A machine with Patroni and its PostgreSQL."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = RUN / name
        sockets = self.folder / "sockets"
        sockets.mkdir(mode=0o700, parents=True)
        SOCKETS.mkdir(exist_ok=True)
        program = (*_AS_USER, BIN / "patroni", DEPLOYED / "patroni.yml")
        command = inside(name, *_OWN_SOCKETS, sockets, *program)
        log = self.folder / "patroni.log"
        self.patroni = Process(command, log, **node_environment(name))

    def patronictl(self, *arguments: str) -> None:
        """Run patronictl on the machine."""
        command = inside(self.name, BIN / "patronictl", "-c", DEPLOYED / "patroni.yml", *arguments)
        ended = subprocess.run(
            command,
            env=environment(node_environment(self.name)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def postgres_pids(self) -> list[int]:
        """Return the processes of PostgreSQL, its postmaster first."""
        try:
            postmaster = int((self.folder / "data/postmaster.pid").read_text().split()[0])
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        except (OSError, IndexError):
            return []
        return [postmaster, *map(int, children)]

    def kill_postgres(self) -> None:
        """Kill all processes of PostgreSQL."""
        signal_all(self.postgres_pids(), signal.SIGKILL)

    @contextlib.contextmanager
    def postgres_frozen(self) -> Iterator[None]:
        """Stop all processes of PostgreSQL while the block runs."""
        pids = self.postgres_pids()
        signal_all(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            signal_all(pids, signal.SIGCONT)


def node_environment(name: str) -> Mapping[str, str]:
    """Return the variables of `patroni.env` with the values of a machine of the rig."""
    installation = Installation.find(OLDEST_VERSION)
    assert installation is not None
    lines = (DEPLOYED / "patroni.env").read_text().splitlines()
    sample = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    folder = RUN / name
    ours = {
        "PATRONI_NAME": name,
        "PATRONI_POSTGRESQL_DATA_DIR": str(folder / "data"),
        "PATRONI_POSTGRESQL_BIN_DIR": str(installation.binaries),
        "PATRONI_POSTGRESQL_PGPASS": str(folder / "pgpass"),
    }
    env = {}
    for key, value in sample.items():
        is_password = key.endswith("_PASSWORD")
        env[key] = ours.get(key, PASSWORD if is_password else value.replace("pg1", name))
    return {**env, "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


def etcd() -> Process:
    """Return an etcd of one member."""
    folder = RUN / "etcd1"
    folder.mkdir(mode=0o700)
    options = {
        "name": "etcd1",
        "data-dir": folder / "data",
        "listen-client-urls": "http://0.0.0.0:2379",
        "advertise-client-urls": "http://etcd1:2379",
        "listen-peer-urls": "http://127.0.0.1:2380",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return Process(inside("etcd1", find("etcd"), *arguments), folder / "etcd.log")


def haproxy() -> Process:
    """Return HAProxy with a master process, which reloads at SIGUSR2."""
    command = (find("haproxy"), "-W", "-f", DEPLOYED / "haproxy.cfg")
    return Process(command, RUN / "haproxy.log")


def check_samples() -> None:
    """Raise `CalledProcessError` if Patroni or HAProxy does not accept its sample."""
    files = DEPLOYED / "haproxy.cfg", DEPLOYED / "patroni.yml"
    subprocess.run([find("haproxy"), "-c", "-q", "-f", files[0]], check=True, stdout=sys.stderr)
    subprocess.run(
        [*inside("pg1", *_AS_USER, BIN / "patroni", "--validate-config", files[1])],
        check=True,
        stdout=sys.stderr,
        env=environment(node_environment("pg1")),
    )


def missing_programs() -> list[str]:
    """Return the programs of the rig that are not installed."""
    needed = ("etcd", "haproxy", "ip", "unshare", str(BIN / "patroni"))
    return [name for name in needed if not _which(name)]


def find(program: str) -> str:
    """Return the path of an installed program."""
    found = _which(program)
    assert found, f"{program} is missing"
    return found


def signal_all(pids: Sequence[int], number: int) -> None:
    """Send a signal to processes, of which some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
