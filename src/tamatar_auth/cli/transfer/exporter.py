"""Takes all users from a service, over connections that may break."""

import time
from collections.abc import Callable, Iterator, Sequence

from tamatar.auth.v1.user_service_pb2 import ExportedUser, ExportUsersRequest
from tamatar_auth.cli.transfer.importer import MAX_BACKOFF, MIN_BACKOFF, RETRY_TIMEOUT, is_transient
from tamatar_auth.client import AuthClient, AuthError
from tamatar_auth.client.backoff import Backoff


class UserExporter:
    """Reads users in the order of their ids."""

    def __init__(
        self,
        auth: AuthClient,
        *,
        after: str,
        password_hashes: bool,
        notify: Callable[[str], None],
        patience: float = RETRY_TIMEOUT,
    ) -> None:
        self._auth = auth
        self._password_hashes = password_hashes
        self._notify = notify
        self._patience = patience
        self.after = after
        """The last user that was read."""
        self.count = self.kept_passwords = 0
        """How many were read, and of how many the password stays where it is."""

    def users(self) -> Iterator[Sequence[ExportedUser]]:
        """Give the users as they come. Where the connection breaks, it goes on after the last."""
        last_progress, backoff = time.monotonic(), Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            try:
                for response in self._auth.users.ExportUsers(self._request()):
                    yield response.users
                    self._count(response.users)
                    last_progress = time.monotonic()
                    backoff.reset()
            except AuthError as error:
                if not is_transient(error) or time.monotonic() - last_progress > self._patience:
                    raise
                self._notify(f"Trying again: {error}")
            else:
                return
            time.sleep(backoff.next_delay())

    def _request(self) -> ExportUsersRequest:
        return ExportUsersRequest(
            after_user_id=self.after, include_password_hashes=self._password_hashes
        )

    def _count(self, users: Sequence[ExportedUser]) -> None:
        self.count += len(users)
        self.kept_passwords += sum(user.password_kept for user in users)
        self.after = users[-1].user.user_id
