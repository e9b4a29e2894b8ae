"""Who may call a server, and what its connections are encrypted with."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tamatar_auth.config.settings import Settings
from tamatar_auth.config.watched_files import Watched
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.callers import Callers
from tamatar_auth.security.tls import Tls, TlsFiles


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may call, and what calls are encrypted with; both follow their files."""

    callers: Watched[Callers] | None
    tls: Watched[Tls] | None

    @classmethod
    def of(cls, settings: Settings) -> "Admission":
        """Read the files that the settings name, or raise `OperatorError`."""
        callers, files = settings.callers_file, TlsFiles.of(settings)
        return cls(
            callers=Watched("callers", [callers], lambda: read_callers(callers))
            if callers
            else None,
            tls=Watched("certificate", files.paths, files.read) if files else None,
        )

    @property
    def watched(self) -> Sequence[Watched[Any]]:
        """What is read again when its files change."""
        return [watched for watched in (self.callers, self.tls) if watched is not None]

    def reload_on_hangup(self) -> None:
        """Read the files again when the process gets SIGHUP.

        Where there are none it ends the server, as whoever closes a terminal means it.
        """

        def ask() -> None:
            for watched in self.watched:
                watched.ask()

        if self.watched:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ask)
