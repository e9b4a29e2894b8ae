"""The messages that a status may have, and the texts that none may hold."""

from collections.abc import Iterator

import tamatar_auth.errors.sessions
import tamatar_auth.errors.storage
import tamatar_auth.errors.users  # noqa: F401 - defines the classes found below
from tamatar_auth.errors import Failure


def _failures(among: type[Failure]) -> Iterator[type[Failure]]:
    for failure in among.__subclasses__():
        yield failure
        yield from _failures(failure)


SENTENCES = frozenset(failure.message for failure in _failures(Failure))

TELLTALES = (
    *(b"psycopg", b"sqlalchemy", b"Traceback", b"alError", b"127.0.0.1", b"postgres://"),
    *(b"SELECT ", b"INSERT ", b"UPDATE ", b"DETAIL", b"uq_users", b"chaos", b"horse", b"tms_"),
)
