"""The files of callers and TLS credentials, which a server follows while it runs."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tamatar_auth.config.settings import Settings
from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.callers import Callers
from tamatar_auth.security.tls import TlsCredentials, TlsFiles


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """The callers and the TLS credentials, if they are configured."""

    callers: WatchedFiles[Callers] | None
    tls: WatchedFiles[TlsCredentials] | None

    @classmethod
    def load(cls, settings: Settings) -> "CredentialFiles":
        """Read the files that the settings name, or raise `OperatorError`."""
        callers, files = settings.callers_file, TlsFiles.find(settings.tls)
        return cls(
            callers=WatchedFiles("callers", [callers], lambda: read_callers(callers))
            if callers
            else None,
            tls=WatchedFiles("certificate", files.paths, files.read) if files else None,
        )

    @property
    def watched(self) -> Sequence[WatchedFiles[Any]]:
        """The values that are read again when their files change."""
        return [watched for watched in (self.callers, self.tls) if watched is not None]

    def reload_on_hangup(self) -> None:
        """Read the files again on SIGHUP.

        Without files SIGHUP ends the server, because a closed terminal sends it.
        """

        def request_reload() -> None:
            for watched in self.watched:
                watched.request_reload()

        if self.watched:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, request_reload)
