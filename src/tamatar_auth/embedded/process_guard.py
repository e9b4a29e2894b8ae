"""A program that runs a server and ends it when the server's owner exits.

It needs nothing but the standard library, and runs as

    python process_guard.py OWNER LOCK IDENTITY FAST IMMEDIATE COMMAND...

The guard runs COMMAND and watches its own standard input, a pipe that the process OWNER holds
open. The byte `s` requests a shutdown and `k` a kill. The end of the pipe, or a parent other than
OWNER, means that the owner has exited, and the guard shuts the command down. A shutdown sends
SIGINT, after FAST seconds SIGQUIT, and after IMMEDIATE more seconds SIGKILL.

LOCK is the descriptor of a locked file with the owner's pid. COMMAND inherits it, so the file stays
locked until the last process has exited. The guard empties the file when a shutdown begins.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS = 1, 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION, CAP_DAC_OVERRIDE = 0x20080522, 1

NAMESPACE_ID = 1000
"""The user id inside the namespace. Outside, files and rights are unchanged."""

_LINUX = sys.platform == "linux"


def main(arguments: list[str]) -> int:
    """Run the command until it exits or a shutdown is requested; return its exit status."""
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
        # A process that waits for the lock waits longer if the file is empty.
        os.ftruncate(int(lock), 0)
        _shut_down(process, () if request == b"k" else (float(fast), float(immediate)))
    return process.wait()


def _switch_user(identity: str) -> None:
    """Drop root: "namespace" enters a user namespace, "UID:GID" becomes another user.

    An empty identity changes nothing. Raise OSError if the system refuses.
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
    # Binaries and data are often below a home that only root may enter. The process keeps this
    # one capability of root. Without it, ordinary permissions decide.
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
    """Return a descriptor that becomes readable at every signal, SIGCHLD included."""
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN: the command would inherit it.
        signal.signal(number, lambda *_: None)
    return wake


def _wait_for_request(process: "subprocess.Popen[bytes]", owner: int, wake: int) -> bytes | None:
    """Return the owner's request, b"" if the owner has exited, or None if the command has."""
    while process.poll() is None:
        # A forked child of the owner may keep the pipe open, so the parent is checked too.
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
    # Stopped first, so that it starts no more children while its children are killed.
    process.send_signal(signal.SIGSTOP)
    for child in _children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.kill()


def _children(pid: int) -> list[int]:
    """Return the children of a process, or none if the system does not list them.

    PostgreSQL's children also exit when they notice that the postmaster is gone.
    """
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listing.split()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
