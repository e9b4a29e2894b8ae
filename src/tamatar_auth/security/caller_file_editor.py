"""Edits the file of callers: adds, rotates and removes. Everything else in it stays unchanged.

The new file is checked and replaces the old one atomically. A server that reads the file at the
same time gets the old content or the new one.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomlkit

from tamatar_auth.files.atomic_write import write_atomically
from tamatar_auth.security.caller_file import MAX_VALID_TOKENS, CallersError, parse_callers
from tamatar_auth.security.callers import CallerToken, Role


class CallerFile:
    """A file of callers. Every method raises `CallersError` on failure."""

    def __init__(self, path: Path) -> None:
        # For a symbolic link, its target is replaced, not the link.
        self._path = path.resolve()

    def add(
        self,
        name: str,
        roles: Sequence[Role],
        token_lifetime: timedelta | None,
        *,
        spiffe_ids: Sequence[str] = (),
        dns_names: Sequence[str] = (),
    ) -> CallerToken | None:
        """Add a caller; return its token, or None if no token lifetime is given."""
        token = CallerToken.issue() if token_lifetime else None
        with self._edit() as callers:
            if name in callers:
                raise CallersError(f"{self._path}: there is a caller {name} already.")
            entry = tomlkit.table()
            entry["roles"] = [role.value for role in dict.fromkeys(roles)]
            for key, values in (("spiffe_ids", spiffe_ids), ("dns_names", dns_names)):
                if values:
                    entry[key] = list(values)
            if token and token_lifetime:
                entry["tokens"] = _token_array([(token.digest.hex(), _now() + token_lifetime)])
            callers[name] = entry
        return token

    def rotate(self, name: str, overlap: timedelta, token_lifetime: timedelta) -> CallerToken:
        """Add a token to a caller and return it; the current token expires after `overlap`.

        Without an overlap the current token stops working at once.
        """
        token, now = CallerToken.issue(), _now()
        with self._edit() as callers:
            entry = self._entry(callers, name)
            valid = [
                (str(known["sha256"]), min(known["expires"], now + overlap))
                for known in entry.get("tokens", ())
                if known["expires"] > now and overlap
            ]
            if len(valid) >= MAX_VALID_TOKENS:
                raise CallersError(
                    f"{self._path}: caller {name} has {len(valid)} valid tokens already: wait"
                    f" until {min(end for _, end in valid):%Y-%m-%d %H:%M} UTC, or end them both"
                    " with --overlap 0s."
                )
            entry["tokens"] = _token_array([*valid, (token.digest.hex(), now + token_lifetime)])
        return token

    def remove(self, name: str) -> None:
        """Remove a caller."""
        with self._edit() as callers:
            self._entry(callers, name)
            del callers[name]

    def _entry(self, callers: Any, name: str) -> Any:
        if name not in callers:
            raise CallersError(f"{self._path}: there is no caller {name}.")
        return callers[name]

    @contextlib.contextmanager
    def _edit(self) -> Iterator[Any]:
        """Yield the callers of the file; write the file if the block ends without an error."""
        with _lock_folder(self._path.parent):
            content = self._read_content()
            parse_callers(content, self._path)
            document = tomlkit.parse(content.decode())
            if "callers" not in document:
                document["callers"] = tomlkit.table(is_super_table=True)
            yield document["callers"]
            changed = tomlkit.dumps(document).encode()
            parse_callers(changed, self._path)
            try:
                write_atomically(self._path, changed)
            except OSError as error:
                raise CallersError(f"{self._path} cannot be written ({error.strerror}).") from None

    def _read_content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise CallersError(f"{self._path} cannot be read ({error.strerror}).") from None


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Lock out other editors: the second of two at once would undo the first's change."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CallersError(f"{folder} cannot be opened ({error.strerror}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _token_array(tokens: Sequence[tuple[str, datetime]]) -> Any:
    lines = tomlkit.array()
    for digest, expires in tokens:
        entry = tomlkit.inline_table()
        entry.update({"sha256": digest, "expires": expires})
        lines.append(entry)
    return lines.multiline(multiline=True)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
