"""Takes all users from a service, over connections that may break."""

import random
import time
from collections.abc import Callable, Iterator, Sequence

from tamatar.auth.v1.user_service_pb2 import ExportedUser, ExportUsersRequest
from tamatar_auth.cli.transfer.importer import LONGEST_WAIT, PATIENCE, will_pass
from tamatar_auth.client import AuthClient, AuthError


class Receiver:
    """Reads users in the order of their ids."""

    def __init__(
        self,
        auth: AuthClient,
        *,
        after: str,
        password_hashes: bool,
        say: Callable[[str], None],
        patience: float = PATIENCE,
    ) -> None:
        self._auth = auth
        self._password_hashes = password_hashes
        self._say = say
        self._patience = patience
        self.after = after
        """The last user that was read."""
        self.count = self.kept = 0
        """How many were read, and of how many the password stays where it is."""

    def users(self) -> Iterator[Sequence[ExportedUser]]:
        """Give the users as they come. Where the connection breaks, it goes on after the last."""
        since, wait = time.monotonic(), 0.1
        while True:
            try:
                for answer in self._auth.users.ExportUsers(self._request()):
                    yield answer.users
                    self._count(answer.users)
                    since, wait = time.monotonic(), 0.1
            except AuthError as error:
                if not will_pass(error) or time.monotonic() - since > self._patience:
                    raise
                self._say(f"Trying again: {error}")
            else:
                return
            time.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter
            wait = min(2 * wait, LONGEST_WAIT)

    def _request(self) -> ExportUsersRequest:
        return ExportUsersRequest(
            after_user_id=self.after, include_password_hashes=self._password_hashes
        )

    def _count(self, users: Sequence[ExportedUser]) -> None:
        self.count += len(users)
        self.kept += sum(one.password_kept for one in users)
        self.after = users[-1].user.user_id
