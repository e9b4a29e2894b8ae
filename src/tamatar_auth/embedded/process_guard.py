"""The guard between a process and the server that it started, so that neither is left alone.

This file is both a module and a program. The program needs nothing but the standard library:

    python embedded_guard.py OWNER LOCK IDENTITY FAST IMMEDIATE COMMAND...

It runs COMMAND in a session of its own and watches its standard input, a pipe whose other end the
process OWNER holds. The byte `s` asks for a shutdown, `k` for a crash; the end of the pipe, or a
parent that is no longer OWNER, says that the owner is gone, which means a shutdown as well. SIGINT
is given FAST seconds, SIGQUIT after it IMMEDIATE seconds, then follows SIGKILL.

LOCK is a locked file with the pid of the owner, inherited by COMMAND: it stays locked until the
last process has ended, and the guard empties it when it begins to end them.
"""

import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a fast and then an immediate shutdown may take before the server is killed.
FAST_SECONDS, IMMEDIATE_SECONDS = 5.0, 6.0
# What the end of a server may take: more than both together.
STOP_TIMEOUT = 15.0
# How long a directory may look taken before it is: its owner may just have been killed.
LOCK_WAIT_SECONDS = 1.0

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS = 1, 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION, CAP_DAC_OVERRIDE = 0x20080522, 1
# What the user is called inside the namespace; outside, files and rights are as before.
NAMESPACE_ID = 1000

# All that the command inherits of the environment, which may hold the service's secrets.
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_LINUX = sys.platform == "linux"


class DirectoryInUseError(OSError):
    """Another process uses the directory."""


@contextmanager
def lock_directory(directory: Path) -> Iterator[int]:
    """Lock a directory; yield the descriptor that keeps the lock where it is inherited.

    Raises `DirectoryInUseError`, after some patience with an owner or a server that is ending.
    """
    path = directory / "lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        began = time.monotonic()
        while not _try_lock(file.fileno()):
            holder = _holder(path)
            if time.monotonic() - began > (LOCK_WAIT_SECONDS if holder else STOP_TIMEOUT):
                holder_label = f"process {holder}" if holder else "a server that does not end"
                raise DirectoryInUseError(
                    f"it is in use by {holder_label}; stop that, or choose another directory"
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def change_owner(tree: Path, identity: str) -> None:
    """Make the user of an identity ("UID:GID") the owner of a folder with all that is in it."""
    user, group = map(int, identity.split(":"))
    # The innermost first: what is given away may be closed afterwards.
    for path in reversed([tree, *tree.rglob("*")]):
        os.chown(path, user, group, follow_symlinks=False)


class GuardedProcess:
    """A command that runs under a guard."""

    def __init__(self, command: list[str], *, lock: int, identity: str, log: Path) -> None:
        self._owner = os.getpid()
        options = (self._owner, lock, identity, FAST_SECONDS, IMMEDIATE_SECONDS)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  this very file
                [sys.executable, "-I", "-S", __file__, *map(str, options), *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env={"LC_ALL": "C"} | {k: os.environ[k] for k in _INHERITED if k in os.environ},
                pass_fds=[lock],
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until the command ends by itself; return its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """Shut the command down and wait for its end."""
        self._request_end(b"s")

    def kill(self) -> None:
        """Kill the command and its children."""
        self._request_end(b"k")

    def _request_end(self, request: bytes) -> None:
        # A forked child that unwinds a `with` must not end the server of its parent.
        if os.getpid() != self._owner:
            return
        pipe = self._process.stdin
        if pipe and not pipe.closed:
            # Said, not only implied by the pipe's end, which a forked child may hold open.
            with suppress(BrokenPipeError), pipe:
                pipe.write(request)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def main(arguments: list[str]) -> int:
    """Run the command until it ends or is to be ended; return its exit status."""
    owner, lock, identity, fast, immediate, *command = arguments
    wake = _catch_signals()
    try:
        _switch_user(identity)
        process = subprocess.Popen(  # noqa: S603  the owner names the command
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[int(lock)],
            preexec_fn=_die_with_guard,  # noqa: PLW1509  the guard has no threads
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"could not run {command[0]} as {identity or 'this user'}: {error}\n")
        return 126
    request = _wait_for_request(process, int(owner), wake)
    if request is not None:
        # Whoever waits for the lock learns from the empty file that it is worth waiting.
        os.ftruncate(int(lock), 0)
        _shut_down(process, () if request == b"k" else (float(fast), float(immediate)))
    return process.wait()


def _switch_user(identity: str) -> None:
    """Stop being root: "namespace" enters a user namespace, "UID:GID" is another user.

    An empty identity changes nothing. Raises OSError where the system refuses.
    """
    if identity == "namespace":
        _enter_namespace(os.getuid(), os.getgid())
    elif identity:
        user, group = map(int, identity.split(":"))
        if _LINUX:
            _libc().prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        if _LINUX:
            _keep_dac_override()


def _enter_namespace(user: int, group: int) -> None:
    if not _LINUX or _libc().unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are refused")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NAMESPACE_ID} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NAMESPACE_ID} {group} 1")


def _keep_dac_override() -> None:
    # Binaries and data often lie below a home that only root may enter. This one capability of
    # root's is kept where root has it; where not, ordinary permissions decide.
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if _libc().capset(header, sets) == 0:
        _libc().prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _die_with_guard() -> None:
    if _LINUX:
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _catch_signals() -> int:
    """Return a descriptor that becomes readable with every signal, SIGCHLD among them."""
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler, since a signal that is ignored would stay ignored in the command.
        signal.signal(number, lambda *_: None)
    return wake


def _wait_for_request(process: "subprocess.Popen[bytes]", owner: int, wake: int) -> bytes | None:
    """Return what the owner asks for (nothing: it is gone), or None when the command ended."""
    while process.poll() is None:
        # A forked child of the owner keeps the pipe open: hence the look at the parent.
        ready, _, _ = select.select([0, wake], [], [], 0.5)
        if 0 in ready:
            return os.read(0, 1)
        if os.getppid() != owner:
            return b""
        if wake in ready:
            os.read(wake, 512)
    return None


def _shut_down(process: "subprocess.Popen[bytes]", timeouts: tuple[float, ...]) -> None:
    for number, seconds in zip((signal.SIGINT, signal.SIGQUIT), timeouts, strict=False):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    # Stopped first, so that it starts no other child while its children are killed.
    process.send_signal(signal.SIGSTOP)
    for child in _children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.kill()


def _children(pid: int) -> list[int]:
    """List the children of a process; none where the system does not tell.

    PostgreSQL's end by themselves too, as soon as they notice that the postmaster is gone.
    """
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listing.split()]


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> int | None:
    """Return the pid of the process that holds a lock, or None if it is gone."""
    try:
        pid = int(path.read_text())
    except ValueError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return pid


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
