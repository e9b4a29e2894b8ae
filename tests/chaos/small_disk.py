"""A file system of a few megabytes that can be filled, if this process may mount one."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x00020000
OPTIONS = ("-o", "size=64m,mode=0700")
LEAST = 4096
"""Bytes below which a file system counts as full."""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a small file system while the block runs; yield None if that is not permitted.

    Call it before there are threads, which would not see the mount. Only this process and its
    children see the mount, so it ends with them at the latest.
    """
    if not (_has_own_mounts() and _is_done("mount", "-t", "tmpfs", *OPTIONS, "none", str(folder))):
        yield None
        return
    try:
        yield folder
    finally:
        _is_done("umount", "--lazy", str(folder))


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill a file system while the block runs."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as filler:
        try:
            size = 1024 * 1024
            while size >= LEAST:
                try:
                    filler.write(bytes(size))
                except OSError:
                    size //= 2
            yield
        finally:
            path.unlink()


def _has_own_mounts() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    return is_root and libc.unshare(CLONE_NEWNS) == 0 and _is_done("mount", "--make-rprivate", "/")


def _is_done(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
