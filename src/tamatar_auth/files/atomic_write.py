"""Replaces a file as a whole: a reader sees the old content or the new one, never a part."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file and flush it to the disk. Behind a symbolic link the target is replaced.

    The file gets the permissions `mode`. Without `mode` it keeps its owner and permissions, and
    a new file can be read by its owner alone. Raises `OSError`.
    """
    target = path.resolve()
    # A temporary file is created for its owner alone, so a secret is never readable by others.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is None:
                _copy_ownership(descriptor, target)
            else:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise


def _copy_ownership(descriptor: int, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        before = path.stat()
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, before.st_mode & 0o777)
