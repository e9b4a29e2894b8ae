"""A world of its own for the rig: processes, networks and mounts that end with it.

The rig runs in new namespaces, so the kernel removes whatever is left: all processes when the first
one ends, then the networks and the file system in memory with all data.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RUN = Path("/run")
"""A file system in memory with the data of the rig, which nothing outside sees."""

PR_SET_PDEATHSIG = 1


def refusal() -> str:
    """Return why no namespaces can be made here, or an empty text."""
    try:
        tried = subprocess.run(
            [*_unshare(), "mount", "-t", "tmpfs", "none", RUN],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def run_isolated(command: Sequence[str]) -> int:
    """Run a command in new namespaces, and return its exit status.

    The end of this process, whatever its cause, ends all processes in there.
    """
    process = subprocess.Popen([*_unshare(), *command], preexec_fn=_die_with_parent)  # noqa: PLW1509
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        process.kill()
        process.wait()


def become_init() -> None:
    """Fork: the parent reaps orphans, as the first process must, and the child returns."""
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def mount_memory(hosts: Mapping[str, str]) -> None:
    """Mount an empty `/run`, and an `/etc/hosts` with these names and their addresses."""
    _do("mount", "-t", "tmpfs", "-o", "mode=755", "none", RUN)
    (RUN / "netns").mkdir()
    file = RUN / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
    file.write_text("\n".join(lines) + "\n")
    _do("mount", "--bind", file, "/etc/hosts")


def _unshare() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = ("--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
    return ["unshare", *as_root, *namespaces, "--"]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _do(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)
