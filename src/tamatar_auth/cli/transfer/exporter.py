"""Reads all users from a service, over connections that may break."""

from collections.abc import Callable, Iterator, Sequence

from tamatar.auth.v1.user_service_pb2 import ExportedUser, ExportUsersRequest
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT, StreamRetries
from tamatar_auth.client import AuthClient, AuthError


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
        self._retries = StreamRetries(patience, notify)
        self.after = after
        """The id of the last user that was read."""
        self.count = self.kept_passwords = 0
        """The number of users that were read, and of passwords that the service did not export."""

    def users(self) -> Iterator[Sequence[ExportedUser]]:
        """Yield users in batches. A new stream continues after the last user of a broken one."""
        while True:
            try:
                for response in self._auth.users.ExportUsers(self._request()):
                    yield response.users
                    self._count(response.users)
                    self._retries.succeeded()
            except AuthError as error:
                self._retries.wait(error)
            else:
                return

    def _request(self) -> ExportUsersRequest:
        return ExportUsersRequest(
            after_user_id=self.after, include_password_hashes=self._password_hashes
        )

    def _count(self, users: Sequence[ExportedUser]) -> None:
        self.count += len(users)
        self.kept_passwords += sum(user.password_kept for user in users)
        self.after = users[-1].user.user_id
